//! A hostile driver on a real machine: what a guest can do to a disk's registers, rings and chains,
//! from the table of hostile inputs, by its numbers. After each of them a reset brings the disk back,
//! and it reads as it should.
//!
//! The guest is a tiny one: 32-bit code that stores, looks and prints. It needs /dev/kvm; where it is
//! missing the tests are skipped; with IOLITE_REQUIRE_KVM=1 they fail.

#![allow(clippy::unwrap_used)]

#[path = "support/plain.rs"]
mod plain;
#[path = "support/tiny.rs"]
mod tiny;
#[path = "support/tiny_driver.rs"]
mod tiny_driver;

use std::process::{Command, Output, Stdio};

use iolite_devices_abi::blk::{self, S_IOERR, S_OK, S_UNSUPP, T_FLUSH, T_GET_ID, T_IN, T_OUT};
use iolite_devices_abi::mmio as reg;
use iolite_devices_abi::status::*;

use tiny_driver::*;

/// Sectors of the disk.
const SECTORS: u32 = 64;

type Row = (&'static str, fn(Guest) -> Guest);

/// Name and deed. Each begins with a disk that somebody else has used.
const ROWS: &[Row] = &[
    ("01 queue size 0", |g| {
        g.negotiate(FEATURES).place(0, DESC, AVAIL, USED).refused()
    }),
    ("02 queue size 12", |g| {
        g.negotiate(FEATURES).place(12, DESC, AVAIL, USED).refused()
    }),
    ("03 queue too large", |g| {
        g.negotiate(FEATURES)
            .place(4096, DESC, AVAIL, USED)
            .refused()
    }),
    ("04 high bits", |g| {
        g.negotiate(FEATURES)
            .place(0x1_0008, DESC, AVAIL, USED)
            .refused()
    }),
    ("05 a queue beyond the last", |g| {
        let g = g.negotiate(FEATURES).register(reg::QUEUE_SEL, 0x1_0000);
        g.expect(address_of(reg::QUEUE_NUM_MAX), u32::MAX, 0)
    }),
    ("06 a ring outside memory", |g| {
        g.negotiate(FEATURES)
            .place(QUEUE_SIZE, NOWHERE, AVAIL, USED)
            .refused()
    }),
    ("07 an address that wraps", |g| {
        g.negotiate(FEATURES)
            .place(QUEUE_SIZE, DESC, u32::MAX - 1, USED)
            .refused()
    }),
    ("08 a misaligned ring", |g| {
        g.negotiate(FEATURES)
            .place(QUEUE_SIZE, DESC, AVAIL, USED + 2)
            .refused()
    }),
    ("09 rings that overlap", |g| {
        let g = g.negotiate(FEATURES).place(QUEUE_SIZE, DESC, DESC, DESC);
        g.register(reg::STATUS, UP | DRIVER_OK).submit(&[0, 1, 2])
    }),
    ("11 ready without addresses", |g| {
        g.negotiate(FEATURES)
            .register(reg::QUEUE_READY, 1)
            .refused()
    }),
    ("12 registers of a live queue", |g| {
        let g = g
            .live()
            .place(3, NOWHERE, 1, 2)
            .register(reg::QUEUE_READY, 1);
        g.request(T_IN, 1, [DATA, 512, WRITE]).answered(S_OK, 513)
    }),
    ("13 a live queue is taken away", |g| {
        let g = g.live().register(reg::QUEUE_READY, 0);
        let g = g.wait(address_of(reg::QUEUE_READY), 1, 0);
        g.request(T_IN, 1, [DATA, 512, WRITE])
            .expect(USED, 0xffff_0000, 0)
    }),
    ("RING_RESET and what is in flight", |g| {
        let g = g.live_with(FEATURES | F_RING_RESET);
        let g = g.request(T_IN, 1, [DATA, 512, WRITE]).reset_queue();
        let g = g.place(QUEUE_SIZE, DESC, AVAIL, USED).store(DATA, 0);
        let g = g.request(T_IN, 1, [DATA, 512, WRITE]).answered(S_OK, 513);
        g.expect(DATA, u32::MAX, CONTENT)
    }),
    (
        "RING_RESET again and again, and a ring outside memory",
        |g| {
            let g = g.live_with(FEATURES | F_RING_RESET).reset_queue();
            let g = g.reset_queue().place(QUEUE_SIZE, NOWHERE, AVAIL, USED);
            g.broken()
        },
    ),
    ("RING_RESET was not negotiated", |g| {
        let g = g.live().register(reg::QUEUE_RESET, 1);
        g.request(T_IN, 1, [DATA, 512, WRITE]).answered(S_OK, 513)
    }),
    ("14 DRIVER_OK too early", |g| {
        let g = g
            .register(reg::STATUS, 0)
            .register(reg::STATUS, UP | DRIVER_OK);
        g.expect(address_of(reg::STATUS), DRIVER_OK, 0)
    }),
    ("16 features that were not offered", |g| {
        let g = g.negotiate(FEATURES | 1 << 63);
        g.expect(address_of(reg::STATUS), u32::MAX, ACKNOWLEDGE | DRIVER)
    }),
    ("17 without VERSION_1", |g| {
        let g = g.negotiate(FEATURES & !F_VERSION_1);
        g.expect(address_of(reg::STATUS), u32::MAX, ACKNOWLEDGE | DRIVER)
    }),
    ("19 going on after FAILED", |g| {
        let g = g.live().register(reg::STATUS, UP | DRIVER_OK | FAILED);
        let g = g.request(T_IN, 1, [DATA, 512, WRITE]);
        g.expect(address_of(reg::STATUS), FAILED, FAILED)
            .expect(USED, 0xffff_0000, 0)
    }),
    ("20 the driver sets NEEDS_RESET", |g| {
        let g = g
            .live()
            .register(reg::STATUS, UP | DRIVER_OK | DEVICE_NEEDS_RESET);
        g.expect(address_of(reg::STATUS), DEVICE_NEEDS_RESET, 0)
    }),
    ("21 reset with requests in flight", |g| {
        let g = g
            .live()
            .request(T_IN, 1, [DATA, 512, WRITE])
            .register(reg::STATUS, 0);
        g.wait(address_of(reg::STATUS), u32::MAX, 0)
    }),
    ("22 a queue that is not there", |g| {
        g.live().register(reg::QUEUE_NOTIFY, 7)
    }),
    ("23 notifying too early", |g| {
        g.negotiate(FEATURES).register(reg::QUEUE_NOTIFY, 0)
    }),
    ("24 a storm of notifications", |g| {
        (0..500).fold(g.live(), |g, _| g.register(reg::QUEUE_NOTIFY, 0))
    }),
    ("26 reading what can only be written", |g| {
        let g = g.live().register(reg::MAGIC_VALUE, 0);
        g.expect(address_of(reg::QUEUE_NUM), u32::MAX, 0)
    }),
    ("28 configuration writes", |g| {
        let capacity = address_of(reg::CONFIG);
        g.live()
            .store(capacity, 7)
            .expect(capacity, u32::MAX, SECTORS)
    }),
    ("30 too many available", |g| {
        g.live().available(QUEUE_SIZE + 1).broken()
    }),
    ("31 the index goes backwards", |g| {
        g.live().available(0xffff).broken()
    }),
    ("32 a head outside the queue", |g| {
        g.live().submit(&[QUEUE_SIZE]).broken()
    }),
    ("38 a loop", |g| {
        let g = g.live().descriptor(DESC, 0, [HEADER, 16, NEXT, 1]);
        g.descriptor(DESC, 1, [DATA, 512, NEXT, 0])
            .submit(&[0])
            .broken()
    }),
    ("39 next outside the table", |g| {
        g.live()
            .descriptor(DESC, 0, [HEADER, 16, NEXT, QUEUE_SIZE])
            .submit(&[0])
            .broken()
    }),
    ("40 longer than 2^32", |g| {
        let g = g
            .live()
            .header(T_OUT, 0)
            .descriptor(DESC, 0, [HEADER, 16, NEXT, 1]);
        let g = g.descriptor(DESC, 1, [DATA, u32::MAX, NEXT, 2]);
        g.descriptor(DESC, 2, [STATUS, 1, WRITE, 0])
            .submit(&[0])
            .answered(S_IOERR, 1)
    }),
    ("41 indirect was not negotiated", |g| {
        let g = g
            .negotiate(FEATURES & !F_INDIRECT_DESC)
            .place(QUEUE_SIZE, DESC, AVAIL, USED);
        let g = g.register(reg::STATUS, UP | DRIVER_OK);
        g.descriptor(DESC, 0, [TABLE, 48, INDIRECT, 0])
            .submit(&[0])
            .broken()
    }),
    ("42 indirect with next", |g| {
        g.live()
            .descriptor(DESC, 0, [TABLE, 48, INDIRECT | NEXT, 1])
            .submit(&[0])
            .broken()
    }),
    ("43 indirect in indirect", |g| {
        let g = g.live().descriptor(DESC, 0, [TABLE, 16, INDIRECT, 0]);
        g.descriptor(TABLE, 0, [TABLE, 16, INDIRECT, 0])
            .submit(&[0])
            .broken()
    }),
    ("44 an indirect table of 20 bytes", |g| {
        g.live()
            .descriptor(DESC, 0, [TABLE, 20, INDIRECT, 0])
            .submit(&[0])
            .broken()
    }),
    ("45 an indirect table outside memory", |g| {
        g.live()
            .descriptor(DESC, 0, [NOWHERE, 48, INDIRECT, 0])
            .submit(&[0])
            .broken()
    }),
    ("51 readable after writable", |g| {
        let g = g
            .live()
            .header(T_IN, 0)
            .descriptor(DESC, 0, [HEADER, 16, NEXT, 1]);
        let g = g.descriptor(DESC, 1, [DATA, 512, WRITE | NEXT, 2]);
        let g = g.descriptor(DESC, 2, [DATA, 512, NEXT, 3]);
        g.descriptor(DESC, 3, [STATUS, 1, WRITE, 0])
            .submit(&[0])
            .answered(S_IOERR, 1)
    }),
    ("54 a header that is too short", |g| {
        let g = g.live().descriptor(DESC, 0, [HEADER, 15, NEXT, 1]);
        g.descriptor(DESC, 1, [STATUS, 1, WRITE, 0])
            .submit(&[0])
            .answered(S_IOERR, 1)
    }),
    ("56 a header alone", |g| {
        let g = g
            .live()
            .header(T_IN, 0)
            .descriptor(DESC, 0, [HEADER, 16, 0, 0]);
        g.submit(&[0]).answered(UNTOUCHED as u8, 0)
    }),
    ("57 a status that cannot be written", |g| {
        let g = g
            .live()
            .header(T_IN, 0)
            .descriptor(DESC, 0, [HEADER, 16, NEXT, 1]);
        g.descriptor(DESC, 1, [NOWHERE, 1, WRITE, 0])
            .submit(&[0])
            .answered(UNTOUCHED as u8, 0)
    }),
    ("59 data outside memory", |g| {
        g.live()
            .request(T_IN, 1, [NOWHERE, 512, WRITE])
            .answered(S_IOERR, 1)
    }),
    ("60 data of the wrong direction", |g| {
        g.live()
            .request(T_IN, 1, [DATA, 512, 0])
            .answered(S_IOERR, 1)
    }),
    ("61 a length of 511", |g| {
        g.live()
            .request(T_IN, 1, [DATA, 511, WRITE])
            .answered(S_IOERR, 1)
    }),
    ("62 a position that overflows", |g| {
        let g = g.live().store(HEADER + 12, u32::MAX);
        let g = g
            .descriptor(DESC, 0, [HEADER, 16, NEXT, 1])
            .store(HEADER, T_IN);
        let g = g.descriptor(DESC, 1, [DATA, 512, WRITE | NEXT, 2]);
        g.descriptor(DESC, 2, [STATUS, 1, WRITE, 0])
            .submit(&[0])
            .answered(S_IOERR, 1)
    }),
    ("63 beyond the capacity", |g| {
        g.live()
            .request(T_OUT, SECTORS, [DATA, 512, 0])
            .answered(S_IOERR, 1)
    }),
    ("65 nothing to transfer", |g| {
        g.live()
            .request(T_IN, 1, [DATA, 0, WRITE])
            .answered(S_OK, 1)
    }),
    ("68 an unknown type", |g| {
        g.live()
            .request(77, 0, [DATA, 512, WRITE])
            .answered(S_UNSUPP, 1)
    }),
    ("69 a flush with data", |g| {
        g.live()
            .request(T_FLUSH, 9, [DATA, 512, 0])
            .answered(S_OK, 1)
    }),
    ("70 an identification of 19 bytes", |g| {
        g.live()
            .request(T_GET_ID, 0, [DATA, 19, WRITE])
            .answered(S_IOERR, 1)
    }),
    ("71 write-zeroes was not negotiated", |g| {
        g.live()
            .request(blk::T_WRITE_ZEROES, 0, [DATA, 16, 0])
            .answered(S_UNSUPP, 1)
    }),
    ("72 a payload of 17 bytes", |g| {
        g.live()
            .request(blk::T_DISCARD, 0, [DATA, 17, 0])
            .answered(S_IOERR, 1)
    }),
    ("73 discard with unmap", |g| {
        let g = g
            .live()
            .store(DATA, 0)
            .store(DATA + 4, 0)
            .store(DATA + 8, 1);
        let g = g.store(DATA + 12, blk::FLAG_UNMAP);
        g.request(blk::T_DISCARD, 0, [DATA, 16, 0])
            .answered(S_UNSUPP, 1)
    }),
    ("74 a discard beyond the disk", |g| {
        let g = g
            .live()
            .store(DATA, SECTORS)
            .store(DATA + 4, 0)
            .store(DATA + 8, 1);
        let g = g.store(DATA + 12, 0);
        g.request(blk::T_DISCARD, 0, [DATA, 16, 0])
            .answered(S_IOERR, 1)
    }),
];

fn run(guest: Guest) -> Output {
    let disk = tempfile::NamedTempFile::new().unwrap();
    let contents: Vec<u8> = (0..SECTORS as usize * 512)
        .map(|at| (at / 512) as u8)
        .collect();
    std::fs::write(disk.path(), &contents).unwrap();
    let kernel = guest.0.reset().file();
    let mut iolite = Command::new(env!("CARGO_BIN_EXE_iolite"));
    iolite.env_remove("RUST_LOG").stdin(Stdio::null());
    iolite
        .args(["run", "--timeout", "60s", "-d"])
        .arg(disk.path());
    let output = iolite.arg(kernel.path()).output().unwrap();
    assert!(
        std::fs::read(disk.path()).unwrap() == contents,
        "the disk was changed"
    );
    output
}

fn every_row_is_survived() {
    let mut guest = Guest::new().recovers();
    for (name, deed) in ROWS {
        guest = deed(guest.says(&format!("{name}\n"))).recovers();
    }
    let output = run(guest);
    let rows = String::from_utf8_lossy(&output.stdout).into_owned();
    let stderr = String::from_utf8_lossy(&output.stderr);
    let last = rows.lines().last().unwrap_or("none");
    assert_eq!(output.status.code(), Some(0), "in row {last}\n{stderr}");
    assert_eq!(rows.lines().count(), ROWS.len());
    // A few lines a second, whatever the guest does.
    assert!(stderr.lines().count() < 100, "{stderr}");
}

/// A guest that looks for something else would notice.
fn a_wrong_answer_is_noticed() {
    let guest = Guest::new().live().request(T_IN, 1, [DATA, 512, WRITE]);
    let output = run(guest.answered(S_IOERR, 1));
    assert_eq!(output.status.code(), Some(3));
}

plain_tests![every_row_is_survived, a_wrong_answer_is_noticed,];
