// SPDX-License-Identifier: MIT OR Apache-2.0

//! Tables of aligned columns, which fit the width of the terminal.

use anstyle::Style;
use unicode_width::{UnicodeWidthChar as _, UnicodeWidthStr};

use super::terminal::{self, HEAD, paint};

/// The space between two columns.
const GAP: &str = "  ";
/// The minimum width of a truncated column, in columns of the terminal.
const MIN_WIDTH: usize = 8;
/// The mark at the end of a truncated cell.
const CUT: char = '…';

/// A table with a heading. If the terminal is too narrow, some columns are truncated or, if that is
/// not enough, left out. If the output is not a terminal, the table is always complete.
pub(super) struct Table {
    columns: Vec<Column>,
    rows: Vec<Vec<String>>,
}

struct Column {
    name: String,
    is_right: bool,
    may_be_cut: bool,
    may_be_left_out: bool,
    style: fn(&str) -> Style,
}

impl Column {
    fn parse(text: &str) -> Self {
        let name = text.trim_start_matches(['>', '~', '?']);
        let marks = &text[..text.len() - name.len()];
        Self {
            name: name.to_owned(),
            is_right: marks.contains('>'),
            may_be_cut: marks.contains('~'),
            may_be_left_out: marks.contains('?'),
            style: |_| Style::new(),
        }
    }
}

impl Table {
    /// Makes a table with the columns `columns`. The name of a column may begin with these marks:
    ///
    /// - `>` aligns the column to the right.
    /// - `~` allows the column to be truncated if there is too little room.
    /// - `?` allows the column to be left out if truncation is not enough. The last such column is
    ///   left out first.
    pub(super) fn new(columns: &[&str]) -> Self {
        Self {
            columns: columns.iter().map(|text| Column::parse(text)).collect(),
            rows: Vec::new(),
        }
    }

    /// Sets the style of a column's cells, which depends on their text.
    pub(super) fn styled(mut self, name: &str, style: fn(&str) -> Style) -> Self {
        for column in &mut self.columns {
            if column.name == name {
                column.style = style;
            }
        }
        self
    }

    pub(super) fn row<const N: usize>(&mut self, cells: [String; N]) {
        self.rows.push(cells.to_vec());
    }

    /// Returns the lines of the table for standard output.
    pub(super) fn lines(&self) -> Vec<String> {
        self.fitted(terminal::width())
    }

    fn fitted(&self, terminal_width: Option<usize>) -> Vec<String> {
        let shown = self.fit(terminal_width.unwrap_or(usize::MAX));
        let line = |cell: &dyn Fn(usize) -> (String, Style)| {
            let mut line = String::new();
            let mut blanks = 0;
            for (column, width) in &shown {
                let (text, style) = cell(*column);
                let text = cut(&text, *width);
                let missing = width - text.width();
                let (before, after) = if self.columns[*column].is_right {
                    (missing, 0)
                } else {
                    (0, missing)
                };
                // Blanks are written only before the next text, so no line ends with blanks.
                blanks += before;
                if !text.is_empty() {
                    line.extend(std::iter::repeat_n(' ', blanks));
                    line.push_str(&paint(style, &text));
                    blanks = 0;
                }
                blanks += after + GAP.len();
            }
            line
        };
        let head = line(&|column| (self.columns[column].name.clone(), HEAD));
        let rows = self.rows.iter().map(|row| {
            line(&|column| {
                let text = row.get(column).cloned().unwrap_or_default();
                let style = (self.columns[column].style)(&text);
                (text, style)
            })
        });
        std::iter::once(head).chain(rows).collect()
    }

    /// Returns the columns that fit into `terminal_width` columns of the terminal, each with its
    /// width.
    fn fit(&self, terminal_width: usize) -> Vec<(usize, usize)> {
        let mut shown: Vec<(usize, usize)> = (0..self.columns.len())
            .map(|column| (column, self.widest(column)))
            .collect();
        loop {
            let gaps = GAP.len() * shown.len().saturating_sub(1);
            let wanted = gaps + shown.iter().map(|(_, width)| width).sum::<usize>();
            let Some(excess) = wanted
                .checked_sub(terminal_width)
                .filter(|excess| *excess > 0)
            else {
                return shown;
            };
            // Returns how much width can be saved by truncating this column.
            let spare = |(column, width): &(usize, usize)| {
                let least = MIN_WIDTH.max(self.columns[*column].name.width());
                let may_be_cut = self.columns[*column].may_be_cut;
                if may_be_cut {
                    width.saturating_sub(least)
                } else {
                    0
                }
            };
            let last = shown
                .iter()
                .rposition(|(column, _)| self.columns[*column].may_be_left_out);
            match last {
                Some(last) if shown.iter().map(spare).sum::<usize>() < excess => {
                    shown.remove(last);
                }
                _ => {
                    narrow(&mut shown, excess, spare);
                    return shown;
                }
            }
        }
    }

    fn widest(&self, column: usize) -> usize {
        let cells = self.rows.iter().filter_map(|row| row.get(column));
        cells
            .map(String::as_str)
            .chain([self.columns[column].name.as_str()])
            .map(UnicodeWidthStr::width)
            .max()
            .unwrap_or(0)
    }
}

/// Reduces the widths of columns by `excess` in total. In each step, the widest column that can
/// still be truncated becomes narrower.
fn narrow(
    shown: &mut [(usize, usize)],
    mut excess: usize,
    spare: impl Fn(&(usize, usize)) -> usize,
) {
    while excess > 0 {
        let widest = shown
            .iter_mut()
            .filter(|column| spare(column) > 0)
            .max_by_key(|(_, width)| *width);
        let Some((_, width)) = widest else { return };
        *width -= 1;
        excess -= 1;
    }
}

/// Truncates a text to `width` columns of the terminal.
fn cut(text: &str, width: usize) -> String {
    if text.width() <= width {
        return text.to_owned();
    }
    let mut left = width.saturating_sub(1);
    let mut kept: String = text
        .chars()
        .take_while(|c| {
            let wide = c.width().unwrap_or(0);
            let fits = wide <= left;
            left = if fits { left - wide } else { 0 };
            fits
        })
        .collect();
    kept.push(CUT);
    kept
}

#[cfg(test)]
mod tests {
    use anstyle::AnsiColor;

    use super::*;

    fn plain(lines: &[String]) -> Vec<String> {
        lines
            .iter()
            .map(|line| anstream::adapter::strip_str(line).to_string())
            .collect()
    }

    fn table() -> Table {
        let mut table = Table::new(&["NAME", ">COUNT", "?WHEN", "~NOTE", "?END"]);
        for (name, count, when, note, end) in [
            ("a", "1000", "today", "a note of some length", "-"),
            ("long name", "7", "yesterday", "日本語のメモです、長い", ""),
        ] {
            table.row([name, count, when, note, end].map(str::to_owned));
        }
        table
    }

    #[test]
    fn tables_are_aligned_and_carry_no_trailing_space() {
        let whole = [
            "NAME       COUNT  WHEN       NOTE                    END",
            "a           1000  today      a note of some length   -",
            "long name      7  yesterday  日本語のメモです、長い",
        ];
        assert_eq!(plain(&table().fitted(None)), whole);
        assert_eq!(plain(&table().fitted(Some(56))), whole);
    }

    #[test]
    fn on_a_narrow_terminal_columns_are_truncated_and_then_left_out() {
        assert_eq!(
            plain(&table().fitted(Some(47))),
            [
                "NAME       COUNT  WHEN       NOTE           END",
                "a           1000  today      a note of so…  -",
                "long name      7  yesterday  日本語のメモ…",
            ]
        );
        assert_eq!(
            plain(&table().fitted(Some(40))),
            [
                "NAME       COUNT  WHEN       NOTE",
                "a           1000  today      a note of …",
                "long name      7  yesterday  日本語のメ…",
            ]
        );
        for width in 26..80 {
            for line in plain(&table().fitted(Some(width))) {
                assert!(line.width() <= width, "{width}: {line}");
            }
        }
        // A column that cannot be left out is shown even if there is too little room.
        assert_eq!(
            plain(&table().fitted(Some(10)))[1],
            "a           1000  a note …"
        );
    }

    #[test]
    fn head_and_cells_have_styles_that_do_not_move_anything() {
        let lines = table()
            .styled("NAME", |text| match text {
                "a" => AnsiColor::Red.on_default(),
                _ => Style::new(),
            })
            .fitted(None);
        assert!(
            lines[0].starts_with("\u{1b}[1mNAME\u{1b}[0m  "),
            "{lines:?}"
        );
        assert!(lines[1].starts_with("\u{1b}[31ma\u{1b}[0m  "), "{lines:?}");
        assert!(lines[2].starts_with("long name"), "{lines:?}");
    }
}
