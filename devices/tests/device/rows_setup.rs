//! Rows 1 to 13: setting up a queue.

use iolite_devices_abi::mmio as reg;
use iolite_devices_abi::status::*;

use super::driver::*;

fn negotiated() -> Driver {
    let driver = Driver::cold(memory_disk(), config());
    driver.negotiate(FEATURES);
    driver
}

/// A queue that cannot be: the device says that it needs a reset.
fn refused(place: impl FnOnce(&mut Driver)) {
    let mut driver = negotiated();
    place(&mut driver);
    driver.assert_set_up_refused();
}

fn refused_size(size: u32) {
    refused(|driver| {
        driver.write(reg::QUEUE_SEL, 0);
        driver.write(reg::QUEUE_NUM, size);
    });
}

#[test]
fn row_01_queue_size_zero() {
    refused_size(0);
}

#[test]
fn row_02_queue_size_not_a_power_of_two() {
    refused_size(12);
}

#[test]
fn row_03_queue_size_above_the_maximum() {
    refused_size(u32::from(QUEUE_SIZE) * 2);
}

#[test]
fn row_04_queue_size_is_not_truncated() {
    refused_size(0x1_0008);
    refused_size(0x8000_0000 | 8);
}

#[test]
fn row_05_no_queue_beyond_the_last() {
    let mut driver = negotiated();
    for selector in [1, 2, 0xffff, 0x1_0000, u32::MAX] {
        driver.write(reg::QUEUE_SEL, selector);
        assert_eq!(driver.read(reg::QUEUE_NUM_MAX), 0, "{selector:#x}");
        driver.write(reg::QUEUE_NUM, 8);
        driver.write(reg::QUEUE_READY, 1);
        assert_eq!(driver.read(reg::QUEUE_READY), 0, "{selector:#x}");
    }
    driver.write(reg::QUEUE_SEL, 0);
    assert_eq!(driver.read(reg::QUEUE_NUM_MAX), u32::from(QUEUE_SIZE));
    assert_eq!(driver.status() & DEVICE_NEEDS_RESET, 0);
    driver.assert_recovers();
}

#[test]
fn row_06_a_ring_outside_memory() {
    refused(|driver| driver.place_queue(0xf000_0000, AVAIL, USED));
    refused(|driver| driver.place_queue(DESC, HOLE, USED));
    refused(|driver| driver.place_queue(DESC, AVAIL, 1 << 40));
}

#[test]
fn row_07_an_address_that_wraps() {
    refused(|driver| driver.place_queue(u64::MAX - 15, AVAIL, USED));
    refused(|driver| driver.place_queue(DESC, u64::MAX - 1, USED));
    refused(|driver| driver.place_queue(DESC, AVAIL, u64::MAX - 3));
}

#[test]
fn row_08_a_misaligned_ring() {
    refused(|driver| driver.place_queue(DESC + 8, AVAIL, USED));
    refused(|driver| driver.place_queue(DESC, AVAIL + 1, USED));
    refused(|driver| driver.place_queue(DESC, AVAIL, USED + 2));
}

#[test]
fn row_09_rings_that_overlap() {
    // The driver's own folly: whatever the device makes of it, it lives and can be reset.
    let mut driver = negotiated();
    driver.place_queue(DESC, DESC, DESC);
    driver.driver_ok();
    driver.chain_in(DESC, 0, &[driver.header(0, 0), w(DESC, 512), status()]);
    for _ in 0..64 {
        driver.notify();
    }
    driver.assert_recovers();
}

#[test]
fn row_10_a_ring_over_a_border_of_memory() {
    refused(|driver| driver.place_queue(SEAM - 16, AVAIL, USED));
    refused(|driver| driver.place_queue(DESC, HOLE - 4, USED));
    refused(|driver| driver.place_queue(DESC, AVAIL, HOLE - 4));
    refused(|driver| driver.place_queue(HOLE - 16, AVAIL, USED));
}

#[test]
fn row_11_ready_without_addresses() {
    refused(|driver| {
        driver.write(reg::QUEUE_SEL, 0);
        driver.write(reg::QUEUE_NUM, 8);
        driver.write(reg::QUEUE_READY, 1);
    });
}

#[test]
fn row_11_ready_takes_no_other_value_than_one() {
    let mut driver = negotiated();
    for value in [2, 3, u32::MAX] {
        driver.write(reg::QUEUE_READY, value);
        assert_eq!(driver.read(reg::QUEUE_READY), 0);
        assert_eq!(driver.status() & DEVICE_NEEDS_RESET, 0);
    }
    driver.assert_recovers();
}

#[test]
fn row_12_queue_registers_of_a_live_device() {
    let mut driver = Driver::live();
    driver.write(reg::QUEUE_NUM, 3);
    driver.write(reg::QUEUE_DESC_LOW, 0xdead_beef);
    driver.write(reg::QUEUE_DRIVER_HIGH, 7);
    driver.write(reg::QUEUE_DEVICE_LOW, 1);
    driver.write(reg::QUEUE_READY, 1);
    assert_eq!(driver.status() & DEVICE_NEEDS_RESET, 0);
    assert_eq!(driver.request(0, 0, &[w(DATA, 512)]), (0, 513));
    driver.assert_recovers();
}

#[test]
fn row_13_a_live_queue_is_taken_away() {
    let mut driver = Driver::live();
    assert_eq!(driver.request(0, 0, &[w(DATA, 512)]), (0, 513));
    driver.write(reg::QUEUE_READY, 0);
    assert!(eventually(|| driver.read(reg::QUEUE_READY) == 0));
    driver.make_available(0);
    driver.notify();
    driver.assert_quiet();
    driver.assert_recovers();
}
