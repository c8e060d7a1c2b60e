// SPDX-License-Identifier: MIT OR Apache-2.0

//! Reads a file of keys with the columns `scope` and `key` and the optional columns `label` and
//! `tier`.
//!
//! The file is read without access to the store and the kernel, and the daemon can therefore do
//! other work at the same time.

use std::collections::{BTreeMap, HashMap};

use limiter_common::{abi::Digest, siphash};

use super::{
    csv_rows::{COLUMNS, RowError, Rows, separator},
    lifecycle::check_label,
};
use crate::{
    domain::{
        key::{self, KeyError},
        scope::{ScopeName, ScopeNameError},
    },
    protocol::{error::ApiError, views::ImportPhase},
};
use thiserror::Error;

/// The maximum number of problems that are reported in full. Further problems are only counted.
pub(crate) const REPORTED: usize = 20;
/// The number of keys between two calls of [`Progress`].
pub(crate) const STRIDE: usize = 4096;

/// A function that receives the progress of an import: the phase, the amount done, and the total of
/// the phase.
pub(crate) type Progress<'a> = &'a dyn Fn(ImportPhase, u64, u64);

/// The contents of a file of keys.
pub(crate) struct KeyFile {
    /// The scopes that the file names, each listed once.
    pub(crate) scopes: Vec<ScopeName>,
    pub(crate) lines: Vec<Line>,
    /// The problems found so far. Lines with a problem are not in `lines`.
    pub(crate) problems: Problems,
}

/// One key of the file.
pub(crate) struct Line {
    /// The number of the line in the file, starting at 1.
    pub(crate) line: u64,
    /// The index of the scope in [`KeyFile::scopes`].
    pub(crate) scope: usize,
    /// The digest by which the kernel identifies the key. The key itself is not kept.
    pub(crate) digest: Digest,
    /// The id of the key.
    pub(crate) id: String,
    pub(crate) label: Option<String>,
    pub(crate) tier: Option<String>,
}

/// The problems of a file by line. The first [`REPORTED`] problems are kept in full, and the others
/// are only counted.
#[derive(Debug, Default)]
pub(crate) struct Problems {
    reported: BTreeMap<u64, ApiError>,
    others: u64,
}

impl Problems {
    pub(crate) fn is_empty(&self) -> bool {
        self.reported.is_empty()
    }

    /// Returns the lines whose problems are reported in full.
    pub(crate) fn lines(&self) -> impl Iterator<Item = u64> {
        self.reported.keys().copied()
    }

    /// Records the problem of a line. `problem` is called only if the problem is reported in full.
    pub(crate) fn note(&mut self, line: u64, problem: impl FnOnce() -> ApiError) {
        if self.reported.len() == REPORTED {
            self.others += 1;
            if self
                .reported
                .last_key_value()
                .is_none_or(|(last, _)| line > *last)
            {
                return;
            }
            self.reported.pop_last();
        }
        self.reported.insert(line, problem());
    }

    /// Returns all problems as one error, or `None` if there are none.
    pub(crate) fn into_error(self) -> Option<ApiError> {
        let kind = self.reported.values().next()?.kind;
        let mut lines: Vec<String> = self
            .reported
            .iter()
            .map(|(line, problem)| format!("line {line}: {}", problem.message))
            .collect();
        if self.others > 0 {
            lines.push(format!("and {} more", self.others));
        }
        Some(ApiError {
            kind,
            message: lines.join("\n"),
        })
    }
}

/// The reason why a line is refused. No message contains a key.
#[derive(Debug, Error)]
enum LineError {
    #[error(transparent)]
    Row(RowError),
    // The message does not quote the value, which is a key if the columns are in the wrong order.
    #[error("the scope {}", .0.why())]
    Scope(ScopeNameError),
    #[error("the scope is a key: are the columns `scope` and `key` mixed up?")]
    MixedUp,
    #[error(transparent)]
    Key(KeyError),
    #[error("the same key as on line {0}")]
    Twice(u64),
}

impl From<LineError> for ApiError {
    fn from(error: LineError) -> Self {
        Self::invalid_key(error.to_string())
    }
}

/// Reads the whole file, including the lines after a line with a problem.
///
/// # Errors
/// Returns an error if the first line does not name the columns, or if the system provides no
/// random numbers for ids.
pub(crate) fn read(
    text: &[u8],
    secret: [u64; 2],
    progress: Progress<'_>,
) -> Result<KeyFile, ApiError> {
    let mut rows = Rows::open(text).map_err(ApiError::invalid_key)?;
    let mut file = Reading::default();
    while let Some((line, row)) = rows.next() {
        let read = match row {
            Ok(Some(cells)) => file.line(line, cells, secret),
            Ok(None) => Ok(()),
            Err(error) => Err(LineError::Row(error).into()),
        };
        if let Err(problem) = read {
            file.problems.note(line, || problem);
        }
        if file.lines.len().is_multiple_of(STRIDE) {
            progress(ImportPhase::Reading, rows.done(), rows.all());
        }
    }
    Ok(KeyFile {
        scopes: file.scopes,
        lines: file.lines,
        problems: file.problems,
    })
}

/// The state while a file is being read.
#[derive(Default)]
struct Reading {
    scopes: Vec<ScopeName>,
    /// The index of each scope, by name.
    indexes: HashMap<String, usize>,
    lines: Vec<Line>,
    /// The number of the first line with each key.
    first: HashMap<Digest, u64>,
    problems: Problems,
}

impl Reading {
    fn line(
        &mut self,
        line: u64,
        [scope, key, label, tier]: [&str; COLUMNS.len()],
        secret: [u64; 2],
    ) -> Result<(), ApiError> {
        let scope = match self.indexes.get(scope) {
            Some(index) => *index,
            None => {
                if let Some(found) = separator(scope) {
                    return Err(LineError::Row(RowError::Separator(found)).into());
                }
                if scope.starts_with(key::PREFIX) && key::validate(scope).is_ok() {
                    return Err(LineError::MixedUp.into());
                }
                let name = scope.parse().map_err(LineError::Scope)?;
                self.indexes.insert(scope.to_owned(), self.scopes.len());
                self.scopes.push(name);
                self.scopes.len() - 1
            }
        };
        key::validate(key).map_err(LineError::Key)?;
        let optional = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
        let label = optional(label);
        // `check_label` returns the error for a label in a command. The kind is changed, because
        // this label is in the file.
        check_label(label.as_deref()).map_err(|error| ApiError::invalid_key(error.message))?;
        let digest = siphash::siphash128(secret, key.as_bytes());
        if let Some(first) = self.first.get(&digest) {
            return Err(LineError::Twice(*first).into());
        }
        self.first.insert(digest, line);
        self.lines.push(Line {
            line,
            scope,
            digest,
            id: key::generate_id()?,
            label,
            tier: optional(tier),
        });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: impl AsRef<[u8]>) -> Result<KeyFile, ApiError> {
        super::read(text.as_ref(), [1, 2], &|_, _, _| ())
    }

    fn error(text: impl AsRef<[u8]>) -> String {
        let error = match read(text) {
            Ok(file) => file.problems.into_error(),
            Err(error) => Some(error),
        };
        error.map(|error| error.message).unwrap_or_default()
    }

    #[test]
    fn columns_come_in_any_order_and_two_are_optional() {
        let file = read("key,scope\nk1,acme\nk2,acme/web\nk3,acme\n").unwrap();
        let scopes: Vec<&str> = file.scopes.iter().map(ScopeName::as_str).collect();
        assert_eq!(scopes, ["acme", "acme/web"]);
        let lines: Vec<_> = file
            .lines
            .iter()
            .map(|line| (line.line, line.scope))
            .collect();
        assert_eq!(lines, [(2, 0), (3, 1), (4, 0)]);
        assert_eq!(file.lines[1].digest, siphash::siphash128([1, 2], b"k2"));
        let lines = read("scope,key,label,tier\nacme,k1,\"a, b\",gold\nacme,k2,,\n")
            .unwrap()
            .lines;
        assert_eq!(lines[0].label.as_deref(), Some("a, b"));
        assert_eq!(lines[0].tier.as_deref(), Some("gold"));
        assert_eq!((&lines[1].label, &lines[1].tier), (&None, &None));
    }

    #[test]
    fn trailing_optional_columns_may_be_left_out() {
        let lines = read("scope,key,label,tier\nacme,k1\nacme,k2,l\nacme,k3,l,gold\n")
            .unwrap()
            .lines;
        let optional: Vec<_> = lines
            .iter()
            .map(|line| (line.label.as_deref(), line.tier.as_deref()))
            .collect();
        assert_eq!(
            optional,
            [(None, None), (Some("l"), None), (Some("l"), Some("gold"))]
        );
    }

    #[test]
    fn a_row_may_end_before_a_column_without_a_name() {
        let lines = read("scope,key,,label\nacme,k1,,l\nacme,k2\nacme,k3,\n")
            .unwrap()
            .lines;
        let labels: Vec<_> = lines.iter().map(|line| line.label.as_deref()).collect();
        assert_eq!(labels, [Some("l"), None, None]);
    }

    #[test]
    fn errors_name_the_line_and_never_the_key() {
        for (text, wanted) in [
            (
                "",
                "line 1: the columns are `scope,key`, with `label` and `tier` if wanted; `scope` is missing",
            ),
            (
                "scope,key,labl\n",
                "`labl` is none of them (did you mean `label`?)",
            ),
            ("scope,key,key\n", "`key` is there twice"),
            ("scope\nacme\n", "`key` is missing"),
            (
                "scope,key\nacme,SECRET\nacme\n",
                "line 3: has 1 columns instead of 2",
            ),
            (
                "label,scope,key,tier\nl,acme\n",
                "line 2: has 2 columns instead of 3 to 4",
            ),
            (
                "scope,key,label\nacme,k,l,SECRET\n",
                "line 2: has 4 columns instead of 2 to 3",
            ),
            (
                "scope,key\nac me,SECRET\n",
                "line 2: the scope is not a valid scope: write an account like `acme`",
            ),
            ("scope,key\nacme,\n", "line 2: the key is empty"),
            (
                "scope,key\nacme,SECRET x\n",
                "line 2: the key has white space",
            ),
            (
                "scope,key\nacme,SECRET\nbeta,b\nzeta,SECRET\n",
                "line 4: the same key as on line 2",
            ),
        ] {
            let message = error(text);
            assert!(message.contains(wanted), "{text:?}: {message}");
            assert!(!message.contains("SECRET"), "{message}");
        }
        assert!(error(b"scope,key\nacme,\xff\n").contains("line 2: is not UTF-8"));
        assert!(error(b"scope,\xff\n").contains("line 1: the columns are"));
    }

    #[test]
    fn files_are_taken_as_spreadsheets_write_them() {
        for text in [
            "Scope,KEY\nacme,k1\n",
            " scope , Key \r\n acme , k1 \r\n",
            "\u{feff}scope,key\nacme,k1\n",
            "\u{feff}\"Scope\",\"Key\"\r\n\"acme\",\"k1\"\r\n",
            "scope,key,,\nacme,k1,,\n",
            "scope,key\nacme,k1,,,,\n",
            "scope,key,label,tier,,\r\nacme,k1,,,,\r\n,,,,,\r\n   \r\n\r\n, ,\r\n",
            "scope,,key\nacme,,k1\n",
            ",,\nscope,key\nacme,k1\n",
            "\n\nscope,key\n\nacme,k1\n\n",
            "sep=,\r\nscope,key\r\nacme,k1\r\n",
            "\u{feff}\"sep=,\"\nscope,key\nacme,k1",
            "SEP=,\rscope,key\racme,k1\r",
            "key,scope\nk1,acme",
        ] {
            let file = read(text).unwrap_or_else(|error| panic!("{text:?}: {error}"));
            assert_eq!(error(text), "", "{text:?}");
            let keys: Vec<_> = file.lines.iter().map(|line| line.digest).collect();
            assert_eq!(keys, [siphash::siphash128([1, 2], b"k1")], "{text:?}");
            assert_eq!(file.scopes[0].as_str(), "acme", "{text:?}");
        }
        assert_eq!(
            read("sep=,\nscope,key\n\nacme,k1\n").unwrap().lines[0].line,
            4
        );
    }

    #[test]
    fn files_of_other_formats_are_refused_with_their_line_and_what_is_right() {
        let utf16 = |order: fn(u16) -> [u8; 2]| -> Vec<u8> {
            let text = "\u{feff}scope,key\nacme,SECRET\n";
            text.encode_utf16().flat_map(order).collect()
        };
        let marked = [utf16(u16::to_le_bytes), utf16(u16::to_be_bytes)];
        let unmarked = marked.iter().map(|text| text[2..].to_vec());
        for text in unmarked.chain(marked.clone()) {
            let message = error(&text);
            assert!(
                message.contains("line 1: the file is UTF-16: save it as UTF-8"),
                "{message}"
            );
        }
        for (text, wanted) in [
            (
                "scope;key\nacme;SECRET\n",
                "line 1: the columns are `scope,key`, with `label` and `tier` if wanted; they are separated by semicolons: separate them by a comma",
            ),
            (
                "Scope\tKey\nacme\tSECRET\n",
                "they are separated by tabs: separate them by a comma",
            ),
            ("scope|key\n", "vertical bars: separate them by a comma"),
            ("scope;key,\n", "semicolons: separate them by a comma"),
            (
                "scope,key\nacme;SECRET\n",
                "line 2: its columns are separated by semicolons: separate them by a comma",
            ),
            (
                "scope,key\nacme\tSECRET,\n",
                "line 2: its columns are separated by tabs: separate them by a comma",
            ),
            (
                "sep=;\nscope;key\n",
                "line 1: it says that columns are separated by something else: separate them by a comma",
            ),
            ("sep=\nscope,key\n", "line 1: it says"),
            (
                "acme,SECRET\nbeta,b\n",
                "line 1: the columns are `scope,key`, with `label` and `tier` if wanted; neither `scope` nor `key` is there",
            ),
            ("SECRET\n", "neither `scope` nor `key` is there"),
            ("scope,Key,KEY\n", "`key` is there twice"),
            ("scope,key,Owner\n", "`Owner` is none of them"),
            ("scope,key,a\u{202e}b\n", r"`a\u{202e}b` is none of them"),
            (
                "scope,,key\nacme,SECRET,k\n",
                "line 2: has something in column 2, which has no name",
            ),
            (
                "sep=,\nscope,key\nacme,k1,SECRET\n",
                "line 3: has 3 columns instead of 2",
            ),
            (
                "scope,key,label\nacme,k,x\u{202e}y\n",
                "line 2: the label has U+202E as its character 2",
            ),
            (
                "scope,key\nac\u{200b}me,SECRET\n",
                "line 2: the scope has U+200B as its character 3",
            ),
            (
                "scope,key\nacme,SEC\u{2066}RET\n",
                "line 2: the key has white space or a byte that is not printable ASCII at position 4",
            ),
            (
                "scope,key\nSECRET/+=,acme\n",
                "line 2: the scope is not a valid scope",
            ),
        ] {
            let message = error(text);
            assert!(message.contains(wanted), "{text:?}: {message}");
            assert!(!message.contains("SECRET"), "{message}");
        }
        let key = key::generate().unwrap();
        let message = error(format!("scope,key\n{},acme\n", *key));
        assert_eq!(
            message,
            "line 2: the scope is a key: are the columns `scope` and `key` mixed up?"
        );
    }

    #[test]
    fn problems_are_reported_up_to_a_number() {
        let message = error("scope,key\na b,SECRET\nacme,k1\nacme\nacme,k1\nacme,k2\nacme,S C\n");
        let lines: Vec<&str> = message.lines().map(|line| &line[..7]).collect();
        assert_eq!(
            lines,
            ["line 2:", "line 4:", "line 5:", "line 7:"],
            "{message}"
        );
        let good_again = error(b"scope,key\nacme,\xff\nacme,k1\nacme,\n");
        assert_eq!(good_again.lines().count(), 2, "{good_again}");
        let many = (0..50).fold("scope,key\n".to_owned(), |text, _| text + "acme,SECRET\n");
        let message = error(many);
        assert_eq!(message.lines().count(), REPORTED + 1, "{message}");
        assert!(
            message.ends_with("line 22: the same key as on line 2\nand 29 more"),
            "{message}"
        );
        assert!(!message.contains("SECRET"), "{message}");
    }

    #[test]
    fn problems_are_reported_by_line_in_whatever_order_they_are_found() {
        let mut problems = Problems::default();
        for line in (1..=30).rev() {
            problems.note(line, || ApiError::conflict(format!("wrong {line}")));
        }
        let error = problems.into_error().unwrap();
        assert!(
            error.message.starts_with("line 1: wrong 1\nline 2:"),
            "{error}"
        );
        assert!(
            error.message.ends_with("line 20: wrong 20\nand 10 more"),
            "{error}"
        );
    }
}
