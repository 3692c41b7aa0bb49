//! Columns of text.

use anstyle::Style;

use super::text::{BOLD, paint};

/// A table: a heading, and rows of as many cells.
#[derive(Debug)]
pub(crate) struct Table {
    columns: Vec<Column>,
    rows: Vec<Vec<Cell>>,
}

#[derive(Debug)]
struct Column {
    heading: &'static str,
    right: bool,
}

/// A cell.
#[derive(Debug)]
pub(crate) struct Cell {
    text: String,
    style: Style,
}

impl Cell {
    /// Returns a cell in that style.
    pub(crate) fn styled(style: Style, text: impl Into<String>) -> Self {
        Self { text: text.into(), style }
    }
}

impl<T: Into<String>> From<T> for Cell {
    fn from(text: T) -> Self {
        Self { text: text.into(), style: Style::new() }
    }
}

impl Table {
    /// Returns a table with these headings. A column whose heading begins with `>` is set to the
    /// right.
    pub(crate) fn new(headings: &[&'static str]) -> Self {
        let column = |heading: &&'static str| match heading.strip_prefix('>') {
            Some(heading) => Column { heading, right: true },
            None => Column { heading, right: false },
        };
        Self { columns: headings.iter().map(column).collect(), rows: Vec::new() }
    }

    /// Adds a row.
    pub(crate) fn row<const N: usize>(&mut self, cells: [Cell; N]) {
        debug_assert_eq!(N, self.columns.len(), "BUG: a row should fit the headings");
        self.rows.push(cells.into());
    }

    /// Returns whether there is no row.
    pub(crate) fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Returns the table as lines, with two spaces between columns and none at the end.
    pub(crate) fn render(&self) -> String {
        let len = |text: &str| text.chars().count();
        let width = |(at, column): (usize, &Column)| {
            let cells = self.rows.iter().filter_map(|row| row.get(at)).map(|cell| len(&cell.text));
            cells.chain([len(column.heading)]).max().unwrap_or_default()
        };
        let widths: Vec<usize> = self.columns.iter().enumerate().map(width).collect();
        let heading = self.columns.iter().map(|column| Cell::styled(BOLD, column.heading));
        let heading: Vec<Cell> = heading.collect();
        let mut shown = String::new();
        for row in std::iter::once(&heading).chain(&self.rows) {
            let mut gap = 0;
            for ((cell, column), width) in row.iter().zip(&self.columns).zip(&widths) {
                let pad = width - len(&cell.text);
                let (before, after) = if column.right { (pad, 0) } else { (0, pad) };
                // The gap is written only once something follows it.
                gap += before;
                if !cell.text.is_empty() {
                    shown.push_str(&" ".repeat(gap));
                    shown.push_str(&paint(cell.style, &cell.text));
                    gap = 0;
                }
                gap += after + 2;
            }
            shown.push('\n');
        }
        shown
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_and_lines_end_where_their_text_ends() {
        let mut table = Table::new(&["TASK", ">COST", "NOTE"]);
        table.row(["a".into(), "$0.50".into(), "".into()]);
        table.row(["longer".into(), "-".into(), Cell::styled(BOLD, "späte Notiz")]);
        let shown = anstream::adapter::strip_str(&table.render()).to_string();
        insta::assert_snapshot!(shown, @"
        TASK     COST  NOTE
        a       $0.50
        longer      -  späte Notiz
        ");
    }
}
