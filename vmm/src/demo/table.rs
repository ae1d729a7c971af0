//! The results as one aligned table.

use super::protocol::PathResult;
use crate::columns;

const GREEN: &str = "\u{1b}[32m";
const RED: &str = "\u{1b}[31m";
const PLAIN: &str = "\u{1b}[0m";

/// Column heads; a column is aligned right where the second is true.
const HEADS: [(&str, bool); 11] = [
    ("path", false),
    ("asked by", false),
    ("mode", false),
    ("operations", true),
    ("bytes", true),
    ("MB/s", true),
    ("p50 us", true),
    ("p99 us", true),
    ("max us", true),
    ("overlap", true),
    ("SHA-256", false),
];

/// The table, with an empty line before and after it; `digest` is the host's SHA-256.
pub fn render(paths: &[PathResult], digest: &str, colour: bool) -> String {
    let rows: Vec<_> = paths.iter().map(|path| row(path, digest, colour)).collect();
    format!("\n{}", columns::render(&HEADS, &rows))
}

fn row(path: &PathResult, digest: &str, colour: bool) -> Vec<String> {
    let us = |ns: u64| format!("{:.1}", ns as f64 / 1000.0);
    // Bytes in a microsecond are megabytes in a second.
    let speed = path.bytes as f64 / (path.ns.max(1) as f64 / 1000.0);
    let (verdict, hue) = match path.sha256 == digest {
        true => ("equal", GREEN),
        false => ("DIFFERS", RED),
    };
    vec![
        path.name.clone(),
        path.initiator.clone(),
        path.mode.clone(),
        path.operations.to_string(),
        path.bytes.to_string(),
        format!("{speed:.1}"),
        us(path.p50_ns),
        us(path.p99_ns),
        us(path.max_ns),
        format!("{:.3}", path.cpu_overlap),
        // The last column is not padded: colour does not get in the way.
        match colour {
            true => format!("{hue}{verdict}{PLAIN}"),
            false => verdict.to_owned(),
        },
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(name: &str, sha256: &str) -> PathResult {
        PathResult {
            name: name.into(),
            initiator: "process".into(),
            mode: "sync".into(),
            operations: 4096,
            bytes: 16 << 20,
            sha256: sha256.into(),
            ns: 2_000_000_000,
            p50_ns: 480_000,
            p99_ns: 900_040,
            max_ns: 12_345_678,
            cpu_overlap: 0.25,
            ..Default::default()
        }
    }

    #[test]
    fn columns_are_aligned() {
        let table = render(&[path("blocking-read", "aa"), path("x", "bb")], "aa", false);
        assert_eq!(
            table,
            "
path           asked by  mode  operations     bytes  MB/s  p50 us  p99 us   max us  overlap  SHA-256
blocking-read  process   sync        4096  16777216   8.4   480.0   900.0  12345.7    0.250  equal
x              process   sync        4096  16777216   8.4   480.0   900.0  12345.7    0.250  DIFFERS
"
        );
    }

    #[test]
    fn colour_changes_no_text() {
        let paths = [path("blocking-read", "aa"), path("x", "bb")];
        let mut coloured = render(&paths, "aa", true);
        assert!(coloured.contains(&format!("{GREEN}equal{PLAIN}")));
        assert!(coloured.contains(&format!("{RED}DIFFERS{PLAIN}")));
        for code in [GREEN, RED, PLAIN] {
            coloured = coloured.replace(code, "");
        }
        assert_eq!(coloured, render(&paths, "aa", false));
    }
}
