// SPDX-License-Identifier: MIT OR Apache-2.0

//! Rows of a file of keys, as spreadsheets write them. The file may have a byte order mark, a line
//! that names the column separator, empty columns and rows, and column names in any letter case.
//! Files in similar formats (UTF-16, semicolons, tabs) are refused with a message that says how to
//! correct them. No message quotes a cell that may be a key.

use thiserror::Error;

use crate::{domain::plain::Shown, suggest::did_you_mean};

/// The rows of a file that follow the header line.
pub(crate) struct Rows<'a> {
    text: &'a [u8],
    reader: csv::Reader<&'a [u8]>,
    row: csv::StringRecord,
    lines: Lines,
    columns: Columns,
}

/// The cells of a row in the order of [`COLUMNS`], or `None` for an empty row.
type Cells<'a> = Option<[&'a str; COLUMNS.len()]>;

impl<'a> Rows<'a> {
    /// Reads the header line, which is the first line that is not empty and names the columns.
    ///
    /// # Errors
    /// Returns an error that describes the problem of the header line or of the whole file, and
    /// gives the number of the line.
    pub(crate) fn open(text: &'a [u8]) -> Result<Self, String> {
        let (text, first) = strip_preamble(text)?;
        let mut rows = Self {
            text,
            reader: csv::ReaderBuilder::new()
                .trim(csv::Trim::All)
                // Rows of different lengths are accepted here. `Columns` checks them, because a row
                // may lack optional columns and may have additional empty ones.
                .flexible(true)
                .has_headers(false)
                .from_reader(text),
            row: csv::StringRecord::new(),
            lines: Lines { at: 0, line: first },
            columns: Columns::default(),
        };
        loop {
            let (line, columns) = match rows.advance() {
                Some((_, Ok(()))) if rows.row.iter().all(str::is_empty) => continue,
                Some((line, Ok(()))) => (line, Columns::read(&rows.row)),
                Some((line, Err(error))) => (line, Err(format!("it {error}"))),
                None => (first, Columns::read(&csv::StringRecord::new())),
            };
            rows.columns = columns.map_err(|problem| {
                format!(
                    "line {line}: the columns are `scope,key`, with `label` and `tier` if wanted; {problem}"
                )
            })?;
            return Ok(rows);
        }
    }

    /// Returns the next row with the number of its line, starting at 1.
    pub(crate) fn next(&mut self) -> Option<(u64, Result<Cells<'_>, RowError>)> {
        let (line, read) = self.advance()?;
        Some((line, read.and_then(|()| self.columns.cells(&self.row))))
    }

    fn advance(&mut self) -> Option<(u64, Result<(), RowError>)> {
        let before = self.reader.position().byte();
        let read = match self.reader.read_record(&mut self.row) {
            Ok(false) => return None,
            Ok(true) => Ok(()),
            Err(error) => Err(row_error(&error)),
        };
        let before = usize::try_from(before).unwrap_or(usize::MAX);
        Some((self.lines.of_row(self.text, before), read))
    }

    /// Returns the number of bytes that have been read so far.
    pub(crate) fn done(&self) -> u64 {
        self.reader.position().byte()
    }

    /// Returns the size of the file in bytes.
    pub(crate) fn all(&self) -> u64 {
        self.text.len() as u64
    }
}

/// Counts the lines before a row, including empty lines. A line may end with LF, CR or CRLF. The
/// line numbers of the csv crate are not used, because the crate gives a row after an empty line
/// the number of the empty line, and does not count CR as a line terminator.
struct Lines {
    at: usize,
    line: u64,
}

impl Lines {
    /// Returns the number of the line on which the next row begins. `end` is the offset, in bytes,
    /// at which the previous row ended. Line terminators from there to the next row are counted
    /// too.
    fn of_row(&mut self, text: &[u8], end: usize) -> u64 {
        while let Some(&byte) = text.get(self.at) {
            let is_end = byte == b'\n' || byte == b'\r';
            if self.at >= end && !is_end {
                break;
            }
            let is_first_of_two = byte == b'\r' && text.get(self.at + 1) == Some(&b'\n');
            self.line += u64::from(is_end && !is_first_of_two);
            self.at += 1;
        }
        self.line
    }
}

pub(crate) const COLUMNS: [&str; 4] = ["scope", "key", "label", "tier"];
/// The number of columns that every row must have. They are the first columns in [`COLUMNS`].
const NEEDED: usize = 2;

/// The column separators of files in similar formats, each with its name.
const SEPARATORS: [(char, &str); 3] = [(';', "semicolons"), ('\t', "tabs"), ('|', "vertical bars")];

/// Returns the name of the first of [`SEPARATORS`] that `cell` contains, if any. A file with such a
/// cell probably separates its columns by that character instead of commas.
pub(crate) fn separator(cell: &str) -> Option<&'static str> {
    let found = SEPARATORS.iter().find(|(c, _)| cell.contains(*c));
    found.map(|(_, name)| *name)
}

/// The positions of the columns in a row.
#[derive(Default)]
struct Columns {
    positions: [Option<usize>; COLUMNS.len()],
    /// The number of columns up to the last column with a name.
    all: usize,
    /// The minimum number of columns in a row.
    needed: usize,
}

impl Columns {
    /// Reads the column names in any letter case. Columns without a name are allowed if their cells
    /// are empty.
    fn read(headers: &csv::StringRecord) -> Result<Self, String> {
        let names: Vec<String> = headers.iter().map(str::to_ascii_lowercase).collect();
        if let Some(found) = headers.iter().find_map(separator) {
            return Err(format!(
                "they are separated by {found}: separate them by a comma"
            ));
        }
        // If the first line names neither required column, it is probably a row of data. The error
        // must not quote the line, because it may contain a key.
        let is_header = names
            .iter()
            .any(|name| COLUMNS[..NEEDED].contains(&&**name));
        if !is_header && !headers.is_empty() {
            return Err(
                "neither `scope` nor `key` is there: begin the file with a line that names its columns"
                    .to_owned(),
            );
        }
        let mut positions = [None; COLUMNS.len()];
        for (index, name) in names
            .iter()
            .enumerate()
            .filter(|(_, name)| !name.is_empty())
        {
            let Some(known) = COLUMNS.iter().position(|column| column == name) else {
                let hint = did_you_mean(name, COLUMNS);
                return Err(format!(
                    "`{}` is none of them{hint}",
                    Shown(&headers[index])
                ));
            };
            if positions[known].replace(index).is_some() {
                return Err(format!("`{name}` is there twice"));
            }
        }
        let mut needed = 0;
        for (column, position) in COLUMNS.iter().zip(positions).take(NEEDED) {
            let Some(index) = position else {
                return Err(format!("`{column}` is missing"));
            };
            needed = needed.max(index + 1);
        }
        let last = positions.iter().flatten().max();
        Ok(Self {
            positions,
            all: last.map_or(0, |last| last + 1),
            needed,
        })
    }

    /// Returns the cells of a row in the order of [`COLUMNS`], with an empty cell for each column
    /// that is left out. Returns `None` for an empty row.
    fn cells<'a>(&self, row: &'a csv::StringRecord) -> Result<Cells<'a>, RowError> {
        let Some(last) = (0..row.len()).rfind(|index| !row[*index].is_empty()) else {
            return Ok(None);
        };
        if row.len() < self.needed
            && let Some(found) = row.iter().find_map(separator)
        {
            return Err(RowError::Separator(found));
        }
        if row.len() < self.needed || last >= self.all {
            return Err(RowError::Columns {
                found: row.len().min(self.needed).max(last + 1),
                needed: self.needed,
                all: self.all,
            });
        }
        let is_named = |index: &usize| self.positions.contains(&Some(*index));
        // Since a row may end before the last column, only the cells that the row has are checked.
        let unnamed = (0..=last).find(|index| !is_named(index) && !row[*index].is_empty());
        if let Some(index) = unnamed {
            return Err(RowError::Unnamed(index + 1));
        }
        let cell = |position: Option<usize>| position.and_then(|index| row.get(index));
        Ok(Some(
            self.positions
                .map(|position| cell(position).unwrap_or_default()),
        ))
    }
}

/// The byte order mark (U+FEFF) in UTF-8. It may precede the text and is not a part of it.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";
/// The byte order marks of UTF-16 in both byte orders.
const BYTE_ORDER_MARKS_16: [&[u8]; 2] = [b"\xff\xfe", b"\xfe\xff"];

/// Returns the CSV part of a file, and the number of its first line. Spreadsheets may put a byte
/// order mark or a line that names the separator before this part.
fn strip_preamble(text: &[u8]) -> Result<(&[u8], u64), String> {
    let is_utf16 = BYTE_ORDER_MARKS_16
        .iter()
        .any(|mark| text.starts_with(mark))
        || text.iter().take(8).any(|byte| *byte == 0);
    if is_utf16 {
        return Err(String::from(
            "line 1: the file is UTF-16: save it as UTF-8 (spreadsheets call that `CSV UTF-8`)",
        ));
    }
    let text = text.strip_prefix(BYTE_ORDER_MARK).unwrap_or(text);
    let end = text.iter().position(|byte| b"\r\n".contains(byte));
    let (first, rest) = text.split_at(end.unwrap_or(text.len()));
    // A line like `sep=,` states the column separator for spreadsheets.
    let first = first.trim_ascii();
    let first = first.strip_prefix(b"\"").unwrap_or(first);
    if !first
        .get(..SEPARATED.len())
        .is_some_and(|begin| begin.eq_ignore_ascii_case(SEPARATED))
    {
        return Ok((text, 1));
    }
    if first.get(SEPARATED.len()) != Some(&b',') {
        return Err(String::from(
            "line 1: it says that columns are separated by something else: separate them by a comma",
        ));
    }
    let rest = rest.strip_prefix(b"\r").unwrap_or(rest);
    Ok((rest.strip_prefix(b"\n").unwrap_or(rest), 2))
}

const SEPARATED: &[u8] = b"sep=";

/// The reason why a row is refused. The csv crate's own message is not used, because it may quote
/// the row, including the key.
#[derive(Debug, Error)]
pub(crate) enum RowError {
    #[error("has {found} columns instead of {}", wanted(*.needed, *.all))]
    Columns {
        found: usize,
        needed: usize,
        all: usize,
    },
    #[error("its columns are separated by {0}: separate them by a comma")]
    Separator(&'static str),
    #[error("has something in column {0}, which has no name in the first line")]
    Unnamed(usize),
    #[error("is not UTF-8")]
    Utf8,
    #[error("is not CSV")]
    Other,
}

/// Returns a description of the number of columns that a row may have.
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
