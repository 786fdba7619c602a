//! Text for terminals. Pure.

use std::{borrow::Cow, fmt};

/// The text with its control characters written out as in JSON, but for tabs and ends of lines: names and messages come from databases and from
/// whoever may write manifests, and a terminal would do what they say.
pub fn printable(text: &str) -> Cow<'_, str> {
    let acts = |char: char| char.is_control() && !matches!(char, '\n' | '\t');
    if !text.contains(acts) {
        return Cow::Borrowed(text);
    }
    let written = |char: char| if acts(char) { format!("\\u{:04x}", u32::from(char)) } else { char.to_string() };
    Cow::Owned(text.chars().map(written).collect())
}

/// Columns of texts, each as wide as its widest.
pub struct Table {
    rows: Vec<Vec<String>>,
    has_header: bool,
}

impl Table {
    /// A table of these columns; without names it has no first line.
    pub fn new(header: &[&str]) -> Self {
        let has_header = !header.is_empty();
        let rows = has_header.then(|| header.iter().map(|&name| name.to_owned()).collect()).into_iter().collect();
        Self { rows, has_header }
    }

    /// Adds a row. Of a text of several lines the first is shown.
    pub fn row(&mut self, cells: Vec<String>) {
        self.rows.push(cells.into_iter().map(|cell| cell.lines().next().unwrap_or_default().to_owned()).collect());
    }

    /// Whether it has no row.
    pub fn is_empty(&self) -> bool {
        self.rows.len() == usize::from(self.has_header)
    }

    /// Its text, or this if it has no row.
    pub fn or(&self, otherwise: &str) -> String {
        if self.is_empty() { otherwise.to_owned() } else { self.to_string() }
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or_default();
        let width = |column: usize| self.rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max();
        let widths: Vec<usize> = (0..columns).map(|column| width(column).unwrap_or_default()).collect();
        for row in &self.rows {
            let cells: Vec<String> = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect();
            writeln!(f, "{}", cells.join("  ").trim_end())?;
        }
        Ok(())
    }
}

/// A number of bytes in the largest unit that it fills.
pub fn bytes(count: u64) -> String {
    let mut rest = count as f64;
    for unit in ["B", "KiB", "MiB", "GiB", "TiB"] {
        if rest < 1024.0 {
            return if unit == "B" { format!("{count} B") } else { format!("{rest:.1} {unit}") };
        }
        rest /= 1024.0;
    }
    format!("{rest:.1} PiB")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_by_characters() {
        let mut table = Table::new(&["NAME", "WHY"]);
        assert!(table.is_empty());
        table.row(vec!["über".into(), "a\nb".into()]);
        table.row(vec!["orders".into(), String::new()]);
        assert_eq!(table.to_string(), "NAME    WHY\nüber    a\norders\n");
    }

    #[test]
    fn what_a_terminal_would_obey_is_written_out() {
        assert_eq!(printable("über\tall\n"), "über\tall\n");
        assert_eq!(printable("a\x1b]0;b\x07\rc\u{9b}"), "a\\u001b]0;b\\u0007\\u000dc\\u009b");
    }

    #[test]
    fn bytes_have_a_unit() {
        assert_eq!([0, 1023, 1024, 3 << 20, 5 << 40].map(bytes), ["0 B", "1023 B", "1.0 KiB", "3.0 MiB", "5.0 TiB"]);
    }
}
