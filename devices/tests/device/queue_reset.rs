//! RING_RESET: a driver resets one queue of a live disk, and sets it up again (virtio 1.2, sections
//! 2.6.1 and 4.2.2).

use std::sync::Arc;

use iolite_devices::block::backend::fault::FaultBackend;
use iolite_devices_abi::blk::{S_IOERR, S_OK, T_IN};
use iolite_devices_abi::mmio as reg;
use iolite_devices_abi::status::*;

use super::driver::*;

const RESETS: u64 = FEATURES | F_RING_RESET;

fn live() -> Driver {
    Driver::live_with(memory_disk(), config(), RESETS)
}

/// A live disk whose requests can be held.
fn holding() -> (Driver, Controls) {
    let controls = Controls::default();
    let backend = Arc::new(FaultBackend::new(memory_disk(), controls.0.clone()));
    (Driver::live_with(backend, config(), RESETS), controls)
}

/// Sends a read of sector 1 and does not wait.
fn send(driver: &mut Driver) {
    driver.put(STATUS, UNTOUCHED);
    let pieces = [driver.header(T_IN, 1), w(DATA, 512), status()];
    driver.chain_in(DESC, 0, &pieces);
    driver.make_available(0);
    driver.notify();
}

/// The queue is placed anew, with rings that are empty.
fn place_again(driver: &mut Driver) {
    driver.clear_rings();
    driver.place_queue(DESC, AVAIL, USED);
    assert_eq!(driver.read(reg::QUEUE_READY), 1);
}

#[track_caller]
fn assert_reads(driver: &mut Driver) {
    assert_eq!(driver.request(T_IN, 1, &[w(DATA, 512)]), (S_OK, 513));
}

#[test]
fn a_queue_that_was_reset_begins_anew() {
    let mut driver = live();
    for round in 1..50u16 {
        for _ in 0..round {
            assert_reads(&mut driver);
        }
        driver.write(reg::QUEUE_RESET, 1);
        assert_eq!(driver.read(reg::QUEUE_RESET), 0);
        assert_eq!(driver.read(reg::QUEUE_READY), 0);
        driver.size = [4, 8, 16][usize::from(round % 3)];
        place_again(&mut driver);
    }
    let status = ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK;
    assert_eq!(driver.status(), status, "the device lives on");
}

#[test]
fn a_reset_waits_for_what_is_in_flight_and_nothing_comes_after_it() {
    let (mut driver, faults) = holding();
    faults.hold();
    send(&mut driver);
    assert!(eventually(|| faults.held() == 1));
    driver.write(reg::QUEUE_RESET, 1);
    assert_eq!(driver.read(reg::QUEUE_RESET), 1, "a request is in flight");
    assert_eq!(driver.read(reg::QUEUE_READY), 1);
    // Twice is once; and nothing else can be done meanwhile.
    driver.write(reg::QUEUE_RESET, 1);
    driver.write(reg::QUEUE_READY, 0);
    driver.place_queue(HOLE, AVAIL, USED);
    assert_eq!(driver.status() & DEVICE_NEEDS_RESET, 0);
    assert_eq!(driver.read(reg::QUEUE_RESET), 1);
    faults.release();
    assert!(eventually(|| driver.read(reg::QUEUE_RESET) == 0));
    assert_eq!(driver.read(reg::QUEUE_READY), 0);
    let (edges, used) = (driver.edges.count(), driver.used_idx());
    // What is made available while there is no queue is never looked at.
    driver.make_available(0);
    driver.notify();
    std::thread::sleep(std::time::Duration::from_millis(5));
    assert_eq!((driver.edges.count(), driver.used_idx()), (edges, used));
    place_again(&mut driver);
    assert_reads(&mut driver);
}

#[test]
fn what_was_given_back_is_not_touched() {
    for (register, value) in [(reg::QUEUE_RESET, 1), (reg::QUEUE_READY, 0)] {
        let mut driver = live();
        assert_reads(&mut driver);
        driver.write(register, value);
        assert!(eventually(|| driver.read(reg::QUEUE_READY) == 0));
        // The memory is the driver's again; notifications that are late or wrong change nothing.
        driver.memory_fill(AVAIL, 0x2000, UNTOUCHED);
        driver.memory_fill(USED, 0x2000, UNTOUCHED);
        for _ in 0..20 {
            driver
                .device
                .queue_notify()
                .next()
                .unwrap()
                .write(1)
                .unwrap();
            std::thread::sleep(std::time::Duration::from_micros(500));
        }
        assert!(driver.bytes(USED, 0x2000) == [UNTOUCHED; 0x2000]);
        driver.assert_recovers();
    }
}

#[test]
fn without_the_feature_the_register_is_nothing() {
    let mut driver = Driver::live();
    driver.write(reg::QUEUE_RESET, 1);
    assert_eq!(driver.read(reg::QUEUE_RESET), 0);
    assert_eq!(driver.read(reg::QUEUE_READY), 1);
    assert_reads(&mut driver);
}

#[test]
fn resets_that_mean_nothing() {
    let mut driver = live();
    for (queue, value) in [(0, 0), (0, 2), (0, u32::MAX), (1, 1), (0x1_0000, 1)] {
        driver.write(reg::QUEUE_SEL, queue);
        driver.write(reg::QUEUE_RESET, value);
        assert_eq!(driver.read(reg::QUEUE_RESET), 0);
    }
    driver.write(reg::QUEUE_SEL, 0);
    assert_eq!(driver.read(reg::QUEUE_READY), 1);
    assert_reads(&mut driver);
    driver.assert_recovers();
}

#[test]
fn before_driver_ok_a_reset_forgets_the_set_up() {
    let mut driver = Driver::cold(memory_disk(), config());
    driver.negotiate(RESETS);
    driver.place_queue(DESC, AVAIL, USED);
    driver.write(reg::QUEUE_RESET, 1);
    assert_eq!(driver.read(reg::QUEUE_READY), 0);
    driver.place_queue(DESC, AVAIL, USED);
    driver.driver_ok();
    assert_reads(&mut driver);
    driver.write(reg::QUEUE_NUM, 3);
    driver.write(reg::QUEUE_DESC_LOW, 1);
    assert_eq!(
        driver.status() & DEVICE_NEEDS_RESET,
        0,
        "it is the device's"
    );
    assert_reads(&mut driver);
}

#[test]
fn a_queue_that_cannot_be_set_up_again_breaks_the_device() {
    for wrong in [
        |driver: &Driver| driver.write(reg::QUEUE_NUM, 3),
        |driver: &Driver| driver.write(reg::QUEUE_READY, 1),
        |driver: &Driver| driver.place_queue(HOLE, AVAIL, USED),
    ] {
        let mut driver = live();
        driver.write(reg::QUEUE_RESET, 1);
        wrong(&driver);
        driver.assert_broken();
    }
}

#[test]
fn a_broken_ring_is_not_mended_by_resetting_its_queue() {
    let mut driver = live();
    driver.set_avail_idx(QUEUE_SIZE + 1);
    driver.notify();
    assert!(eventually(|| driver.status() & DEVICE_NEEDS_RESET != 0));
    driver.write(reg::QUEUE_RESET, 1);
    driver.clear_rings();
    driver.place_queue(DESC, AVAIL, USED);
    send(&mut driver);
    driver.assert_quiet();
    assert_ne!(driver.status() & DEVICE_NEEDS_RESET, 0);
    driver.assert_recovers();
}

#[test]
fn after_failed_no_queue_comes_back() {
    let mut driver = live();
    driver.write(reg::QUEUE_RESET, 1);
    driver.write(reg::STATUS, driver.status() | FAILED);
    driver.clear_rings();
    driver.place_queue(DESC, AVAIL, USED);
    driver.write(reg::QUEUE_RESET, 1);
    driver.place_queue(DESC, AVAIL, USED);
    assert_eq!(driver.read(reg::QUEUE_READY), 0);
    send(&mut driver);
    driver.assert_quiet();
    driver.assert_recovers();
}

#[test]
fn a_device_reset_ends_a_queue_reset() {
    let (mut driver, faults) = holding();
    faults.hold();
    send(&mut driver);
    assert!(eventually(|| faults.held() == 1));
    driver.write(reg::QUEUE_RESET, 1);
    driver.write(reg::STATUS, 0);
    assert_ne!(driver.status(), 0, "a request is in flight");
    faults.release();
    assert!(eventually(|| driver.status() == 0));
    driver.assert_recovers();
}

#[test]
fn requests_fail_and_succeed_around_resets() {
    let mut driver = live();
    for round in 0..200u64 {
        if round % 3 == 0 {
            driver.write(reg::QUEUE_RESET, 1);
            assert!(eventually(|| driver.read(reg::QUEUE_RESET) == 0));
            place_again(&mut driver);
        }
        assert_reads(&mut driver);
        let beyond = driver.request(T_IN, SECTORS, &[w(DATA, 512)]);
        assert_eq!(beyond, (S_IOERR, 1));
        // One more is in flight when the queue is reset.
        send(&mut driver);
        if round % 3 != 2 {
            assert!(driver.next_used().is_some());
        }
    }
}
