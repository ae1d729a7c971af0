//! Many requests at once: order, drains, workers.

use std::time::Duration;

use iolite_devices::block::backend::fault::{Effect, Operation};
use iolite_devices::virtio::blk::BlockConfig;
use iolite_devices_abi::blk::*;
use iolite_devices_abi::mmio as reg;
use iolite_devices_abi::status::F_EVENT_IDX;

use super::driver::*;

/// A live disk of `workers` workers, and the controls of its faults.
fn workers(workers: usize) -> (Driver, Controls) {
    faulty(BlockConfig {
        workers,
        queue_size: 64,
        ..config()
    })
}

/// Makes `count` reads of one sector each available: request n reads sector n into its own place,
/// its head is 3 n. Notifies once.
pub fn send_reads(driver: &mut Driver, count: u16) {
    for n in 0..count {
        let header = r(driver.header_at(n, T_IN, n.into()), 16);
        let data = w(DATA + 512 * u64::from(n), 512);
        driver.chain_in(DESC, 3 * n, &[header, data, w(STATUS + u64::from(n), 1)]);
        driver.make_available(3 * n);
    }
    driver.notify();
}

#[test]
fn requests_complete_in_any_order() {
    let (mut driver, faults) = workers(4);
    faults.hold();
    send_reads(&mut driver, 4);
    assert!(
        eventually(|| faults.held() == 4),
        "one notification wakes as many as useful"
    );
    for n in [2u16, 0, 3, 1] {
        faults.release_at(512 * u64::from(n));
        assert_eq!(driver.next_used(), Some((3 * n, 513)));
        assert_eq!(driver.get::<u8>(STATUS + u64::from(n)), S_OK);
    }
    assert_eq!(driver.bytes(DATA, 2048), pattern(2048));
    assert_eq!(driver.device.counters().max_in_flight, 4);
}

#[test]
fn staggered_requests_complete_in_reverse_order() {
    let (mut driver, faults) = workers(4);
    faults.stagger(4, Duration::from_millis(20));
    send_reads(&mut driver, 4);
    // Who of the workers comes first is not ours to say, so one of the four is all that is sure.
    let order: Vec<_> = (0..4).map(|_| driver.next_used().unwrap().0).collect();
    let mut sorted = order.clone();
    sorted.sort_unstable();
    assert_eq!(sorted, [0, 3, 6, 9]);
    assert_eq!(driver.bytes(DATA, 2048), pattern(2048));
}

#[test]
fn nothing_is_popped_that_cannot_be_started() {
    let (mut driver, faults) = workers(2);
    faults.hold();
    send_reads(&mut driver, 8);
    assert!(eventually(|| faults.held() == 2));
    driver.assert_quiet();
    assert_eq!(
        driver.device.counters().reads,
        2,
        "the ring is the only backlog"
    );
    faults.release();
    let mut heads: Vec<_> = (0..8).map(|_| driver.next_used().unwrap().0).collect();
    heads.sort_unstable();
    assert_eq!(heads, (0..8).map(|n| 3 * n).collect::<Vec<_>>());
}

#[test]
fn as_many_workers_run_as_there_is_work_for() {
    let (mut driver, faults) = workers(16);
    faults.hold();
    send_reads(&mut driver, 16);
    assert!(
        eventually(|| faults.held() == 16),
        "{} of 16 run",
        faults.held()
    );
    assert_eq!(driver.device.counters().max_in_flight, 16);
}

/// The second of two requests finishes while the first one is held, although the driver notifies
/// only when it is asked to.
fn overtakes(event_idx: bool) {
    let (mut driver, faults) = workers(2);
    driver.start(FEATURES | if event_idx { F_EVENT_IDX } else { 0 });
    let read = |driver: &mut Driver, n: u16| {
        let header = r(driver.header_at(n, T_IN, n.into()), 16);
        driver.chain_in(DESC, 3 * n, &[header, w(DATA, 512), w(STATUS, 1)]);
        driver.make_available(3 * n);
        driver.notify_if_wanted(event_idx)
    };
    faults.hold();
    assert!(
        read(&mut driver, 0),
        "an idle device does not want to hear of buffers"
    );
    assert!(eventually(|| faults.held() == 1));
    faults.release_at(512);
    read(&mut driver, 1);
    assert_eq!(driver.next_used(), Some((3, 513)));
    faults.release();
    assert_eq!(driver.next_used(), Some((0, 513)));
}

#[test]
fn a_later_request_does_not_wait_for_a_slow_one() {
    overtakes(false);
}

#[test]
fn a_later_request_does_not_wait_for_a_slow_one_with_event_idx() {
    overtakes(true);
}

/// Whoever completes it decides on the interrupt, whatever the queue's thread is about to do.
#[test]
fn an_interrupt_does_not_wait_for_a_slow_request() {
    let (mut driver, faults) = workers(2);
    for round in 0..300 {
        faults.hold();
        send_reads(&mut driver, 2);
        assert!(eventually(|| faults.held() == 2));
        let edges = driver.edges.count();
        faults.release_at(512);
        assert!(
            eventually(|| driver.edges.count() > edges),
            "no interrupt in round {round}"
        );
        assert_eq!(driver.next_used(), Some((3, 513)));
        faults.release();
        assert_eq!(driver.next_used(), Some((0, 513)));
    }
}

#[test]
fn busy_workers_are_not_notified() {
    for event_idx in [false, true] {
        let (mut driver, faults) = workers(1);
        driver.start(FEATURES | if event_idx { F_EVENT_IDX } else { 0 });
        faults.hold();
        send_reads(&mut driver, 8);
        assert!(eventually(|| faults.held() == 1));
        // Seven are left in the ring, and a worker that comes back to them.
        driver.header_at(9, T_IN, 9);
        driver.chain_in(
            DESC,
            27,
            &[r(HEADERS + 144, 16), w(DATA, 512), w(STATUS, 1)],
        );
        driver.make_available(27);
        assert!(!driver.notify_if_wanted(event_idx));
        faults.release();
        for _ in 0..9 {
            assert_eq!(driver.next_used().unwrap().1, 513);
        }
    }
}

#[test]
fn a_panic_in_the_backend_is_an_error_of_one_request() {
    let (mut driver, faults) = workers(1);
    faults.fail(Operation::Read, 0..512, Effect::Panic);
    for _ in 0..3 {
        assert_eq!(driver.request(T_IN, 0, &[w(DATA, 512)]), (S_IOERR, 1));
        assert_eq!(driver.request(T_IN, 1, &[w(DATA, 512)]), (S_OK, 513));
    }
    assert_eq!(driver.device.counters().errors, 3);
}

#[test]
fn an_error_is_that_request_alone() {
    let (mut driver, faults) = workers(2);
    faults.fail(Operation::Write, 1024..1536, Effect::Error(libc::ENOSPC));
    assert_eq!(driver.request(T_OUT, 2, &[r(DATA, 512)]), (S_IOERR, 1));
    assert_eq!(driver.request(T_OUT, 1, &[r(DATA, 1024)]), (S_IOERR, 1));
    assert_eq!(driver.request(T_OUT, 3, &[r(DATA, 512)]), (S_OK, 1));
    assert_eq!(driver.request(T_IN, 2, &[w(DATA, 512)]), (S_OK, 513));
    faults.heal();
    assert_eq!(driver.request(T_OUT, 2, &[r(DATA, 512)]), (S_OK, 1));
}

#[test]
fn writes_are_durable_where_flush_was_not_accepted() {
    for (features, expected) in [(FEATURES, S_OK), (FEATURES & !F_FLUSH, S_IOERR)] {
        let (mut driver, faults) = workers(1);
        driver.start(features);
        // Only a write that is flushed before it completes notices.
        faults.fail(Operation::Flush, 0..0, Effect::Error(libc::EIO));
        assert_eq!(driver.request(T_OUT, 0, &[r(DATA, 512)]), (expected, 1));
    }
}

#[test]
fn shutdown_finishes_what_is_in_flight() {
    let (mut driver, faults) = workers(4);
    faults.set_latency(Duration::from_millis(30));
    send_reads(&mut driver, 8);
    assert!(eventually(|| driver.device.counters().reads >= 4));
    driver.device.shutdown().unwrap();
    let reads = driver.device.counters().reads;
    for _ in 0..reads {
        driver.next_used().unwrap();
    }
    driver.assert_quiet();
    driver.device.shutdown().unwrap();
    // Nobody pulls any more, whatever the driver does.
    driver.start(FEATURES);
    send_reads(&mut driver, 1);
    driver.assert_quiet();
}

#[test]
fn shutdown_reports_a_failed_flush() {
    let (driver, faults) = workers(1);
    faults.fail(Operation::Flush, 0..0, Effect::Error(libc::EIO));
    assert!(driver.device.shutdown().is_err());
    faults.heal();
}

#[test]
fn resets_under_load_lose_and_invent_nothing() {
    let (mut driver, faults) = workers(4);
    faults.set_latency(Duration::from_micros(200));
    for round in 0..50 {
        send_reads(&mut driver, 16);
        if round % 3 == 0 {
            driver.next_used().unwrap();
        }
        driver.write(reg::STATUS, 0);
        assert!(eventually(|| driver.status() == 0));
        driver.start(FEATURES);
        driver.assert_untouched_after_start();
    }
    faults.set_latency(Duration::ZERO);
    driver.assert_recovers();
}

#[test]
fn every_byte_is_right_under_load() {
    let (mut driver, _faults) = workers(16);
    for round in 0..200u32 {
        let count = 1 + (round % 20) as u16;
        driver.memory_fill(DATA, 512 * usize::from(count), 0);
        send_reads(&mut driver, count);
        for _ in 0..count {
            assert_eq!(driver.next_used().unwrap().1, 513);
        }
        let bytes = 512 * usize::from(count);
        assert_eq!(driver.bytes(DATA, bytes), pattern(bytes), "round {round}");
    }
}
