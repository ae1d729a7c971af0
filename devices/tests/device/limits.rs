//! Disks with limits: what may not begin yet stays in the ring.

use std::fs;
use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::{Duration, Instant};

use iolite_devices::block::backend::Backend;
use iolite_devices::block::backend::fault::{FaultBackend, Faults};
use iolite_devices::block::inject::{Injection, Latency, Limits, Rate};
use iolite_devices::virtio::blk::BlockConfig;
use iolite_devices_abi::blk::*;
use iolite_devices_abi::mmio as reg;

use super::concurrency::send_reads;
use super::driver::*;

const MS: Duration = Duration::from_millis(1);

fn rate(per_second: u64, burst: u64) -> Option<Rate> {
    NonZeroU64::new(per_second).map(|rate| Rate::new(rate, NonZeroU64::new(burst)))
}

fn requests(per_second: u64, burst: u64) -> Limits {
    Limits {
        requests: rate(per_second, burst),
        bytes: None,
    }
}

fn bytes(per_second: u64, burst: u64) -> Limits {
    Limits {
        requests: None,
        bytes: rate(per_second, burst),
    }
}

fn limited_with(backend: Arc<dyn Backend>, limits: Limits) -> Driver {
    let config = BlockConfig {
        queue_size: 64,
        injection: Injection {
            limits,
            ..Injection::default()
        },
        ..config()
    };
    Driver::live_with(backend, config, FEATURES)
}

/// A disk that the queue's thread serves, and one whose workers pull for themselves.
fn limited(limits: Limits) -> [Driver; 2] {
    let slow = FaultBackend::new(memory_disk(), Arc::new(Faults::default()));
    let backends: [Arc<dyn Backend>; 2] = [memory_disk(), Arc::new(slow)];
    backends.map(|backend| limited_with(backend, limits))
}

/// How long `count` reads take.
fn time_of_reads(driver: &mut Driver, count: u16) -> Duration {
    let start = Instant::now();
    send_reads(driver, count);
    for _ in 0..count {
        assert_eq!(driver.next_used().unwrap().1, 513);
    }
    let time = start.elapsed();
    let len = 512 * usize::from(count);
    assert_eq!(driver.bytes(DATA, len), pattern(len));
    time
}

#[test]
fn the_burst_is_at_once_and_the_rest_at_the_rate() {
    // The rest: 10 requests in 20 ms each.
    for mut driver in limited(requests(50, 5)) {
        let start = Instant::now();
        send_reads(&mut driver, 15);
        for _ in 0..5 {
            driver.next_used().unwrap();
        }
        assert!(start.elapsed() < 150 * MS, "{:?}", start.elapsed());
        driver.assert_quiet();
        for _ in 0..10 {
            driver.next_used().unwrap();
        }
        assert!(start.elapsed() >= 199 * MS, "{:?}", start.elapsed());
        driver.assert_quiet();
    }
}

#[test]
fn bytes_are_limited_whatever_the_requests() {
    // A burst of 4 sectors and what one more takes too much, then one in 10 ms.
    for mut driver in limited(bytes(51_200, 2048)) {
        let time = time_of_reads(&mut driver, 20);
        assert!((149 * MS..5000 * MS).contains(&time), "{time:?}");
        // Flushes move no bytes; a read beyond the burst is paid by the next one.
        let start = Instant::now();
        assert_eq!(driver.request(T_IN, 0, &[w(DATA, 8192)]).0, S_OK);
        for _ in 0..3 {
            assert_eq!(driver.request(T_FLUSH, 0, &[]), (S_OK, 1));
        }
        assert_eq!(driver.request(T_IN, 0, &[w(DATA, 512)]).0, S_OK);
        assert!(start.elapsed() >= 119 * MS, "{:?}", start.elapsed());
    }
}

#[test]
fn both_limits_hold() {
    let limits = Limits {
        requests: rate(100, 1),
        bytes: rate(51_200_000, 512),
    };
    for mut driver in limited(limits) {
        assert!(time_of_reads(&mut driver, 10) >= 89 * MS);
    }
    let limits = Limits {
        requests: rate(1_000_000, 1),
        bytes: rate(51_200, 512),
    };
    for mut driver in limited(limits) {
        assert!(time_of_reads(&mut driver, 10) >= 79 * MS);
    }
}

#[test]
fn a_disk_within_its_limits_is_not_slowed_down() {
    for mut driver in limited(requests(1_000_000, 100_000)) {
        for _ in 0..20 {
            assert!(time_of_reads(&mut driver, 20) < 1000 * MS);
        }
        assert!(driver.device.counters().reads == 400);
    }
}

#[test]
fn a_reset_does_not_wait_for_what_may_not_begin() {
    for mut driver in limited(requests(1, 2)) {
        send_reads(&mut driver, 20);
        for _ in 0..2 {
            driver.next_used().unwrap();
        }
        let start = Instant::now();
        driver.write(reg::STATUS, 0);
        assert!(eventually(|| driver.status() == 0));
        assert!(start.elapsed() < 100 * MS, "{:?}", start.elapsed());
        assert_eq!(driver.device.counters().reads, 2, "the others were pulled");
        driver.start(FEATURES);
        driver.assert_untouched_after_start();
        driver.device.shutdown().unwrap();
    }
}

#[test]
fn nobody_spins_while_nothing_may_begin() {
    let config = BlockConfig {
        injection: Injection {
            limits: requests(2, 1),
            ..Injection::default()
        },
        poll: 10 * MS,
        ..BlockConfig::new("vdlimit")
    };
    let mut driver = Driver::live_with(memory_disk(), config, FEATURES);
    driver.size = QUEUE_SIZE;
    driver.start(FEATURES);
    assert!(time_of_reads(&mut driver, 3) >= 900 * MS);
    let busy = processor_time("vdlimit");
    assert!(busy < 300 * MS, "{busy:?} of about a second");
}

/// How much processor time the threads have used whose names begin like this.
fn processor_time(name: &str) -> Duration {
    let tasks = fs::read_dir("/proc/self/task").unwrap();
    let ticks: u64 = tasks
        .filter_map(|task| fs::read_to_string(task.unwrap().path().join("stat")).ok())
        .filter_map(|stat| {
            let (before, fields) = stat.rsplit_once(')')?;
            let (_, thread) = before.split_once('(')?;
            let mut fields = fields.split_whitespace().skip(11);
            let time =
                || Some(fields.next()?.parse::<u64>().ok()? + fields.next()?.parse::<u64>().ok()?);
            thread.starts_with(name).then(time).flatten()
        })
        .sum();
    // A tick is a hundredth of a second to user space, whatever the kernel's clock.
    Duration::from_millis(10 * ticks)
}

#[test]
fn limits_and_latency_add_up() {
    let injection = Injection {
        limits: requests(100, 1),
        latency: Latency::fixed(50 * MS),
        ..Injection::default()
    };
    let config = BlockConfig {
        queue_size: 64,
        injection,
        ..config()
    };
    let mut driver = Driver::live_with(memory_disk(), config, FEATURES);
    // The last one begins after 90 ms, and they are delayed beside each other.
    let time = time_of_reads(&mut driver, 10);
    assert!((139 * MS..500 * MS).contains(&time), "{time:?}");
}
