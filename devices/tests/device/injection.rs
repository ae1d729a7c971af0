//! A disk that is slow or faulty on purpose, as its driver sees it.

use std::num::NonZeroU64;
use std::time::{Duration, Instant};

use iolite_devices::block::inject::{Failure, Injection, Latency, Operation, Which};
use iolite_devices::virtio::blk::{BlockConfig, BlockDevice, BlockError};
use iolite_devices_abi::blk::*;
use iolite_devices_abi::mmio as reg;

use super::concurrency::send_reads;
use super::driver::*;

const MS: Duration = Duration::from_millis(1);

/// A live disk of one worker with this injected.
fn injected(injection: Injection) -> Driver {
    let config = BlockConfig {
        workers: 1,
        queue_size: 64,
        injection,
        ..config()
    };
    Driver::live_with(memory_disk(), config, FEATURES)
}

fn slow(latency: Option<Latency>) -> Driver {
    assert!(latency.is_some());
    injected(Injection {
        latency,
        ..Injection::default()
    })
}

fn failing(failures: &[(Operation, Which)]) -> Driver {
    let failures = failures.iter();
    injected(Injection {
        failures: failures
            .map(|&(operation, which)| Failure { operation, which })
            .collect(),
        ..Injection::default()
    })
}

#[test]
fn a_request_takes_at_least_its_latency() {
    let mut driver = slow(Latency::fixed(10 * MS));
    for request_type in [T_IN, T_FLUSH] {
        let start = Instant::now();
        let data = [w(DATA, 512)];
        let data = if request_type == T_IN { &data[..] } else { &[] };
        assert_eq!(driver.request(request_type, 0, data).0, S_OK);
        assert!(start.elapsed() >= 10 * MS, "{:?}", start.elapsed());
    }
    assert_eq!(driver.bytes(DATA, 512), pattern(512));
}

#[test]
fn one_worker_delays_a_whole_ring_at_once() {
    let mut driver = slow(Latency::fixed(250 * MS));
    let start = Instant::now();
    send_reads(&mut driver, 20);
    for n in 0..20 {
        assert_eq!(
            driver.next_used(),
            Some((3 * n, 513)),
            "in order when all are equal"
        );
    }
    let took = start.elapsed();
    assert!(took >= 250 * MS, "{took:?}");
    assert!(took < 10 * 250 * MS, "one after the other: {took:?}");
    assert_eq!(driver.device.counters().max_in_flight, 20);
    assert_eq!(driver.bytes(DATA, 20 * 512), pattern(20 * 512));
}

#[test]
fn a_range_of_latencies_completes_in_another_order() {
    let order = || {
        let mut driver = slow(Latency::between(MS, 400 * MS));
        send_reads(&mut driver, 16);
        (0..16)
            .map(|_| driver.next_used().unwrap().0 / 3)
            .collect::<Vec<_>>()
    };
    let mut heads = order();
    assert!(!heads.is_sorted(), "{heads:?}");
    heads.sort_unstable();
    assert!(heads.into_iter().eq(0..16));
}

#[test]
fn a_reset_waits_for_what_is_delayed() {
    let mut driver = slow(Latency::fixed(120 * MS));
    send_reads(&mut driver, 8);
    assert!(eventually(|| driver.device.counters().reads == 8));
    let start = Instant::now();
    driver.write(reg::STATUS, 0);
    assert!(start.elapsed() < 120 * MS, "the vCPU waited for the disk");
    assert!(eventually(|| driver.status() == 0));
    assert!(
        start.elapsed() > 60 * MS,
        "reset while requests were in flight"
    );
    driver.start(FEATURES);
    driver.assert_untouched_after_start();
    driver.assert_recovers();
}

#[test]
fn a_shutdown_does_not_wait_for_what_is_delayed() {
    let mut driver = slow(Latency::fixed(Latency::MAX));
    send_reads(&mut driver, 8);
    assert!(eventually(|| driver.device.counters().reads == 8));
    driver.device.shutdown().unwrap();
    for n in 0..8 {
        assert_eq!(driver.next_used(), Some((3 * n, 513)));
    }
    driver.assert_quiet();
}

#[test]
fn what_is_answered_without_the_disk_is_not_delayed() {
    let mut driver = slow(Latency::fixed(Latency::MAX));
    assert_eq!(driver.request(T_GET_ID, 0, &[w(DATA, 20)]), (S_OK, 21));
    assert_eq!(driver.request(T_IN, SECTORS, &[w(DATA, 512)]), (S_IOERR, 1));
}

#[test]
fn chosen_sectors_fail_and_no_others() {
    let which = Which::Sectors {
        first: 10,
        last: 11,
    };
    let mut driver = failing(&[(Operation::Read, which)]);
    for (sector, bytes, expected) in [
        (9, 512, (S_OK, 513)),
        (9, 1024, (S_IOERR, 1)),
        (10, 512, (S_IOERR, 1)),
        (11, 512, (S_IOERR, 1)),
        (12, 512, (S_OK, 513)),
        (0, 32768, (S_IOERR, 1)),
    ] {
        assert_eq!(
            driver.request(T_IN, sector, &[w(DATA, bytes)]),
            expected,
            "{bytes} bytes at sector {sector}"
        );
    }
    assert_eq!(driver.request(T_OUT, 10, &[r(DATA, 512)]), (S_OK, 1));
    assert_eq!(driver.request(T_FLUSH, 0, &[]), (S_OK, 1));
    assert_eq!(driver.device.counters().errors, 4);
}

#[test]
fn a_write_that_fails_changes_nothing() {
    let mut driver = failing(&[(Operation::Write, Which::Sectors { first: 3, last: 3 })]);
    driver.memory_fill(DATA, 1024, 0x5a);
    assert_eq!(driver.request(T_OUT, 2, &[r(DATA, 1024)]), (S_IOERR, 1));
    assert_eq!(driver.request(T_IN, 2, &[w(DATA, 1024)]), (S_OK, 1025));
    assert_eq!(driver.bytes(DATA, 1024), pattern(2048)[1024..]);
}

#[test]
fn each_failure_counts_all_of_its_requests() {
    let every = |n| (Operation::Read, Which::Every(NonZeroU64::new(n).unwrap()));
    let mut driver = failing(&[every(2), every(3)]);
    let failed: Vec<_> = (1..=12)
        .filter(|_| driver.request(T_IN, 0, &[w(DATA, 512)]).0 == S_IOERR)
        .collect();
    assert_eq!(failed, [2, 3, 4, 6, 8, 9, 10, 12]);
}

#[test]
fn a_ring_full_of_failures_is_worked_off() {
    let mut driver = failing(&[(Operation::Read, Which::All)]);
    for _ in 0..50 {
        send_reads(&mut driver, 20);
        for n in 0..20 {
            assert_eq!(driver.next_used(), Some((3 * n, 1)));
        }
    }
    assert_eq!(driver.request(T_OUT, 0, &[r(DATA, 512)]), (S_OK, 1));
}

#[test]
fn a_failure_takes_as_long_as_a_success() {
    let mut driver = injected(Injection {
        latency: Latency::fixed(20 * MS),
        failures: vec![Failure {
            operation: Operation::Read,
            which: Which::All,
        }],
        ..Injection::default()
    });
    let start = Instant::now();
    assert_eq!(driver.request(T_IN, 0, &[w(DATA, 512)]), (S_IOERR, 1));
    assert!(start.elapsed() >= 20 * MS);
}

#[test]
fn the_last_flush_is_the_real_one() {
    let mut driver = failing(&[(Operation::Flush, Which::All)]);
    assert_eq!(driver.request(T_FLUSH, 0, &[]), (S_IOERR, 1));
    driver.device.shutdown().unwrap();
}

#[test]
fn a_write_that_must_be_durable_fails_with_flushes() {
    for (features, expected) in [(FEATURES, S_OK), (FEATURES & !F_FLUSH, S_IOERR)] {
        let mut driver = failing(&[(Operation::Flush, Which::All)]);
        driver.start(features);
        assert_eq!(driver.request(T_OUT, 0, &[r(DATA, 512)]), (expected, 1));
    }
}

#[test]
fn sectors_beyond_the_disk_cannot_fail() {
    let new = |last| {
        let injection = Injection {
            failures: vec![Failure {
                operation: Operation::Read,
                which: Which::Sectors { first: 0, last },
            }],
            ..Injection::default()
        };
        let config = BlockConfig {
            injection,
            ..config()
        };
        let driver = Driver::live();
        BlockDevice::on_mmio(
            driver.memory.clone(),
            memory_disk(),
            config,
            driver.edges.clone(),
        )
    };
    assert!(new(SECTORS - 1).is_ok());
    let error = new(SECTORS).err();
    assert!(matches!(
        error,
        Some(BlockError::FailingSector {
            sector: SECTORS,
            ..
        })
    ));
}
