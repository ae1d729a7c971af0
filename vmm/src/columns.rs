//! Tables whose columns line up.

/// The table: a line of heads, then the rows. A column is aligned right where its head's second part
/// is true; the last one is not padded.
pub fn render(heads: &[(&str, bool)], rows: &[Vec<String>]) -> String {
    let first = heads.iter().map(|(head, _)| (*head).to_owned()).collect();
    let mut widths: Vec<usize> = heads.iter().map(|(head, _)| head.len()).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.len());
        }
    }
    let mut table = String::new();
    for row in std::iter::once(&first).chain(rows) {
        for (column, cell) in row.iter().enumerate() {
            let width = widths.get(column).copied().unwrap_or_default();
            match heads.get(column) {
                Some((_, true)) => table.push_str(&format!("{cell:>width$}")),
                _ if column + 1 == row.len() => table.push_str(cell),
                _ => table.push_str(&format!("{cell:<width$}")),
            }
            table.push_str(if column + 1 == row.len() { "\n" } else { "  " });
        }
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_left_and_right() {
        let heads = [("name", false), ("n", true), ("what", false)];
        let rows = [["a", "100", "x"], ["longer", "1", "yy"]];
        let rows: Vec<_> = rows
            .iter()
            .map(|row| row.map(String::from).to_vec())
            .collect();
        let wanted = "name      n  what\na       100  x\nlonger    1  yy\n";
        assert_eq!(render(&heads, &rows), wanted);
        assert_eq!(render(&heads, &[]), "name  n  what\n");
    }
}
