//! Reading a file of keys: `scope,key`, with `label` and `tier` if wanted.

use std::collections::HashMap;

use thiserror::Error;

use crate::{
    key::{self, KeyError, RawKey},
    scope::{ScopeName, ScopeNameError},
    suggest::did_you_mean,
};

/// One key of the file.
pub(super) struct Line {
    /// Where it stands, from 1.
    pub(super) line: u64,
    pub(super) scope: ScopeName,
    pub(super) key: RawKey,
    pub(super) label: Option<String>,
    pub(super) tier: Option<String>,
}

/// Why the file was not understood. None of these shows a key.
#[derive(Debug, Error)]
pub(super) enum CsvError {
    #[error("line 1: the columns are `scope,key`, with `label` and `tier` if wanted; {0}")]
    Header(String),
    #[error("line {line}: {source}")]
    Csv { line: u64, source: RowError },
    #[error("line {line}: {source}")]
    Scope { line: u64, source: ScopeNameError },
    #[error("line {line}: {source}")]
    Key { line: u64, source: KeyError },
    #[error("line {line}: the same key as on line {first}")]
    Twice { line: u64, first: u64 },
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
/// Those that every row has.
const NEEDED: [&str; 2] = ["scope", "key"];

/// All keys of the file, or the first error.
pub(super) fn read(text: &[u8]) -> Result<Vec<Line>, CsvError> {
    let mut reader = csv::ReaderBuilder::new()
        .trim(csv::Trim::All)
        // Trailing columns may be left out: what must be there is looked for below.
        .flexible(true)
        .from_reader(text);
    let headers = reader
        .headers()
        .map_err(|error| row_error(&error, 1))?
        .clone();
    let mut place: HashMap<&str, usize> = HashMap::new();
    for (index, name) in headers.iter().enumerate() {
        let Some(known) = COLUMNS.into_iter().find(|column| *column == name) else {
            let hint = did_you_mean(name, COLUMNS);
            return Err(CsvError::Header(format!("`{name}` is none of them{hint}")));
        };
        if place.insert(known, index).is_some() {
            return Err(CsvError::Header(format!("`{known}` is there twice")));
        }
    }
    for needed in NEEDED {
        if !place.contains_key(needed) {
            return Err(CsvError::Header(format!("`{needed}` is missing")));
        }
    }
    let needed = NEEDED
        .iter()
        .filter_map(|name| place.get(name))
        .max()
        .map_or(0, |index| index + 1);
    let mut lines = Vec::new();
    for row in reader.records() {
        let row = row.map_err(|error| row_error(&error, 0))?;
        let line = row.position().map_or(0, csv::Position::line);
        if row.len() < needed || row.len() > headers.len() {
            let source = RowError::Columns {
                found: row.len(),
                needed,
                all: headers.len(),
            };
            return Err(CsvError::Csv { line, source });
        }
        let cell = |name: &str| {
            place
                .get(name)
                .and_then(|index| row.get(*index))
                .unwrap_or_default()
        };
        let optional = |name: &str| Some(cell(name).to_owned()).filter(|text| !text.is_empty());
        let scope = cell("scope")
            .parse()
            .map_err(|source| CsvError::Scope { line, source })?;
        let key = RawKey::new(cell("key").to_owned());
        key::validate(&key).map_err(|source| CsvError::Key { line, source })?;
        lines.push(Line {
            line,
            scope,
            key,
            label: optional("label"),
            tier: optional("tier"),
        });
    }
    let mut first_seen: HashMap<&str, u64> = HashMap::with_capacity(lines.len());
    for Line { line, key, .. } in &lines {
        if let Some(first) = first_seen.insert(key, *line) {
            return Err(CsvError::Twice { line: *line, first });
        }
    }
    Ok(lines)
}

/// How many columns a row may have, in words.
fn wanted(needed: usize, all: usize) -> String {
    if needed == all {
        all.to_string()
    } else {
        format!("{needed} to {all}")
    }
}

fn row_error(error: &csv::Error, line: u64) -> CsvError {
    let line = error.position().map_or(line, csv::Position::line);
    let source = match error.kind() {
        csv::ErrorKind::Utf8 { .. } => RowError::Utf8,
        _ => RowError::Other,
    };
    CsvError::Csv { line, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(text: &str) -> String {
        read(text.as_bytes())
            .err()
            .map(|error| error.to_string())
            .unwrap_or_default()
    }

    #[test]
    fn columns_come_in_any_order_and_two_are_optional() {
        let lines = read(b"key,scope\nk1,acme\nk2,acme/web\n").unwrap();
        assert_eq!(lines.len(), 2);
        assert_eq!(lines[1].scope.as_str(), "acme/web");
        assert_eq!(*lines[1].key, "k2");
        assert_eq!(lines[1].line, 3);
        let lines = read(b"scope,key,label,tier\nacme,k1,\"a, b\",gold\nacme,k2,,\n").unwrap();
        assert_eq!(lines[0].label.as_deref(), Some("a, b"));
        assert_eq!(lines[0].tier.as_deref(), Some("gold"));
        assert_eq!((&lines[1].label, &lines[1].tier), (&None, &None));
    }

    #[test]
    fn trailing_optional_columns_may_be_left_out() {
        let lines = read(b"scope,key,label,tier\nacme,k1\nacme,k2,l\nacme,k3,l,gold\n").unwrap();
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
        let utf8 = read(b"scope,key\nacme,\xff\n")
            .err()
            .map(|error| error.to_string());
        assert!(utf8.is_some_and(|message| message.contains("UTF-8")));
    }
}
