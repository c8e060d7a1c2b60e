// SPDX-License-Identifier: MIT OR Apache-2.0

//! Finds lines of Rust that are too long. rustfmt does not shorten every line. It leaves comments
//! unchanged, and also code with a string literal that it cannot break.

use crate::rust_source::{Kind, kinds};

/// The maximum length of a line in columns, which is `max_width` in rustfmt.toml.
pub const MAX: usize = 100;

/// Returns the numbers of the lines that are longer than [`MAX`]. A comment may be longer if it
/// contains a URL that reaches beyond the limit, and code may be longer if it contains a string
/// literal, because neither can be broken.
pub fn too_long(source: &str) -> Vec<usize> {
    let kinds = kinds(source);
    let mut start = 0;
    let mut long = Vec::new();
    for (index, line) in source.split('\n').enumerate() {
        let columns = line.chars().count();
        if columns > MAX && !is_excused(line, &kinds[start..start + columns]) {
            long.push(index + 1);
        }
        start += columns + 1;
    }
    long
}

/// Returns whether a line may be longer than [`MAX`], because it cannot be broken.
fn is_excused(line: &str, kinds: &[Kind]) -> bool {
    match kinds[MAX] {
        Kind::Comment => word_at(line, MAX).contains("://"),
        Kind::Code | Kind::Literal => kinds.contains(&Kind::Literal),
    }
}

/// Returns the word that contains the given column, which counts from 0.
fn word_at(line: &str, column: usize) -> &str {
    let at = line
        .char_indices()
        .nth(column)
        .map_or(line.len(), |(at, _)| at);
    let (before, after) = line.split_at(at);
    let start = before
        .rfind(char::is_whitespace)
        .map_or(0, |space| space + 1);
    let end = after.find(char::is_whitespace).unwrap_or(after.len());
    &line[start..at + end]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns a line that consists of `prefix` and one word, and is `columns` columns long.
    fn line(prefix: &str, columns: usize) -> String {
        let letters = columns - prefix.chars().count();
        prefix.to_owned() + &"x".repeat(letters)
    }

    #[test]
    fn a_line_of_a_hundred_columns_is_the_longest() {
        for prefix in ["", "// ", "/// é", "let x = "] {
            assert_eq!(too_long(&line(prefix, MAX)), [0; 0], "{prefix}");
            let source = format!("fn f() {{}}\n{}\n", line(prefix, MAX + 1));
            assert_eq!(too_long(&source), [2], "{prefix}");
        }
    }

    #[test]
    fn code_with_a_string_literal_may_be_longer() {
        let long = "x".repeat(MAX);
        for source in [
            format!("\"{long}\""),
            format!("f(\"a \\\" b\", {long})"),
            format!("f(b\"\", {long})"),
            format!("r#\"a\n\" {long}\n\"#"),
            format!("\"a\n// {long}\n\""),
        ] {
            assert_eq!(too_long(&source), [0; 0], "{source}");
        }
    }

    #[test]
    fn lookalikes_of_string_literals_are_not_excused() {
        let long = "x".repeat(MAX);
        for source in [
            format!("// \"{long}\""),
            format!("f('\"', {long})"),
            format!("f(b'\\'', '\\\\', {long})"),
            format!("f::<'a, 'b>({long})"),
            format!("r#for({long})"),
            format!("f(\"\"); // {long}"),
        ] {
            assert_eq!(too_long(&source), [1], "{source}");
        }
    }

    #[test]
    fn a_literal_ends_where_it_ends() {
        let long = format!("// {}", "x".repeat(MAX));
        for literal in [
            "\"\\\\\"",
            "\"\\\"\"",
            "r\"\\\"",
            "br##\"\"# \"##",
            "'\"'",
            "'\\u{22}'",
        ] {
            assert_eq!(too_long(&format!("{literal}\n{long}")), [2], "{literal}");
        }
    }

    #[test]
    fn a_url_in_a_comment_cannot_be_broken() {
        let url = line("//! See <https://example.com/", 2 * MAX);
        assert_eq!(too_long(&url), [0; 0]);
        assert_eq!(
            too_long(&format!("// https://a.example {}", "x ".repeat(MAX))),
            [1]
        );
    }
}
