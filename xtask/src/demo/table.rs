// SPDX-License-Identifier: MIT OR Apache-2.0

//! The table of expected and observed results.

use std::fmt::{self, Display, Formatter};

/// A table with the columns "what | expected | seen | ok".
#[derive(Debug, Default)]
pub struct Table {
    rows: Vec<Row>,
}

#[derive(Debug)]
struct Row {
    cells: [String; 3],
    ok: bool,
}

const TITLES: [&str; 3] = ["what", "expected", "seen"];

impl Table {
    /// Adds a row, which is marked as correct if both texts are equal.
    pub fn same(&mut self, what: &str, expected: impl Display, seen: impl Display) {
        let (expected, seen) = (expected.to_string(), seen.to_string());
        let ok = expected == seen;
        self.judged(what, expected, seen, ok);
    }

    /// Adds a row, which is marked as correct if `ok` is true.
    pub fn judged(&mut self, what: &str, expected: impl Display, seen: impl Display, ok: bool) {
        let row = Row {
            cells: [what.to_owned(), expected.to_string(), seen.to_string()],
            ok,
        };
        // The row is also printed immediately, because it takes minutes until the table is
        // complete.
        println!(
            "  {}: {} ({})",
            row.cells[0].trim(),
            row.cells[2],
            verdict(ok)
        );
        self.rows.push(row);
    }

    /// Returns whether the table has rows and all of them are marked as correct.
    pub fn all_as_expected(&self) -> bool {
        !self.rows.is_empty() && self.rows.iter().all(|row| row.ok)
    }
}

fn verdict(ok: bool) -> &'static str {
    if ok { "yes" } else { "NO" }
}

impl Display for Table {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let width = |column: usize| {
            let cells = self
                .rows
                .iter()
                .map(|row| row.cells[column].chars().count());
            cells.max().unwrap_or(0).max(TITLES[column].len())
        };
        let widths = [width(0), width(1), width(2)];
        let mut line = |cells: [&str; 3], ok: &str| {
            for (cell, width) in cells.iter().zip(widths) {
                write!(f, "{cell:width$} | ")?;
            }
            writeln!(f, "{ok}")
        };
        line(TITLES, "ok")?;
        line(
            widths
                .map(|width| "-".repeat(width))
                .each_ref()
                .map(String::as_str),
            "---",
        )?;
        for row in &self.rows {
            line(row.cells.each_ref().map(String::as_str), verdict(row.ok))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_that_differs_is_enough_to_fail() {
        let mut table = Table::default();
        assert!(!table.all_as_expected(), "a table without lines");
        table.same("a", 1, "1");
        assert!(table.all_as_expected());
        table.same("b", 1, 2);
        assert!(!table.all_as_expected());
    }

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let mut table = Table::default();
        table.same("a long one", "x", "x");
        table.same("b", "y", "yes, indeed");
        assert_eq!(
            table.to_string(),
            "what       | expected | seen        | ok\n\
             ---------- | -------- | ----------- | ---\n\
             a long one | x        | x           | yes\n\
             b          | y        | yes, indeed | NO\n"
        );
    }
}
