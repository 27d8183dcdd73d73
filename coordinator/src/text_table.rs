//! Tables for a terminal: columns under their heads, in as many blocks below each other as its width asks for.

use std::io::IsTerminal;

/// Between two columns.
const GAP: usize = 2;

/// A column: its head, and a cell for each row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Column {
    /// What it is called.
    pub head: String,
    /// Its cells.
    pub cells: Vec<String>,
    /// Numbers stand at the right, words at the left.
    pub is_number: bool,
}

impl Column {
    /// A column of words.
    #[must_use]
    pub fn words(head: &str, cells: Vec<String>) -> Self {
        Self { head: head.to_owned(), cells, is_number: false }
    }

    /// A column of numbers.
    #[must_use]
    pub fn numbers(head: &str, cells: Vec<String>) -> Self {
        Self { is_number: true, ..Self::words(head, cells) }
    }

    fn width(&self) -> usize {
        self.cells.iter().chain([&self.head]).map(|cell| cell.chars().count()).max().unwrap_or_default()
    }

    /// The head in line 0, then the cells.
    fn padded(&self, line: usize) -> String {
        let width = self.width();
        let cell = line.checked_sub(1).map_or(Some(&self.head), |row| self.cells.get(row));
        let cell = cell.map_or("", String::as_str);
        if self.is_number { format!("{cell:>width$}") } else { format!("{cell:<width$}") }
    }
}

/// The columns of the terminal that standard output is; `None` where it is none.
#[must_use]
pub fn width_of_stdout() -> Option<usize> {
    let stdout = std::io::stdout();
    let size = stdout.is_terminal().then(|| rustix::termios::tcgetwinsize(&stdout).ok()).flatten()?;
    (size.ws_col > 0).then_some(usize::from(size.ws_col))
}

/// The table as lines. Where it is wider than `width`, columns that find no room stand in a block of their own below, `first`
/// before them again.
#[must_use]
pub fn table(first: &Column, columns: &[Column], width: Option<usize>) -> String {
    let width = width.unwrap_or(usize::MAX);
    let mut blocks: Vec<Vec<&Column>> = Vec::new();
    let mut used = usize::MAX;
    for column in columns {
        let needed = GAP + column.width();
        if used.saturating_add(needed) > width || blocks.is_empty() {
            blocks.push(vec![first]);
            used = first.width();
        }
        used = used.saturating_add(needed);
        blocks.last_mut().into_iter().for_each(|block| block.push(column));
    }
    let text = |block: &Vec<&Column>| {
        let line = |line: usize| {
            let cells: Vec<String> = block.iter().map(|column| column.padded(line)).collect();
            cells.join(&" ".repeat(GAP)).trim_end().to_owned()
        };
        (0..=first.cells.len()).map(line).collect::<Vec<_>>().join("\n")
    };
    blocks.iter().map(text).collect::<Vec<_>>().join("\n\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_narrow_terminal_has_blocks_below_each_other() {
        let cells = |cells: [&str; 2]| cells.map(str::to_owned).to_vec();
        let first = Column::words("run", cells(["a", "long-name"]));
        let columns = [Column::numbers("rows/s", cells(["7", "52"])), Column::words("state", cells(["complete", "-"]))];
        let whole = "run        rows/s  state\na               7  complete\nlong-name      52  -";
        assert_eq!(table(&first, &columns, None), whole);
        assert_eq!(table(&first, &columns, Some(27)), whole);
        let blocks = "run        rows/s\na               7\nlong-name      52\n\nrun        state\na          complete\nlong-name  -";
        // However narrow it is, each column has its place.
        assert_eq!(table(&first, &columns, Some(26)), blocks);
        assert_eq!(table(&first, &columns, Some(1)), blocks);
    }
}
