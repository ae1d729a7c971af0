//! The results as a table in Markdown, to be pasted: a row for each cell, a column for each subject.

use std::fmt::Write;

use super::matrix::Shape;
use super::results::{Results, Summary};

/// The table, with an empty line before and what its figures are after it.
pub fn render(results: &Results) -> String {
    let mut text = String::from("\n| |");
    let mut rule = String::from("|---|");
    for (number, subject) in results.subjects().iter().enumerate() {
        let ratio = if number == 0 { "" } else { " ratio |" };
        // Writing to a string cannot fail.
        let _ = write!(text, " {subject} |{ratio}");
        rule.push_str(if number == 0 { "---|" } else { "---|---|" });
    }
    let _ = write!(text, "\n{rule}");
    for (at, shape) in results.cells().iter().enumerate() {
        let _ = write!(text, "\n| {} |", name(shape));
        for number in 0..results.subjects().len() {
            let row = results.summary(number, at);
            let _ = write!(text, " {} |", figures(&row));
            if number > 0 {
                let _ = write!(text, " {:.2} |", row.ratio);
            }
        }
    }
    text.push_str(
        "\n\nThousands of requests a second, p50 in us, processor time for each request in us",
    );
    if let [first, _, ..] = results.subjects() {
        let _ = write!(text, "; ratio: IOPS of {first}, divided by this one's");
    }
    text.push('.');
    text
}

/// What is usual in a cell goes without saying.
fn name(shape: &Shape) -> String {
    let cell = shape.cell();
    let mut name = format!("{} {}, depth {}", cell.rw(), shape.block(), cell.depth);
    if cell.queues > 1 {
        // Writing to a string cannot fail.
        let _ = write!(name, ", {} queues", cell.queues);
    }
    if cell.interrupt {
        name.push_str(", interrupt");
    }
    name
}

fn figures(row: &Summary) -> String {
    let (thousands, p50, cpu) = (row.iops / 1e3, row.p50_us, row.cpu_us);
    let digits = if thousands < 100.0 { 1 } else { 0 };
    format!("{thousands:.digits$}k, {p50:.1}, {cpu:.1}")
}

#[cfg(test)]
mod tests {
    use super::super::results::tests::results;
    use super::*;

    #[test]
    fn a_row_for_each_cell() {
        let text = render(&results());
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 3 + 7 + 2);
        assert_eq!(
            lines[1..4],
            [
                "| | iolite | qemu threads | ratio |",
                "|---|---|---|---|",
                "| randread 4K, depth 1 | 8.0k, 3.0, 1.2 | 4.0k, 3.0, 1.2 | 2.00 |",
            ]
        );
        assert!(lines[11].ends_with("ratio: IOPS of iolite, divided by this one's."));
    }
}
