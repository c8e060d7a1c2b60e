// SPDX-License-Identifier: MIT OR Apache-2.0

//! Reads values from a TOML document, and records the file, the line and the column of each
//! problem.

use std::{ops::Range, path::Path};

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::error::{ConfigError, Problem};
use crate::suggest::did_you_mean;

/// A parsed file, and the problems that have been found in it so far.
pub(super) struct Document<'a> {
    text: &'a str,
    name: String,
    root: DeTable<'a>,
    problems: Vec<(usize, Problem)>,
}

/// A table of the document, with its path.
#[derive(Clone)]
pub(super) struct Section<'a> {
    /// The path of the table, for example `policy` or `tiers.gold`. It is empty for the whole
    /// document.
    pub(super) path: String,
    /// The range of the table in the file, in bytes.
    pub(super) span: Range<usize>,
    table: DeTable<'a>,
}

/// A value, with its path and its place in the file.
#[derive(Clone)]
pub(super) struct Entry<'a> {
    /// The path of the value, for example `policy.mode`.
    pub(super) path: String,
    pub(super) span: Range<usize>,
    value: DeValue<'a>,
}

impl<'a> Document<'a> {
    pub(super) fn new(text: &'a str, path: Option<&Path>) -> Result<Self, ConfigError> {
        let name = path.map_or_else(
            || "command line".to_owned(),
            |path| path.display().to_string(),
        );
        match DeTable::parse(text) {
            Ok(root) => Ok(Self {
                text,
                name,
                root: root.into_inner(),
                problems: Vec::new(),
            }),
            Err(error) => {
                let span = error.span().unwrap_or(0..0);
                let at = format!("{name}:{}", position(text, span.start));
                let message = if error.message().contains("duplicate key") {
                    let key = text.get(span).unwrap_or_default();
                    format!("`{key}` is given twice: keep one of them")
                } else {
                    error.message().replace('\n', ": ")
                };
                Err(ConfigError::Invalid {
                    problems: vec![Problem { at, message }],
                })
            }
        }
    }

    pub(super) fn root(&self) -> Section<'a> {
        Section {
            path: String::new(),
            span: 0..0,
            table: self.root.clone(),
        }
    }

    /// Returns the file, the line and the column of the byte at `offset`.
    pub(super) fn at(&self, offset: usize) -> String {
        if self.text.is_empty() {
            return self.name.clone();
        }
        format!("{}:{}", self.name, position(self.text, offset))
    }

    pub(super) fn problem(&mut self, span: &Range<usize>, message: impl Into<String>) {
        let at = self.at(span.start);
        self.problems.push((
            span.start,
            Problem {
                at,
                message: message.into(),
            },
        ));
    }

    /// Adds a problem with a command-line option.
    pub(super) fn command_line_problem(&mut self, message: impl Into<String>) {
        let problem = Problem {
            at: "command line".to_owned(),
            message: message.into(),
        };
        self.problems.push((usize::MAX, problem));
    }

    /// Adds a problem for each entry of `section` whose name is not in `known`.
    pub(super) fn known(&mut self, section: &Section<'_>, known: &[&str]) {
        for key in section.table.keys() {
            let name: &str = key.get_ref();
            if known.contains(&name) {
                continue;
            }
            let path = join(&section.path, name);
            let what = if section.path.is_empty() {
                "section"
            } else {
                "entry"
            };
            let hint = did_you_mean(name, known.iter().copied());
            let message = if hint.is_empty() {
                format!(
                    "unknown {what} `{path}`: the known ones here are {}",
                    known.join(", ")
                )
            } else {
                format!("unknown {what} `{path}`{hint}")
            };
            self.problem(&key.span(), message);
        }
    }

    /// Returns the table `name` of `section`, if there is one.
    pub(super) fn section(&mut self, section: &Section<'a>, name: &str) -> Option<Section<'a>> {
        let entry = section.entry(name)?;
        match entry.value {
            DeValue::Table(table) => Some(Section {
                path: entry.path,
                span: entry.span,
                table,
            }),
            other => {
                let message = format!(
                    "`{}` must be a table, [{}], not {}",
                    entry.path,
                    entry.path,
                    a(other.type_str())
                );
                self.problem(&entry.span, message);
                None
            }
        }
    }

    /// Returns the string `name` of `section`, if there is one.
    pub(super) fn string(
        &mut self,
        section: &Section<'a>,
        name: &str,
    ) -> Option<(String, Entry<'a>)> {
        let entry = section.entry(name)?;
        let text = self.text_of(&entry)?;
        Some((text, entry))
    }

    /// Returns the string that is the value of an entry. Adds a problem if the value is not a
    /// string.
    pub(super) fn text_of(&mut self, entry: &Entry<'a>) -> Option<String> {
        if let DeValue::String(text) = &entry.value {
            return Some(text.clone().into_owned());
        }
        self.wrong_type(entry, "a string in quotes");
        None
    }

    /// Returns the whole number that is the value of an entry. Adds a problem if the value is not a
    /// whole number.
    pub(super) fn number_of(&mut self, entry: &Entry<'a>) -> Option<i64> {
        if let DeValue::Integer(number) = &entry.value
            && let Ok(value) = i64::from_str_radix(number.as_str(), number.radix())
        {
            return Some(value);
        }
        self.wrong_type(entry, "a whole number");
        None
    }

    /// Returns the whole number `name` of `section`, which must be in the range from `min` to
    /// `max`.
    pub(super) fn integer(
        &mut self,
        section: &Section<'a>,
        name: &str,
        min: u64,
        max: u64,
    ) -> Option<u64> {
        let entry = section.entry(name)?;
        let value = self.number_of(&entry)?;
        match u64::try_from(value) {
            Ok(value) if (min..=max).contains(&value) => Some(value),
            _ => {
                let message = format!(
                    "`{} = {value}` is out of range: give a number from {min} to {max}",
                    entry.path
                );
                self.problem(&entry.span, message);
                None
            }
        }
    }

    /// Returns the boolean `name` of `section`, if there is one.
    pub(super) fn boolean(&mut self, section: &Section<'a>, name: &str) -> Option<bool> {
        let entry = section.entry(name)?;
        if let DeValue::Boolean(value) = &entry.value {
            return Some(*value);
        }
        self.wrong_type(&entry, "true or false");
        None
    }

    /// Returns the elements of the array `name` of `section`, if there is one.
    pub(super) fn array(&mut self, section: &Section<'a>, name: &str) -> Option<Vec<Entry<'a>>> {
        let entry = section.entry(name)?;
        let DeValue::Array(array) = &entry.value else {
            self.wrong_type(&entry, "an array, like [\"…\"]");
            return None;
        };
        let elements = array
            .iter()
            .enumerate()
            .map(|(index, value)| Entry {
                path: format!("{}[{index}]", entry.path),
                span: value.span(),
                value: value.get_ref().clone(),
            })
            .collect();
        Some(elements)
    }

    /// Returns the value that `choices` has for the string `name` of `section`. Adds a problem if
    /// the string is not one of the words in `choices`.
    pub(super) fn choice<T: Copy>(
        &mut self,
        section: &Section<'a>,
        name: &str,
        choices: &[(&str, T)],
    ) -> Option<T> {
        let (text, entry) = self.string(section, name)?;
        if let Some((_, value)) = choices.iter().find(|(word, _)| *word == text) {
            return Some(*value);
        }
        let words: Vec<String> = choices
            .iter()
            .map(|(word, _)| format!("\"{word}\""))
            .collect();
        let message = format!(
            "`{} = \"{text}\"` is not one of {}",
            entry.path,
            words.join(", ")
        );
        self.problem(&entry.span, message);
        None
    }

    pub(super) fn wrong_type(&mut self, entry: &Entry<'_>, wanted: &str) {
        let message = format!(
            "`{}` must be {wanted}, not {}",
            entry.path,
            a(entry.value.type_str())
        );
        self.problem(&entry.span, message);
    }

    /// Returns an error if problems have been found. The error contains all problems, in the order
    /// in which they appear in the file.
    pub(super) fn finish(mut self) -> Result<(), ConfigError> {
        if self.problems.is_empty() {
            return Ok(());
        }
        self.problems.sort_by_key(|(offset, _)| *offset);
        let problems = self
            .problems
            .into_iter()
            .map(|(_, problem)| problem)
            .collect();
        Err(ConfigError::Invalid { problems })
    }
}

impl<'a> Section<'a> {
    /// Returns the entry `name`, if there is one.
    pub(super) fn entry(&self, name: &str) -> Option<Entry<'a>> {
        let value = self.table.get(name)?;
        Some(Entry {
            path: join(&self.path, name),
            span: value.span(),
            value: value.get_ref().clone(),
        })
    }

    /// Returns the names in this table, each with its range in the file.
    pub(super) fn names(&self) -> Vec<(String, Range<usize>)> {
        self.table
            .keys()
            .map(|key: &Spanned<_>| (key.get_ref().to_string(), key.span()))
            .collect()
    }
}

impl Entry<'_> {
    /// Returns whether the value is a string.
    pub(super) fn is_string(&self) -> bool {
        self.value.is_str()
    }
}

fn join(path: &str, name: &str) -> String {
    if path.is_empty() {
        name.to_owned()
    } else {
        format!("{path}.{name}")
    }
}

fn a(noun: &str) -> String {
    let article = if noun.starts_with(['a', 'i', 'o', 'u']) {
        "an"
    } else {
        "a"
    };
    format!("{article} {noun}")
}

/// Returns the line and the column of the byte at `offset` in `text` as `LINE:COLUMN`. Both start
/// at 1, and the column counts characters.
fn position(text: &str, offset: usize) -> String {
    let before = text.get(..offset.min(text.len())).unwrap_or(text);
    let line = before.matches('\n').count() + 1;
    let column = before.chars().rev().take_while(|c| *c != '\n').count() + 1;
    format!("{line}:{column}")
}
