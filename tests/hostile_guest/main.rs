//! A hostile driver on a real machine: what a guest can do to a disk's registers, rings and chains,
//! from the table of hostile inputs (docs/hostile-inputs.md), by its numbers. After each of them a
//! reset brings the disk back, and it reads as it should.
//!
//! The guest is a tiny one: 32-bit code that stores, looks and prints. It needs /dev/kvm; where it is
//! missing the tests are skipped; with IOLITE_REQUIRE_KVM=1 they fail.

#![allow(clippy::unwrap_used)]

mod chains;
#[path = "../support/plain.rs"]
mod plain;
mod registers;
mod requests;
#[path = "../support/tiny.rs"]
mod tiny;
#[path = "../support/tiny_driver.rs"]
mod tiny_driver;

use std::process::{Command, Output, Stdio};

use iolite_devices_abi::blk::{S_IOERR, S_OK, T_FLUSH, T_IN, T_OUT};
use iolite_devices_abi::mmio as reg;
use iolite_devices_abi::status::F_RING_RESET;

use tiny_driver::*;

/// Sectors of the disk.
const SECTORS: u32 = 64;

/// Name and deed. Each begins with a disk that somebody else has used.
type Row = (&'static str, fn(Guest) -> Guest);

/// What takes requests that are still in flight: for a disk where each takes a while.
const SLOW_ROWS: &[Row] = &[
    ("13 a queue is taken away with a request in flight", |g| {
        let g = g.live().request(T_IN, 1, [DATA, 512, WRITE]);
        let g = g.register(reg::QUEUE_READY, 0);
        g.wait(address_of(reg::QUEUE_READY), 1, 0)
    }),
    ("21 reset with a request in flight", |g| {
        let g = g.live().request(T_IN, 1, [DATA, 512, WRITE]);
        let g = g.register(reg::STATUS, 0);
        g.wait(address_of(reg::STATUS), u32::MAX, 0)
    }),
    ("33 a head that is in flight", |g| {
        let g = g.live().header(T_IN, 1).read_chain(DESC);
        g.submit(&[0, 0]).broken()
    }),
    ("RING_RESET with a request in flight", |g| {
        let g = g.live_with(FEATURES | F_RING_RESET);
        let g = g.request(T_IN, 1, [DATA, 512, WRITE]).reset_queue();
        g.place(QUEUE_SIZE, DESC, AVAIL, USED)
            .request(T_IN, 1, [DATA, 512, WRITE])
            .answered(S_OK, 513)
    }),
];

/// For a disk that can only be read.
const READ_ONLY_ROWS: &[Row] = &[
    ("66 a write", |g| {
        g.live()
            .request(T_OUT, 1, [DATA, 512, 0])
            .answered(S_IOERR, 1)
    }),
    ("67 a flush", |g| {
        g.live().request(T_FLUSH, 0, [DATA, 0, 0]).answered(S_OK, 1)
    }),
];

fn run(guest: Guest, keys: &str) -> Output {
    let disk = tempfile::NamedTempFile::new().unwrap();
    let contents: Vec<u8> = (0..SECTORS as usize * 512)
        .map(|at| (at / 512) as u8)
        .collect();
    std::fs::write(disk.path(), &contents).unwrap();
    let kernel = guest.0.reset().file();
    let mut iolite = Command::new(env!("CARGO_BIN_EXE_iolite"));
    iolite.env_remove("RUST_LOG").stdin(Stdio::null());
    iolite.args(["run", "--timeout", "60s", "-d"]);
    iolite.arg(format!("{}{keys}", disk.path().display()));
    let output = iolite.arg(kernel.path()).output().unwrap();
    assert!(
        std::fs::read(disk.path()).unwrap() == contents,
        "the disk was changed"
    );
    output
}

/// Has one guest do all of `rows` to a disk with `keys`.
fn survived(rows: &[&[Row]], keys: &str) {
    let mut guest = Guest::new().recovers();
    for (name, deed) in rows.iter().copied().flatten() {
        guest = deed(guest.says(&format!("{name}\n"))).recovers();
    }
    let output = run(guest, keys);
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let stderr = String::from_utf8_lossy(&output.stderr);
    let last = said.lines().last().unwrap_or("none");
    assert_eq!(output.status.code(), Some(0), "in row {last}\n{stderr}");
    let wanted: usize = rows.iter().map(|rows| rows.len()).sum();
    assert_eq!(said.lines().count(), wanted);
    // A few lines a second, whatever the guest does.
    assert!(stderr.lines().count() < 100, "{stderr}");
}

fn every_row_is_survived() {
    survived(&[registers::ROWS, chains::ROWS, requests::ROWS], "");
}

fn every_row_is_survived_with_requests_in_flight() {
    survived(&[SLOW_ROWS], ",latency=20ms");
}

fn every_row_is_survived_by_a_disk_that_can_only_be_read() {
    survived(&[READ_ONLY_ROWS], ",ro");
}

/// A guest that looks for something else would notice.
fn a_wrong_answer_is_noticed() {
    let guest = Guest::new().live().request(T_IN, 1, [DATA, 512, WRITE]);
    let output = run(guest.answered(S_IOERR, 1), "");
    assert_eq!(output.status.code(), Some(3));
}

plain_tests![
    every_row_is_survived,
    every_row_is_survived_with_requests_in_flight,
    every_row_is_survived_by_a_disk_that_can_only_be_read,
    a_wrong_answer_is_noticed,
];
