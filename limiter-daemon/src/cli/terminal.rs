// SPDX-License-Identifier: MIT OR Apache-2.0

//! Colours, and the width of the terminal.
//!
//! Printed strings may contain the escape sequences of styles. `anstream` removes these sequences
//! if standard output or standard error is not a terminal, or if the environment disables styles
//! (`NO_COLOR`, `CLICOLOR`, `TERM=dumb`).

use std::io;

use anstream::{AutoStream, ColorChoice};
use anstyle::{AnsiColor, Style};

use crate::domain::plain::Shown;

/// The style of a table's heading.
pub(super) const HEAD: Style = Style::new().bold();
/// The style of a state in which everything works.
pub(super) const GOOD: Style = AnsiColor::Green.on_default();
/// The style of something unusual that is not a fault, for example a disabled key or a refusal.
pub(super) const NOTABLE: Style = AnsiColor::Yellow.on_default();
/// The style of a change by an operator.
pub(super) const CHANGED: Style = AnsiColor::Cyan.on_default();
/// The style of a state that requires an operator's action.
pub(super) const BAD: Style = AnsiColor::Red.on_default().bold();

/// Returns `text` enclosed in the escape sequences of `style`. The default style has no escape
/// sequences, and leaves `text` unchanged.
pub(super) fn paint(style: Style, text: &str) -> String {
    format!("{style}{text}{style:#}")
}

/// Returns whether standard output supports colours. Code that draws on the terminal has to check
/// this itself, because `anstream` filters only printed text.
pub(super) fn has_colours() -> bool {
    AutoStream::choice(&io::stdout()) != ColorChoice::Never
}

/// Returns the width of standard output in columns, if it is a terminal.
pub(super) fn width() -> Option<usize> {
    let (width, _height) = terminal_size::terminal_size_of(io::stdout())?;
    Some(usize::from(width.0))
}

/// Prints a warning on standard error.
pub(super) fn warn(text: &str) {
    let text = Shown(text);
    anstream::eprintln!("limiter: {}: {text}", paint(NOTABLE, "warning"));
}
