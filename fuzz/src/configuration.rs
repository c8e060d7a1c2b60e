// SPDX-License-Identifier: MIT OR Apache-2.0

//! The parser of the configuration. Each error must state a position in the file, except for an
//! error about a missing entry.

use std::path::Path;

use limiter_daemon::config::{Config, ConfigError, Overlay};

const FILE: &str = "limiter.toml";

/// Parses a configuration.
///
/// # Panics
/// Panics if an error names neither the file nor a position in it, or if the file does not have the
/// line or the column that an error states. The error for a missing entry names only the file.
pub fn check(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else {
        return;
    };
    let problems = match Config::parse(text, Some(Path::new(FILE)), &Overlay::default()) {
        Ok(_) => return,
        Err(ConfigError::Invalid { problems }) => problems,
        Err(error) => panic!("the text is in memory, so that this error is impossible: {error}"),
    };
    assert!(!problems.is_empty(), "the error lists no problem");
    let lines: Vec<&str> = text.split('\n').collect();
    for problem in problems {
        assert!(!problem.message.is_empty(), "the problem has no message");
        if problem.at == FILE {
            continue;
        }
        let place = problem.at.strip_prefix(FILE).unwrap_or_default();
        let mut numbers = place.split(':').skip(1).map(str::parse::<usize>);
        let (Some(Ok(line)), Some(Ok(column)), None) =
            (numbers.next(), numbers.next(), numbers.next())
        else {
            panic!("the place has no line and column: {problem}");
        };
        let text = lines.get(line.wrapping_sub(1));
        let columns = text.map(|text| text.chars().count() + 1);
        assert!(
            columns.is_some_and(|columns| (1..=columns).contains(&column)),
            "the place is outside the file: {problem}"
        );
    }
}
