//! What is for people's eyes: colours, and the width that there is.
//!
//! Text carries its styles; `anstream` takes them out where standard output or error is no terminal,
//! or the environment asks for that (`NO_COLOR`, `CLICOLOR`, `TERM=dumb`).

use std::io;

use anstream::{AutoStream, ColorChoice};
use anstyle::{AnsiColor, Style};

/// The head line of a table.
pub(super) const HEAD: Style = Style::new().bold();
/// All is well.
pub(super) const GOOD: Style = AnsiColor::Green.on_default();
/// Not as it is usually, by somebody's wish.
pub(super) const NOTABLE: Style = AnsiColor::Yellow.on_default();
/// Somebody did something.
pub(super) const CHANGED: Style = AnsiColor::Cyan.on_default();
/// An operator has to do something.
pub(super) const BAD: Style = AnsiColor::Red.on_default().bold();

/// Text in a style; nothing but the text for the style of all other text.
pub(super) fn paint(style: Style, text: &str) -> String {
    format!("{style}{text}{style:#}")
}

/// Whether standard output takes colours: for what draws on it instead of printing.
pub(super) fn has_colours() -> bool {
    AutoStream::choice(&io::stdout()) != ColorChoice::Never
}

/// Columns of the terminal that standard output is, if it is one.
pub(super) fn width() -> Option<usize> {
    let (width, _height) = terminal_size::terminal_size_of(io::stdout())?;
    Some(usize::from(width.0))
}

/// A warning, on standard error.
pub(super) fn warn(text: &str) {
    anstream::eprintln!("limiter: {}: {text}", paint(NOTABLE, "warning"));
}
