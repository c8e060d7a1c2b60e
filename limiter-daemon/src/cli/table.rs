//! Tables of aligned columns.

/// A table with a head line; numbers are aligned to the right.
pub(super) struct Table {
    rows: Vec<Vec<String>>,
    right: Vec<bool>,
}

impl Table {
    /// Columns whose name begins with `>` are aligned to the right.
    pub(super) fn new(columns: &[&str]) -> Self {
        let right = columns.iter().map(|name| name.starts_with('>')).collect();
        let head = columns
            .iter()
            .map(|name| name.trim_start_matches('>').to_owned())
            .collect();
        Self {
            rows: vec![head],
            right,
        }
    }

    pub(super) fn row<const N: usize>(&mut self, cells: [String; N]) {
        self.rows.push(cells.to_vec());
    }

    pub(super) fn lines(&self) -> Vec<String> {
        let width = |column: usize| {
            let cells = self.rows.iter().filter_map(|row| row.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..self.right.len()).map(width).collect();
        self.rows
            .iter()
            .map(|row| {
                let cells: Vec<String> = row
                    .iter()
                    .zip(&widths)
                    .zip(&self.right)
                    .map(|((cell, width), right)| {
                        if *right {
                            format!("{cell:>width$}")
                        } else {
                            format!("{cell:<width$}")
                        }
                    })
                    .collect();
                cells.join("  ").trim_end().to_owned()
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_aligned_and_carry_no_trailing_space() {
        let mut table = Table::new(&["NAME", ">COUNT", "NOTE"]);
        table.row(["a".to_owned(), "1000".to_owned(), "é".to_owned()]);
        table.row(["long name".to_owned(), "7".to_owned(), String::new()]);
        assert_eq!(
            table.lines(),
            [
                "NAME       COUNT  NOTE",
                "a           1000  é",
                "long name      7"
            ]
        );
    }
}
