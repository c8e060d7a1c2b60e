//! Colour, where it is wanted: on terminals, and not with `NO_COLOR` (no-color.org).

use std::io::{self, IsTerminal as _};

/// Whether what is printed may have colours.
pub(super) fn is_wanted() -> bool {
    io::stdout().is_terminal() && is_allowed()
}

/// Whether a terminal may have colours.
pub(super) fn is_allowed() -> bool {
    let refused = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
    !refused && !dumb
}

/// A colour of every terminal (ECMA-48, SGR 30 to 37).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Colour {
    Red = 31,
    Green = 32,
    Yellow = 33,
    Cyan = 36,
}

/// `text` in a colour, if colours are wanted.
pub(super) fn paint(text: &str, colour: Colour, wanted: bool) -> String {
    if wanted {
        format!("\x1b[{}m{text}\x1b[0m", colour as u8)
    } else {
        text.to_owned()
    }
}
