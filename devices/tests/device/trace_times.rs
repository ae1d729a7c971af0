//! The times of a request's events: each of its moments between the one before and the one after, and all
//! of them between what the driver does before and after, whichever threads see them.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use iolite_devices::block::backend::{Backend, Waits};
use iolite_devices::block::buffers::GuestBuffers;
use iolite_devices::trace::{self, EventLog, Point};
use iolite_devices::virtio::blk::BlockConfig;
use iolite_devices_abi::blk::*;

use super::driver::*;

const DISK: &str = "vd-times";
const MOMENTS: [Point; 5] = [
    Point::Popped,
    Point::Parsed,
    Point::Begun,
    Point::Ended,
    Point::Used,
];

/// A disk that serves some requests at once and leaves the others to workers.
struct Mixed {
    waits: Waits,
    asked: AtomicU64,
}

impl Backend for Mixed {
    fn capacity(&self) -> u64 {
        1 << 20
    }

    fn read_only(&self) -> bool {
        false
    }

    fn read(&self, _: u64, _: &GuestBuffers) -> io::Result<()> {
        Ok(())
    }

    fn write(&self, _: u64, _: &GuestBuffers) -> io::Result<()> {
        Ok(())
    }

    fn write_zeroes(&self, _: u64, _: u64, _: bool) -> io::Result<()> {
        Ok(())
    }

    fn flush(&self) -> io::Result<()> {
        Ok(())
    }

    fn waits(&self) -> Waits {
        self.waits
    }

    fn read_now(&self, _: u64, _: &GuestBuffers) -> bool {
        !self.asked.fetch_add(1, Ordering::Relaxed).is_multiple_of(3)
    }
}

#[test]
fn every_moment_is_between_those_beside_it() {
    // The only test of this process that watches.
    trace::start();
    for waits in [Waits::Always, Waits::Sometimes, Waits::Never] {
        let backend = Arc::new(Mixed {
            waits,
            asked: AtomicU64::new(0),
        });
        let config = BlockConfig {
            workers: 3,
            ..BlockConfig::new(DISK)
        };
        let mut driver = Driver::live_with(backend, config, FEATURES);
        for burst in 0..1500u16 {
            check_burst(&mut driver, 1 + burst % 5);
        }
    }
    trace::stop();
}

/// Has `count` requests carried out, and looks at their events.
fn check_burst(driver: &mut Driver, count: u16) {
    for n in 0..count {
        let header = r(driver.header_at(n, T_IN, n.into()), 16);
        let data = w(DATA + 512 * u64::from(n), 512);
        driver.chain_in(DESC, 3 * n, &[header, data, w(STATUS + u64::from(n), 1)]);
    }
    let added = trace::now();
    for n in 0..count {
        driver.make_available(3 * n);
    }
    driver.notify_if_wanted(false);
    for _ in 0..count {
        driver.next_used().unwrap();
    }
    let harvested = trace::now();
    // Other tests of this process are seen too.
    let disk = trace::disks().iter().position(|name| name == DISK);
    let mut times: HashMap<u16, Vec<(Point, u64)>> = HashMap::new();
    assert!(eventually(|| {
        let mut log = EventLog::default();
        trace::drain(&mut log);
        let ours = log
            .iter()
            .filter(|(_, event)| Some(event.disk.into()) == disk);
        for (_, event) in ours.filter(|(_, event)| MOMENTS.contains(&event.point)) {
            let times = times.entry(event.head).or_default();
            times.push((event.point, event.tsc));
        }
        let seen: usize = times.values().map(Vec::len).sum();
        seen == usize::from(count) * MOMENTS.len()
    }));
    for times in times.values_mut() {
        times.sort_by_key(|(point, _)| *point as u8);
        assert!(times.iter().map(|(point, _)| *point).eq(MOMENTS));
        let ordered = times.iter().map(|(_, tsc)| *tsc);
        let all: Vec<u64> = [added]
            .into_iter()
            .chain(ordered)
            .chain([harvested])
            .collect();
        assert!(all.is_sorted(), "{all:?} {times:?}");
    }
}
