// SPDX-License-Identifier: MIT OR Apache-2.0

//! The examples on the pages of `docs/`, which operators copy into files and shells.
//!
//! A fenced block belongs to an example if its info string has attributes after the language.
//! `example=NAME` names the example. One of two further attributes states what the block is: with
//! `file=PATH`, it is the content of the file PATH; with `run=NAME`, it consists of commands to
//! type, and NAME is the name of the block. If the example has several hosts, `host=NAME` names the
//! host.

use std::{collections::BTreeMap, fs, path::Path};

/// A fenced block that belongs to an example.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Block {
    attributes: BTreeMap<String, String>,
    pub text: String,
}

impl Block {
    fn get(&self, name: &str) -> Option<&str> {
        self.attributes.get(name).map(String::as_str)
    }
}

/// The blocks of one example.
#[derive(Debug)]
pub struct Example {
    name: String,
    blocks: Vec<Block>,
}

impl Example {
    /// Returns the example `name` from `page`, which is the file name of the README or of a page of
    /// `docs/`.
    ///
    /// # Panics
    /// Panics if there is no example with this name.
    #[track_caller]
    pub fn of(page: &str, name: &str) -> Self {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let path = match page {
            "README.md" => root.join(page),
            _ => root.join("docs").join(page),
        };
        let text = fs::read_to_string(&path)
            .unwrap_or_else(|error| panic!("cannot read {}: {error}", path.display()));
        let blocks: Vec<Block> = parse(&text)
            .into_iter()
            .filter(|block| block.get("example") == Some(name))
            .collect();
        assert!(!blocks.is_empty(), "{page} has no example {name}");
        Self {
            name: name.to_owned(),
            blocks,
        }
    }

    /// Returns the path and the content of each file of `host`. If `host` is `None`, the example
    /// must have only one host.
    #[track_caller]
    pub fn files(&self, host: Option<&str>) -> Vec<(&str, &str)> {
        let files: Vec<_> = self
            .blocks
            .iter()
            .filter(|block| block.get("host") == host)
            .filter_map(|block| Some((block.get("file")?, block.text.as_str())))
            .collect();
        assert!(!files.is_empty(), "no files of {host:?} in {}", self.name);
        files
    }

    /// Returns the commands of the block `name`.
    ///
    /// # Panics
    /// Panics unless there is exactly one such block.
    #[track_caller]
    pub fn run(&self, name: &str) -> &str {
        let mut found = self
            .blocks
            .iter()
            .filter(|block| block.get("run") == Some(name));
        let block = found.next();
        assert!(found.next().is_none(), "{}: {name} occurs twice", self.name);
        let block = block.unwrap_or_else(|| panic!("{} runs no {name}", self.name));
        &block.text
    }

    /// Returns the names of all blocks of commands, in the order of the page.
    pub fn runs(&self) -> Vec<&str> {
        self.blocks
            .iter()
            .filter_map(|block| block.get("run"))
            .collect()
    }
}

/// Returns the commands in a transcript, each with its output. A command is a line that begins with
/// `$ `.
pub fn transcript(text: &str) -> Vec<(String, String)> {
    let mut steps: Vec<(String, String)> = Vec::new();
    for line in text.lines() {
        match (line.strip_prefix("$ "), steps.last_mut()) {
            (Some(command), _) => steps.push((command.to_owned(), String::new())),
            (None, Some((_, printed))) => {
                printed.push_str(line);
                printed.push('\n');
            }
            (None, None) => panic!("a transcript begins with a command, not with {line:?}"),
        }
    }
    steps
}

/// Returns the blocks on a page that have attributes.
fn parse(text: &str) -> Vec<Block> {
    let mut blocks = Vec::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        let Some(info) = line.strip_prefix("```") else {
            continue;
        };
        let content: Vec<&str> = lines.by_ref().take_while(|line| *line != "```").collect();
        let attributes: BTreeMap<String, String> = info
            .split_whitespace()
            .filter_map(|word| word.split_once('='))
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect();
        if !attributes.is_empty() {
            let text = content.iter().flat_map(|line| [*line, "\n"]).collect();
            blocks.push(Block { attributes, text });
        }
    }
    blocks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_blocks_with_attributes_are_found() {
        let page = "# A\n\n```toml example=a file=/etc/x\nb = 1\n```\n\n```\nnot\n```\n";
        let blocks = parse(page);
        assert_eq!(blocks.len(), 1);
        assert_eq!(blocks[0].get("file"), Some("/etc/x"));
        assert_eq!(blocks[0].text, "b = 1\n");
    }

    #[test]
    fn transcript_is_split_into_commands_and_output() {
        let steps = transcript("$ a\n1\n2\n$ b\n");
        let expected = [("a", "1\n2\n"), ("b", "")];
        assert_eq!(steps, expected.map(|(a, b)| (a.to_owned(), b.to_owned())));
    }
}
