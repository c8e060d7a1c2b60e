//! Reading a file of keys: `scope,key`, with `label` and `tier` if wanted.
//!
//! All that needs neither store nor kernel: it goes on while the daemon does other things.

use std::collections::{BTreeMap, HashMap};

use limiter_common::{abi::Digest, siphash};
use thiserror::Error;

use super::keys::check_label;
use crate::{
    api::{ApiError, ImportPhase},
    key::{self, KeyError},
    scope::{ScopeName, ScopeNameError},
    suggest::did_you_mean,
};

/// Problems that are told; of the others, how many there are.
const TOLD: usize = 20;
/// Keys between two words about the progress.
pub(super) const STRIDE: usize = 4096;

/// Hears how far an import is: what it is at, how much of it is done, and of how much.
pub(super) type Tell<'a> = &'a dyn Fn(ImportPhase, u64, u64);

/// A file of keys.
pub(super) struct KeyFile {
    /// The scopes that it names, each once.
    pub(super) scopes: Vec<ScopeName>,
    pub(super) lines: Vec<Line>,
    /// What is wrong with it so far; lines that have a problem are not among `lines`.
    pub(super) problems: Problems,
}

/// One key of the file.
pub(super) struct Line {
    /// Where it stands, from 1.
    pub(super) line: u64,
    /// The index of its scope.
    pub(super) scope: usize,
    /// What the kernel will know it by; the key itself is forgotten.
    pub(super) digest: Digest,
    /// The id that it gets.
    pub(super) id: String,
    pub(super) label: Option<String>,
    pub(super) tier: Option<String>,
}

/// What is wrong with a file, by line: the first in full, and how many others there are.
#[derive(Debug, Default)]
pub(super) struct Problems {
    told: BTreeMap<u64, ApiError>,
    others: u64,
}

impl Problems {
    pub(super) fn is_empty(&self) -> bool {
        self.told.is_empty()
    }

    /// Notes what is wrong with a line; `problem` is asked only if it is to be told.
    pub(super) fn note(&mut self, line: u64, problem: impl FnOnce() -> ApiError) {
        if self.told.len() == TOLD {
            self.others += 1;
            if self
                .told
                .last_key_value()
                .is_none_or(|(last, _)| line > *last)
            {
                return;
            }
            self.told.pop_last();
        }
        self.told.insert(line, problem());
    }

    /// All of it as one error; `None` if nothing is wrong.
    pub(super) fn into_error(self) -> Option<ApiError> {
        let kind = self.told.values().next()?.kind;
        let mut lines: Vec<String> = self
            .told
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

/// Why a line was not understood. None of these shows a key.
#[derive(Debug, Error)]
enum LineError {
    #[error(transparent)]
    Row(RowError),
    #[error(transparent)]
    Scope(ScopeNameError),
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

/// What is wrong with a row as such. The csv crate's own message may quote the row, with the key.
#[derive(Debug, Error)]
pub(super) enum RowError {
    #[error("has {found} columns instead of {}", wanted(*.needed, *.all))]
    Columns {
        found: usize,
        needed: usize,
        all: usize,
    },
    #[error("is not UTF-8")]
    Utf8,
    #[error("is not CSV")]
    Other,
}

const COLUMNS: [&str; 4] = ["scope", "key", "label", "tier"];
/// The first of them are in every row.
const NEEDED: usize = 2;

/// Where the columns are.
struct Columns {
    place: [Option<usize>; COLUMNS.len()],
    /// How many there are.
    all: usize,
    /// How many a row has at least.
    needed: usize,
}

impl Columns {
    fn read(headers: &csv::StringRecord) -> Result<Self, String> {
        let mut place = [None; COLUMNS.len()];
        for (index, name) in headers.iter().enumerate() {
            let Some(known) = COLUMNS.iter().position(|column| *column == name) else {
                let hint = did_you_mean(name, COLUMNS);
                return Err(format!("`{name}` is none of them{hint}"));
            };
            if place[known].replace(index).is_some() {
                return Err(format!("`{name}` is there twice"));
            }
        }
        let mut needed = 0;
        for (column, place) in COLUMNS.iter().zip(place).take(NEEDED) {
            let Some(index) = place else {
                return Err(format!("`{column}` is missing"));
            };
            needed = needed.max(index + 1);
        }
        Ok(Self {
            place,
            all: headers.len(),
            needed,
        })
    }

    /// The cells of a row, in the order of [`COLUMNS`]; those that are left out are empty.
    fn cells<'a>(&self, row: &'a csv::StringRecord) -> Result<[&'a str; COLUMNS.len()], RowError> {
        if row.len() < self.needed || row.len() > self.all {
            return Err(RowError::Columns {
                found: row.len(),
                needed: self.needed,
                all: self.all,
            });
        }
        let cell = |place: Option<usize>| place.and_then(|index| row.get(index));
        Ok(self.place.map(|place| cell(place).unwrap_or_default()))
    }
}

/// Reads the whole file, whatever is wrong with single lines.
///
/// # Errors
/// The first line is not the columns' names, or the system has no randomness for ids.
pub(super) fn read(text: &[u8], secret: [u64; 2], tell: Tell<'_>) -> Result<KeyFile, ApiError> {
    let mut reader = csv::ReaderBuilder::new()
        .trim(csv::Trim::All)
        // Trailing columns may be left out: what must be there is looked for below.
        .flexible(true)
        .from_reader(text);
    let header = |problem: String| {
        ApiError::invalid_key(format!(
            "line 1: the columns are `scope,key`, with `label` and `tier` if wanted; {problem}"
        ))
    };
    let headers = reader
        .headers()
        .map_err(|error| header(format!("it {}", row_error(&error))))?;
    let columns = Columns::read(headers).map_err(header)?;
    let mut file = Reading::default();
    let mut row = csv::StringRecord::new();
    loop {
        let line = reader.position().line();
        let (line, result) = match reader.read_record(&mut row) {
            Ok(false) => break,
            Ok(true) => {
                let line = row.position().map_or(line, csv::Position::line);
                let cells = columns.cells(&row).map_err(LineError::Row);
                (line, cells.map_err(ApiError::from))
            }
            Err(error) => {
                let line = error.position().map_or(line, csv::Position::line);
                (line, Err(LineError::Row(row_error(&error)).into()))
            }
        };
        let result = result.and_then(|cells| file.line(line, cells, secret));
        if let Err(problem) = result {
            file.problems.note(line, || problem);
        }
        if file.lines.len().is_multiple_of(STRIDE) {
            let all = u64::try_from(text.len()).unwrap_or(u64::MAX);
            tell(ImportPhase::Reading, reader.position().byte(), all);
        }
    }
    Ok(KeyFile {
        scopes: file.scopes,
        lines: file.lines,
        problems: file.problems,
    })
}

/// A file that is being read.
#[derive(Default)]
struct Reading {
    scopes: Vec<ScopeName>,
    /// Their indexes, by name.
    indexes: HashMap<String, usize>,
    lines: Vec<Line>,
    /// The lines of keys.
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
                let name = scope.parse().map_err(LineError::Scope)?;
                self.indexes.insert(scope.to_owned(), self.scopes.len());
                self.scopes.push(name);
                self.scopes.len() - 1
            }
        };
        key::validate(key).map_err(LineError::Key)?;
        let optional = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
        let label = optional(label);
        // It stands in the file: nothing was typed wrongly.
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

/// How many columns a row may have, in words.
fn wanted(needed: usize, all: usize) -> String {
    if needed == all {
        all.to_string()
    } else {
        format!("{needed} to {all}")
    }
}

fn row_error(error: &csv::Error) -> RowError {
    match error.kind() {
        csv::ErrorKind::Utf8 { .. } => RowError::Utf8,
        _ => RowError::Other,
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
                "line 2: `ac me` is not a scope",
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
    fn everything_that_is_wrong_is_told_up_to_a_point() {
        let told = error("scope,key\na b,SECRET\nacme,k1\nacme\nacme,k1\nacme,k2\nacme,S C\n");
        let lines: Vec<&str> = told.lines().map(|line| &line[..7]).collect();
        assert_eq!(
            lines,
            ["line 2:", "line 4:", "line 5:", "line 7:"],
            "{told}"
        );
        let good_again = error(b"scope,key\nacme,\xff\nacme,k1\nacme,\n");
        assert_eq!(good_again.lines().count(), 2, "{good_again}");
        let many = (0..50).fold("scope,key\n".to_owned(), |text, _| text + "acme,SECRET\n");
        let told = error(many);
        assert_eq!(told.lines().count(), TOLD + 1, "{told}");
        assert!(
            told.ends_with("line 22: the same key as on line 2\nand 29 more"),
            "{told}"
        );
        assert!(!told.contains("SECRET"), "{told}");
    }

    #[test]
    fn problems_are_told_by_line_in_whatever_order_they_are_found() {
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
