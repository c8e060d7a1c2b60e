// SPDX-License-Identifier: MIT OR Apache-2.0

//! The command line as it was typed, before clap parses it.

use std::{collections::BTreeSet, ffi::OsString, process::ExitCode};

use clap::{Command, CommandFactory as _, Parser as _};

use super::args::Cli;
use crate::domain::plain;

/// Parses the command line. If the command line is invalid, or asks for help or the version, this
/// function prints clap's text.
///
/// # Errors
/// Returns the exit status, which is 2 for usage errors and 0 for `--help`, as in clap.
pub(super) fn parse() -> Result<Cli, ExitCode> {
    try_parse(std::env::args_os()).map_err(|error| {
        // The text quotes the command line. Invisible characters in it, for example from a
        // clipboard, are escaped.
        let plain = error.render().to_string();
        let shown = plain::shown_lines(&plain);
        if shown == plain {
            // If printing fails, there is no other place to report it.
            let _unprinted = error.print();
        } else {
            eprint!("{shown}");
        }
        u8::try_from(error.exit_code()).map_or(ExitCode::FAILURE, ExitCode::from)
    })
}

pub(super) fn try_parse(words: impl IntoIterator<Item = OsString>) -> clap::error::Result<Cli> {
    Cli::try_parse_from(joined(words, &with_values(&Cli::command())))
}

/// Joins a value that begins with a hyphen to the option before it, as in `--daily-quota=-1`. clap
/// would report an unknown option if the value were a separate word. For a joined value, the error
/// states the valid values. A word is joined only if a digit, a point or a blank follows its
/// hyphen, because no option of limiter begins like that.
fn joined(
    words: impl IntoIterator<Item = OsString>,
    options: &BTreeSet<String>,
) -> impl Iterator<Item = OsString> {
    let mut words = words.into_iter().peekable();
    std::iter::from_fn(move || {
        let mut word = words.next()?;
        let takes_value = word.to_str().is_some_and(|word| options.contains(word));
        if takes_value && let Some(value) = words.next_if(is_value) {
            word.push("=");
            word.push(value);
        }
        Some(word)
    })
}

fn is_value(word: &OsString) -> bool {
    let rest = word.to_str().and_then(|word| word.strip_prefix('-'));
    rest.is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit() || c == '.' || c == ' '))
}

/// Returns the names of all options, of any command, that take a value.
fn with_values(command: &Command) -> BTreeSet<String> {
    let options = command
        .get_arguments()
        .filter(|argument| argument.get_action().takes_values())
        .filter_map(|argument| Some(format!("--{}", argument.get_long()?)));
    let below = command.get_subcommands().flat_map(with_values);
    options.chain(below).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message_for(line: &str) -> String {
        let words = shlex::split(line).unwrap();
        let parsed = try_parse(words.into_iter().map(OsString::from));
        parsed.map_or_else(|error| error.to_string(), |_| "parsed".to_owned())
    }

    #[test]
    fn a_word_with_a_hyphen_is_a_value_if_it_cannot_be_an_option() {
        for (arguments, wanted) in [
            (
                "limits set a --daily-quota -1 --note x",
                "`-1` is not a valid daily_quota: give a whole number from 0 to 2147483647, or `unlimited`",
            ),
            (
                "limits set a --daily-quota -1.5 --note x",
                "`-1.5` is not a valid daily_quota",
            ),
            (
                "limits set a --daily-quota=-1 --note x",
                "`-1` is not a valid daily_quota",
            ),
            (
                "limits set a --daily-quota 1.5 --note x",
                "`1.5` is not a valid daily_quota",
            ),
            (
                "limits set a --daily-quota 99999999999999999999 --note x",
                "from 0 to 2147483647",
            ),
            (
                "limits set a --burst -1 --note x",
                "`-1` is not a valid burst: give a whole number from 1 to 1000000",
            ),
            (
                "limits set a --burst unlimited --note x",
                "`unlimited` is not a valid burst",
            ),
            (
                "limits set a --concurrency -.5 --note x",
                "`-.5` is not a valid concurrency",
            ),
            (
                "limits set a --connections -0 --note x",
                "`-0` is not a valid connections",
            ),
            (
                "limits set a --rate -1/s --note x",
                "`-1/s` is not a valid rate",
            ),
            (
                "limits set a --rate 0/s --note x",
                "has 0 requests in a window: give a number from 1 to 1000000",
            ),
            (
                "limits set a --rate 1/0ms --note x",
                "is out of range: give one from 1ms to 1440min",
            ),
            (
                "limits set a --rate 1/s --until -1d --note x",
                "`-1d` is in the past",
            ),
            (
                "limits set a --rate 1/s --until 2020 --note x",
                "`2020` is not a time: write 2026-12-31",
            ),
            (
                "limits set a --rate 1/s --until 2020-01-01 --note x",
                "is in the past",
            ),
            (
                "limits set a --rate 1/s --until 9999999d --note x",
                "after the year 9999",
            ),
            (
                "limits set a --rate 1/s --until never --note '-5 of them'",
                "parsed",
            ),
            (
                "limits set a --rate --note x",
                "a value is required for '--rate",
            ),
            (
                "limits set a --rate 1/s --note --json",
                "a value is required for '--note",
            ),
            ("audit --since -1d", "parsed"),
            ("audit --since -99999999999d", "parsed"),
            ("audit --limit -1", "-1 is not in 1..="),
            ("events --limit -1", "-1 is not in 0..="),
            ("usage --date -1d", "write today or yesterday"),
            (
                "usage --date 2026-02-30",
                "`2026-02-30` is not a day of the calendar",
            ),
            ("usage --date yesterday", "parsed"),
            ("run --port -1", "-1 is not in 0..=65535"),
            ("key create a --label '- none -'", "parsed"),
            (
                "key create a --label a\u{202e}b",
                "the label has U+202E as its character 2",
            ),
            (
                "reset a --note a\u{200b}",
                "the note has U+200B as its character 2",
            ),
            (
                "reset a --note \u{feff}a",
                "the note has U+FEFF as its character 1",
            ),
            (
                "scope add a\u{2066}b",
                r"`a\u{2066}b` has U+2066 as its character 2",
            ),
        ] {
            let message = message_for(&format!("limiter {arguments}"));
            assert!(message.contains(wanted), "{arguments}: {message}");
        }
    }
}
