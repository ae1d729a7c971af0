//! The costs as one aligned table.

use super::Cost;
use crate::columns;

/// What the table says of each kind of operation, by its name in the guest.
const KINDS: [(&str, &str); 8] = [
    ("yield", "empty system call"),
    ("blocking-read", "blocking 4 KiB read"),
    ("async-read", "one of 32 asynchronous reads"),
    ("async-read-registered", "the same, buffers registered"),
    ("page-in", "page-in, nothing read ahead"),
    ("page-in-ready", "page-in, page in the cache"),
    ("page-in-ahead", "page-in, in order, read ahead"),
    ("process", "start and end of a process"),
];

const HEADS: [(&str, bool); 8] = [
    ("operation", false),
    ("ring-0 instr", true),
    ("us", true),
    ("asleep us", true),
    ("awake us", true),
    ("mmio exits", true),
    ("halts", true),
    ("interrupts", true),
];

/// The table, and a line on what its numbers are.
pub fn render(costs: &[Cost]) -> String {
    let rows: Vec<_> = costs.iter().map(row).collect();
    let mut table = columns::render(&HEADS, &rows);
    let operations = costs.iter().map(|cost| cost.operations).min().unwrap_or(0);
    table.push_str(&format!(
        "for one operation, averages of {operations} or more\n"
    ));
    if costs.iter().all(|cost| cost.instructions.is_none()) {
        table.push_str("ring 0 is not emulated here: KVM does not see its instructions\n");
    }
    table
}

fn row(cost: &Cost) -> Vec<String> {
    let name = cost.name.as_str();
    let kind = KINDS.iter().find(|(kind, _)| *kind == name);
    let count =
        |count: Option<f64>, digits| count.map_or("-".into(), |count| format!("{count:.digits$}"));
    vec![
        kind.map_or(name, |(_, text)| text).to_owned(),
        count(cost.instructions, 0),
        format!("{:.1}", cost.us),
        format!("{:.1}", cost.asleep_us),
        format!("{:.1}", cost.us - cost.asleep_us),
        count(cost.mmio_exits, 2),
        count(cost.halts, 2),
        count(cost.interrupts, 2),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cost(name: &str, instructions: Option<f64>) -> Cost {
        Cost {
            name: name.into(),
            operations: 256,
            us: 750.25,
            asleep_us: 50.0,
            instructions,
            mmio_exits: Some(1.0),
            halts: None,
            interrupts: Some(0.031),
        }
    }

    #[test]
    fn columns_are_aligned() {
        let table = render(&[cost("blocking-read", Some(724.4)), cost("new", None)]);
        assert_eq!(
            table,
            "\
operation            ring-0 instr     us  asleep us  awake us  mmio exits  halts  interrupts
blocking 4 KiB read           724  750.2       50.0     700.2        1.00      -        0.03
new                             -  750.2       50.0     700.2        1.00      -        0.03
for one operation, averages of 256 or more
"
        );
    }

    #[test]
    fn a_platform_that_counts_nothing_is_named() {
        let table = render(&[cost("page-in", None)]);
        assert!(table.ends_with("KVM does not see its instructions\n"));
    }
}
