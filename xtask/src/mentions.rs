// SPDX-License-Identifier: MIT OR Apache-2.0

//! Checks the names of source files in comments and documents. Each of these files must exist.

use std::collections::BTreeSet;

/// The ending of the file names that are checked.
const ENDING: &str = ".rs";

/// Returns the file names in a text that match none of the paths `files`, each with the number of
/// its line, counted from 1. A name matches a path that ends with the name.
pub fn unknown(name: &str, text: &str, files: &BTreeSet<&str>) -> Vec<(usize, String)> {
    let is_document = name.ends_with(".md");
    let lines = text.lines().enumerate();
    let comments = lines.filter(|(_, line)| is_document || line.trim_start().starts_with("//"));
    let mentions =
        comments.flat_map(|(at, line)| mentioned(line).map(move |name| (at + 1, name.to_owned())));
    mentions
        .filter(|(_, name)| !is_known(name, files))
        .collect()
}

/// Returns the words of a line that look like the path of a source file.
fn mentioned(line: &str) -> impl Iterator<Item = &str> {
    let is_part = |letter: char| letter.is_ascii_alphanumeric() || "_-./".contains(letter);
    line.split(move |letter| !is_part(letter))
        .map(|word| word.trim_end_matches(['.', '-', '/']))
        .filter(|word| {
            word.strip_suffix(ENDING)
                .is_some_and(|stem| !stem.is_empty())
        })
}

fn is_known(mentioned: &str, files: &BTreeSet<&str>) -> bool {
    let path = mentioned.trim_start_matches("../").trim_start_matches("./");
    files.iter().any(|file| {
        let before = file.strip_suffix(path);
        before.is_some_and(|before| before.is_empty() || before.ends_with('/'))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_missing_files_are_found() {
        let files = ["a/src/flow.rs"].into();
        let text = "// See `flow.rs`, `src/flow.rs` and `gone.rs`.\nlet path = \"other.rs\";\n";
        assert_eq!(unknown("b.rs", text, &files), [(1, "gone.rs".to_owned())]);
        let text = "In [flow](../a/src/flow.rs), `low.rs` and `*.rs`.\n";
        assert_eq!(unknown("b.md", text, &files), [(1, "low.rs".to_owned())]);
    }
}
