//! The results as one aligned table: a row for each cell and subject.

use super::results::{Results, Summary};
use crate::columns;

/// Column heads; a column is aligned right where the second is true.
const HEADS: [(&str, bool); 15] = [
    ("rw", false),
    ("block", true),
    ("depth", true),
    ("queues", true),
    ("wait", false),
    ("subject", false),
    ("IOPS", true),
    ("MB/s", true),
    ("p50 us", true),
    ("p99 us", true),
    ("p999 us", true),
    ("notif/req", true),
    ("intr/req", true),
    ("cpu us/req", true),
    ("ratio", true),
];

/// The table, with an empty line before it. Without anything to compare with there are no columns for
/// the subject and the ratio, and without a cell of several queues none for their number.
pub fn render(results: &Results) -> String {
    let mut rows = Vec::new();
    for (at, shape) in results.cells().iter().enumerate() {
        for (number, subject) in results.subjects().iter().enumerate() {
            let cell = shape.cell();
            let name = [
                cell.rw().to_owned(),
                shape.block(),
                cell.depth.to_string(),
                cell.queues.to_string(),
                cell.wait().to_owned(),
                subject.to_string(),
            ];
            rows.push(
                name.into_iter()
                    .chain(figures(&results.summary(number, at)))
                    .collect(),
            );
        }
    }
    let alone = results.subjects().len() == 1;
    let one_queue = results.cells().iter().all(|shape| shape.cell().queues == 1);
    let shown = |head: &str| match head {
        "subject" | "ratio" => !alone,
        "queues" => !one_queue,
        _ => true,
    };
    let heads: Vec<_> = HEADS.into_iter().filter(|(head, _)| shown(head)).collect();
    for row in &mut rows {
        let cells: Vec<String> = std::mem::take(row);
        let kept = cells.into_iter().zip(HEADS);
        *row = kept
            .filter_map(|(cell, (head, _))| shown(head).then_some(cell))
            .collect();
    }
    format!("\n{}", columns::render(&heads, &rows))
}

fn figures(row: &Summary) -> [String; 9] {
    [
        format!("{:.0}", row.iops),
        format!("{:.1}", row.bytes_per_second / 1e6),
        format!("{:.1}", row.p50_us),
        format!("{:.1}", row.p99_us),
        format!("{:.1}", row.p999_us),
        format!("{:.3}", row.notifications),
        format!("{:.3}", row.interrupts),
        format!("{:.2}", row.cpu_us),
        format!("{:.2}", row.ratio),
    ]
}

#[cfg(test)]
mod tests {
    use super::super::results::tests::results;
    use super::*;

    #[test]
    fn columns_are_aligned() {
        let table = render(&results());
        let lines: Vec<&str> = table.lines().collect();
        assert_eq!(lines.len(), 1 + 1 + 14);
        assert_eq!(
            lines[1..4],
            [
                "rw         block  depth  wait  subject       IOPS   MB/s  p50 us  p99 us  p999 us  notif/req  intr/req  cpu us/req  ratio",
                "randread      4K      1  poll  iolite        8000   32.8     3.0     2.5      3.5      0.010     0.020        1.23   1.00",
                "randread      4K      1  poll  qemu threads  4000   16.4     3.0     2.5      3.5      0.010     0.020        1.23   2.00",
            ]
        );
    }
}
