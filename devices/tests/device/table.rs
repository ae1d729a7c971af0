//! docs/hostile-inputs.md says which row of the table is tested where; here it is held to that.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// Numbers of the rows, and whether a real guest does it too.
fn rows(table: &str) -> Vec<(u32, bool)> {
    let row = |line: &str| {
        let mut cells = line.split('|').map(str::trim);
        let number = cells.nth(1)?.parse().ok()?;
        Some((number, cells.nth(2)? == "yes"))
    };
    table.lines().filter_map(row).collect()
}

/// All that is written in the files of a directory.
fn sources(directory: &Path) -> String {
    let paths = fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let files = paths.filter(|path| path.is_file());
    files
        .map(|file| fs::read_to_string(file).unwrap())
        .collect()
}

/// The numbers that follow `mark` in `text`.
fn numbers(text: &str, mark: &str) -> BTreeSet<u32> {
    let number = |rest: &str| rest.get(..2)?.parse().ok();
    text.split(mark).skip(1).filter_map(number).collect()
}

#[test]
fn each_row_is_tested_where_the_table_says() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let rows = rows(&fs::read_to_string(root.join("docs/hostile-inputs.md")).unwrap());
    let all: Vec<_> = rows.iter().map(|&(number, _)| number).collect();
    assert_eq!(all, (1..=76).collect::<Vec<_>>());

    let here = numbers(&sources(&root.join("devices/tests/device")), "fn row_");
    assert_eq!(here, all.into_iter().collect());
    let by_a_guest = numbers(&sources(&root.join("tests/hostile_guest")), "(\"");
    let yes = rows.iter().filter(|row| row.1).map(|row| row.0);
    assert_eq!(by_a_guest, yes.collect());
}
