//! Rows 30 to 37: the rings' indices.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use iolite_devices_abi::mmio as reg;
use iolite_devices_abi::ring::AVAIL_F_NO_INTERRUPT;
use iolite_devices_abi::status::*;
use vm_memory::{Bytes, GuestAddress};

use super::driver::*;

#[test]
fn row_30_more_available_than_the_queue_holds() {
    let mut driver = Driver::live();
    driver.set_avail_idx(QUEUE_SIZE + 1);
    driver.notify();
    driver.assert_broken();
}

#[test]
fn row_31_the_available_index_goes_backwards() {
    let mut driver = Driver::live();
    assert_eq!(driver.request(0, 0, &[w(DATA, 512)]), (0, 513));
    driver.set_avail_idx(0);
    driver.notify();
    driver.assert_broken();
}

#[test]
fn row_32_a_head_outside_the_queue() {
    for head in [QUEUE_SIZE, 0xffff] {
        let mut driver = Driver::live();
        driver.make_available(head);
        driver.notify();
        driver.assert_broken();
    }
}

/// A live driver whose requests stay in flight until they are released.
fn held() -> (Driver, Controls) {
    let (driver, faults) = faulty(config());
    faults.hold();
    (driver, faults)
}

#[test]
fn row_33_a_head_that_is_in_flight() {
    let (mut driver, faults) = held();
    driver.chain_in(DESC, 0, &[driver.header(0, 0), w(DATA, 512), status()]);
    driver.make_available(0);
    driver.notify();
    assert!(eventually(|| faults.held() == 1));
    driver.make_available(0);
    driver.notify();
    assert!(eventually(|| driver.status() & DEVICE_NEEDS_RESET != 0));
    faults.release();
    driver.assert_broken();
}

#[test]
fn row_34_more_in_flight_than_the_queue_holds() {
    let (mut driver, faults) = held();
    // All heads at once, and one again: with two workers most of them are still in the ring, but
    // no order of pulling makes the last one right.
    for head in (0..QUEUE_SIZE).map(|head| head % 2) {
        driver.chain_in(DESC, head, &[driver.header(8, 0)]);
        driver.make_available(head);
    }
    driver.set_avail_idx(2 * QUEUE_SIZE);
    driver.notify();
    faults.release();
    driver.assert_broken();
}

#[test]
fn row_35_an_endless_refill_does_not_hold_up_a_reset() {
    let mut driver = Driver::live();
    // Answered on the spot, so no worker ever waits; another vCPU refills as fast as it can.
    driver.chain_in(DESC, 0, &[driver.header(0x77, 0), status()]);
    for slot in 0..u64::from(QUEUE_SIZE) {
        driver.put(AVAIL + 4 + 2 * slot, 0u16);
    }
    let stop = Arc::new(AtomicBool::new(false));
    let refiller = {
        let (memory, stop) = (driver.memory.clone(), stop.clone());
        thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                let used: u16 = memory
                    .load(GuestAddress(USED + 2), Ordering::Acquire)
                    .unwrap();
                let next = used.wrapping_add(1);
                memory
                    .store(next, GuestAddress(AVAIL + 2), Ordering::Release)
                    .unwrap();
            }
        })
    };
    driver.notify();
    assert!(eventually(|| {
        driver.notify();
        driver.used_idx() > 100
    }));
    driver.write(reg::STATUS, 0);
    assert_eq!(
        driver.status(),
        0,
        "the reset took longer than a vCPU waits"
    );
    stop.store(true, Ordering::Relaxed);
    refiller.join().unwrap();
    driver.assert_recovers();
}

#[test]
fn row_36_any_used_event_and_across_the_wrap() {
    let mut driver = Driver::live_with(memory_disk(), config(), FEATURES | F_EVENT_IDX);
    let used_event = AVAIL + 4 + 2 * u64::from(QUEUE_SIZE);
    // Interrupts come exactly where used_event says, also across the wrap at 65536.
    let wanted = [0u16, 1, 5, 0x7fff, 0xfffe, 0xffff, 3];
    let mut wanted = wanted.iter().copied().peekable();
    driver.put(used_event, wanted.next().unwrap());
    let mut next_event = 0u16;
    let mut expected = 0;
    for used in 0..0x1_0008u32 {
        // GET_ID of a wrong length: answered on the spot, and cheap.
        driver.chain_in(DESC, 0, &[r(HEADERS, 16), status()]);
        if used == 0 {
            driver.header_at(0, 0x77, 0);
        }
        driver.make_available(0);
        driver.notify();
        driver.next_used().unwrap();
        if used as u16 == next_event {
            expected += 1;
            assert!(
                eventually(|| driver.edges.count() == expected),
                "no interrupt at {used}"
            );
            next_event = wanted.next().unwrap_or(0x1000);
            driver.put(used_event, next_event);
        }
    }
    assert_eq!(driver.edges.count(), expected);
    let counters = driver.device.counters();
    assert!(
        eventually(|| {
            let counters = driver.device.counters();
            counters.interrupts_sent == expected
                && counters.interrupts_sent + counters.interrupts_suppressed == 0x1_0008
        }),
        "{counters:?}"
    );
    driver.assert_recovers();
}

#[test]
fn row_36_available_event_lets_every_buffer_be_heard() {
    // Notify only when the device asks for it: no request may be left lying.
    let mut driver = Driver::live_with(memory_disk(), config(), FEATURES | F_EVENT_IDX);
    driver.header_at(0, 0, 1);
    driver.chain_in(DESC, 0, &[r(HEADERS, 16), w(DATA, 512), status()]);
    for _ in 0..2000 {
        driver.make_available(0);
        driver.notify_if_wanted(true);
        assert_eq!(driver.next_used(), Some((0, 513)));
    }
    driver.assert_recovers();
}

#[test]
fn row_36_without_event_idx_the_flags_say_it() {
    let mut driver = Driver::live();
    driver.put(AVAIL, AVAIL_F_NO_INTERRUPT);
    assert_eq!(driver.request(0, 0, &[w(DATA, 512)]), (0, 513));
    assert!(eventually(|| driver
        .device
        .counters()
        .interrupts_suppressed
        == 1));
    assert_eq!(driver.edges.count(), 0);
    driver.put(AVAIL, 0u16);
    assert_eq!(driver.request(0, 0, &[w(DATA, 512)]), (0, 513));
    assert!(eventually(|| driver.edges.count() == 1));
    driver.assert_recovers();
}

#[test]
fn row_37_a_broken_ring_is_latched_once() {
    let mut driver = Driver::live();
    driver.set_avail_idx(0x4000);
    for _ in 0..100 {
        driver.notify();
        thread::sleep(Duration::from_micros(100));
    }
    assert!(eventually(|| driver.status() & DEVICE_NEEDS_RESET != 0));
    assert!(eventually(|| driver.edges.count() == 1));
    // The driver repairs its index: too late.
    driver.set_avail_idx(0);
    driver.notify();
    thread::sleep(Duration::from_millis(2));
    assert_eq!(
        driver.edges.count(),
        1,
        "one configuration change notification, not a stream"
    );
    driver.assert_broken();
}
