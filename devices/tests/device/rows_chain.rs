//! Rows 38 to 52: following descriptors.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use iolite_devices_abi::blk::{S_IOERR, S_OK, T_FLUSH, T_IN};
use iolite_devices_abi::ring::{DESC_F_INDIRECT, DESC_F_NEXT, DESC_F_WRITE, Descriptor};
use vm_memory::{Bytes, GuestAddress};

use super::driver::*;

/// The chain at head 0 makes the device need a reset.
fn broken(mut driver: Driver) {
    driver.make_available(0);
    driver.notify();
    driver.assert_broken();
}

fn read_chain(driver: &Driver) -> Vec<Piece> {
    vec![driver.header(T_IN, 2), w(DATA, 512), status()]
}

#[test]
fn row_38_a_loop() {
    let driver = Driver::live();
    for index in 0..2 {
        let flags = DESC_F_NEXT;
        driver.descriptor(
            DESC,
            index,
            Descriptor {
                addr: DATA,
                len: 16,
                flags,
                next: 1 - index,
            },
        );
    }
    broken(driver);
}

#[test]
fn row_38_a_loop_in_an_indirect_table() {
    let driver = Driver::live();
    driver.indirect(0, 2, 0);
    for index in 0..2 {
        let flags = DESC_F_NEXT;
        driver.descriptor(
            TABLE,
            index,
            Descriptor {
                addr: DATA,
                len: 16,
                flags,
                next: 1 - index,
            },
        );
    }
    broken(driver);
}

#[test]
fn row_39_next_outside_the_table() {
    for next in [QUEUE_SIZE, 0xffff] {
        let driver = Driver::live();
        driver.descriptor(
            DESC,
            0,
            Descriptor {
                addr: DATA,
                len: 16,
                flags: DESC_F_NEXT,
                next,
            },
        );
        broken(driver);
    }
}

#[test]
fn row_40_a_chain_longer_than_2_32_bytes() {
    let mut driver = Driver::live();
    let huge = [w(DATA, u32::MAX), w(DATA, u32::MAX)];
    assert_eq!(driver.request(T_IN, 0, &huge), (S_IOERR, 1));
    driver.assert_recovers();
}

#[test]
fn row_41_indirect_was_not_negotiated() {
    let features = FEATURES & !iolite_devices_abi::status::F_INDIRECT_DESC;
    let driver = Driver::live_with(memory_disk(), config(), features);
    driver.chain_in(TABLE, 0, &read_chain(&driver));
    driver.indirect(0, 3, 0);
    broken(driver);
}

#[test]
fn row_42_indirect_with_next() {
    let driver = Driver::live();
    driver.chain_in(TABLE, 0, &read_chain(&driver));
    driver.indirect(0, 3, DESC_F_NEXT);
    broken(driver);
}

#[test]
fn row_43_indirect_in_indirect() {
    let driver = Driver::live();
    driver.indirect(0, 1, 0);
    let flags = DESC_F_INDIRECT;
    driver.descriptor(
        TABLE,
        0,
        Descriptor {
            addr: TABLE + 0x1000,
            len: 48,
            flags,
            next: 0,
        },
    );
    driver.chain_in(TABLE + 0x1000, 0, &read_chain(&driver));
    broken(driver);
}

#[test]
fn row_44_indirect_tables_of_a_wrong_length() {
    for len in [0, 1, 15, 17, 47] {
        let driver = Driver::live();
        driver.chain_in(TABLE, 0, &read_chain(&driver));
        driver.descriptor(
            DESC,
            0,
            Descriptor {
                addr: TABLE,
                len,
                flags: DESC_F_INDIRECT,
                next: 0,
            },
        );
        broken(driver);
    }
}

#[test]
fn row_45_an_indirect_table_outside_memory() {
    for addr in [HOLE, HOLE - 8, u64::MAX - 15, u64::MAX - 3] {
        let driver = Driver::live();
        driver.descriptor(
            DESC,
            0,
            Descriptor {
                addr,
                len: 48,
                flags: DESC_F_INDIRECT,
                next: 0,
            },
        );
        broken(driver);
    }
}

#[test]
fn row_46_next_outside_the_indirect_table() {
    let driver = Driver::live();
    driver.chain_in(TABLE, 0, &read_chain(&driver));
    // The table ends before the chain does.
    driver.indirect(0, 2, 0);
    broken(driver);
}

#[test]
fn row_47_a_chain_longer_than_the_queue() {
    let driver = Driver::live();
    let mut pieces = vec![driver.header(T_IN, 0)];
    pieces.extend((0..QUEUE_SIZE - 1).map(|at| w(DATA + 512 * u64::from(at), 512)));
    pieces.push(status());
    assert_eq!(pieces.len(), usize::from(QUEUE_SIZE) + 1);
    driver.chain_in(TABLE, 0, &pieces);
    driver.indirect(0, pieces.len() as u32, 0);
    broken(driver);
}

#[test]
fn row_47_a_chain_as_long_as_the_queue() {
    let mut driver = Driver::live();
    let mut pieces = vec![driver.header(T_IN, 0)];
    pieces.extend((0..QUEUE_SIZE - 2).map(|at| w(DATA + 512 * u64::from(at), 512)));
    pieces.push(status());
    driver.chain_in(TABLE, 0, &pieces);
    driver.indirect(0, pieces.len() as u32, 0);
    let bytes = 512 * (usize::from(QUEUE_SIZE) - 2);
    assert_eq!(driver.run_head(0), (S_OK, bytes as u32 + 1));
    assert_eq!(driver.bytes(DATA, bytes), pattern(bytes));
    driver.assert_recovers();
}

#[test]
fn row_48_indirect_with_the_write_flag() {
    let mut driver = Driver::live();
    driver.chain_in(TABLE, 0, &read_chain(&driver));
    driver.indirect(0, 3, DESC_F_WRITE);
    assert_eq!(driver.run_head(0), (S_OK, 513));
    driver.assert_recovers();
}

#[test]
fn row_49_direct_descriptors_then_an_indirect_one() {
    let mut driver = Driver::live();
    let Piece { addr, len, .. } = driver.header(T_IN, 2);
    driver.descriptor(
        DESC,
        0,
        Descriptor {
            addr,
            len,
            flags: DESC_F_NEXT,
            next: 5,
        },
    );
    driver.chain_in(TABLE, 0, &[w(DATA, 512), status()]);
    driver.indirect(5, 2, 0);
    assert_eq!(driver.run_head(0), (S_OK, 513));
    assert_eq!(driver.bytes(DATA, 512), pattern(2048)[1024..1536]);
    driver.assert_recovers();
}

#[test]
fn row_50_descriptors_of_no_length() {
    let mut driver = Driver::live();
    let nothing = [w(0, 0), w(HOLE, 0), w(DATA, 512), w(HOLE, 0)];
    assert_eq!(driver.request(T_IN, 2, &nothing), (S_OK, 513));
    let header = driver.header(T_IN, 2);
    assert_eq!(
        driver.run(&[r(HOLE, 0), header, w(DATA, 512), status(), w(0, 0)]),
        (S_OK, 513)
    );
    assert_eq!(driver.run(&[r(0, 0), w(0, 0)]), (UNTOUCHED, 0));
    driver.assert_recovers();
}

#[test]
fn row_51_readable_after_writable() {
    let mut driver = Driver::live();
    assert_eq!(
        driver.request(T_IN, 0, &[w(DATA, 512), r(DATA, 512)]),
        (S_IOERR, 1)
    );
    driver.assert_recovers();
}

#[test]
fn row_52_memory_that_changes_while_it_is_read() {
    let mut driver = Driver::live();
    driver.header_at(0, T_FLUSH, 0);
    let stop = Arc::new(AtomicBool::new(false));
    let changer = {
        let (memory, stop) = (driver.memory.clone(), stop.clone());
        thread::spawn(move || {
            // Types and sectors in turn, possible and impossible; lengths of the data as well.
            let mut turn = 0u32;
            while !stop.load(Ordering::Relaxed) {
                turn = turn.wrapping_add(1);
                let put32 = |addr, value: u32| {
                    memory
                        .store(value, GuestAddress(addr), Ordering::Relaxed)
                        .unwrap();
                };
                put32(HEADERS, turn % 9);
                put32(
                    HEADERS + 8,
                    if turn.is_multiple_of(3) { u32::MAX } else { 0 },
                );
                put32(
                    DESC + 16 + 8,
                    if turn.is_multiple_of(2) { 512 } else { 1 << 20 },
                );
                put32(
                    DESC + 16,
                    if turn.is_multiple_of(5) {
                        HOLE as u32
                    } else {
                        DATA as u32
                    },
                );
            }
        })
    };
    driver.chain_in(DESC, 0, &[r(HEADERS, 16), w(DATA, 512), status()]);
    for _ in 0..2000 {
        driver.put(STATUS, UNTOUCHED);
        let (status, len) = driver.run_head(0);
        assert!(status <= 2, "status {status:#x}");
        assert!([1, 513].contains(&len), "used length {len}");
    }
    stop.store(true, Ordering::Relaxed);
    changer.join().unwrap();
    driver.assert_recovers();
}
