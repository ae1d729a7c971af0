//! A driver and a disk that both sleep whenever they can: the disk polls for no time, and the driver
//! notifies only when it is asked to and looks at the ring only after an interrupt. What is lost
//! between them shows as a round that does not end.

use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};
use std::thread;
use std::time::{Duration, Instant};

use iolite_devices::block::backend::Backend;
use iolite_devices::block::backend::fault::{FaultBackend, Faults};
use iolite_devices::virtio::blk::BlockConfig;
use iolite_devices_abi::blk::T_IN;
use iolite_devices_abi::ring::AVAIL_F_NO_INTERRUPT;
use iolite_devices_abi::status::F_EVENT_IDX;
use vm_memory::{Bytes, GuestAddress};

use super::driver::*;

/// How long each of the tests goes on.
const TIME: Duration = Duration::from_millis(500);

/// As [`eventually`], and quick where it comes soon.
fn soon(mut condition: impl FnMut() -> bool) -> bool {
    (0..100_000).any(|_| condition()) || eventually(condition)
}

struct Sleeper {
    driver: Driver,
    event_idx: bool,
    /// How many were harvested.
    seen: u16,
}

impl Sleeper {
    fn new(backend: Arc<dyn Backend>, event_idx: bool) -> Self {
        let config = BlockConfig {
            poll: Duration::ZERO,
            ..config()
        };
        let features = FEATURES | if event_idx { F_EVENT_IDX } else { 0 };
        let driver = Driver::live_with(backend, config, features);
        for head in [0, 3, 6, 9] {
            let header = r(driver.header_at(head, T_IN, 1), 16);
            driver.chain_in(
                DESC,
                head,
                &[header, w(DATA, 512), w(STATUS + u64::from(head / 3), 1)],
            );
        }
        let sleeper = Sleeper {
            driver,
            event_idx,
            seen: 0,
        };
        sleeper.ask_for_no_interrupt();
        sleeper
    }

    fn store(&self, value: u16, at: u64) {
        let at = GuestAddress(at);
        self.driver
            .memory
            .store(value, at, Ordering::SeqCst)
            .unwrap();
    }

    fn used_event(&self) -> u64 {
        AVAIL + 4 + 2 * u64::from(self.driver.size)
    }

    fn ask_for_no_interrupt(&self) {
        match self.event_idx {
            true => self.store(self.seen.wrapping_sub(1), self.used_event()),
            false => self.store(AVAIL_F_NO_INTERRUPT, AVAIL),
        }
    }

    fn ask_for_interrupt(&self) {
        match self.event_idx {
            true => self.store(self.seen, self.used_event()),
            false => self.store(0, AVAIL),
        }
    }

    fn send(&mut self, head: u16) {
        self.driver.make_available(head);
        self.driver.notify_if_wanted(self.event_idx);
    }

    /// Takes what is in the used ring. Each element is right as soon as the index covers it.
    fn harvest(&mut self) -> u16 {
        const POISON: u64 = u64::MAX;
        let mut count = 0;
        while self.driver.used_idx() != self.seen {
            let at = USED + 4 + 8 * u64::from(self.seen % self.driver.size);
            let [head, len]: [u32; 2] = self.driver.get(at);
            assert!(head < 10 && len == 513, "element {head:#x}, {len:#x}");
            self.driver.put(at, POISON);
            self.seen = self.seen.wrapping_add(1);
            count += 1;
        }
        count
    }

    /// Sleeps until there is an interrupt, unless there is something already.
    fn sleep(&self, round: u64) {
        let edges = self.driver.edges.count();
        self.ask_for_interrupt();
        fence(Ordering::SeqCst);
        if self.driver.used_idx() == self.seen {
            let woken = soon(|| self.driver.edges.count() != edges);
            let used = self.driver.used_idx().wrapping_sub(self.seen);
            assert!(woken, "round {round}: no interrupt, and {used} are used");
        }
        self.ask_for_no_interrupt();
    }
}

/// One request at a time, each at another moment of the disk's going to sleep: the driver sends it when
/// it sees the status of the one before, which is a little before its used element.
fn one_at_a_time(event_idx: bool) {
    let mut sleeper = Sleeper::new(memory_disk(), event_idx);
    let (start, mut harvested) = (Instant::now(), 0);
    for round in 0u64.. {
        let place = STATUS + round % 2;
        sleeper.driver.put(place, UNTOUCHED);
        sleeper.send(3 * (round % 2) as u16);
        let ended = soon(|| sleeper.driver.get::<u8>(place) != UNTOUCHED);
        assert!(ended, "round {round}: the disk sleeps");
        for step in 0..round * 37 % 509 {
            black_box(step);
        }
        // The head of the next round is free again.
        while harvested < round {
            harvested += u64::from(sleeper.harvest());
        }
        if start.elapsed() > TIME {
            break;
        }
    }
}

/// Up to four with as many workers, and the driver sleeps in between.
fn several_at_once(event_idx: bool) {
    let backend = FaultBackend::new(memory_disk(), Arc::new(Faults::default()));
    let mut sleeper = Sleeper::new(Arc::new(backend), event_idx);
    let start = Instant::now();
    for round in 0.. {
        let count = 1 + (round % 4) as u16;
        (0..count).for_each(|n| sleeper.send(3 * n));
        let mut harvested = sleeper.harvest();
        while harvested < count {
            sleeper.sleep(round);
            harvested += sleeper.harvest();
        }
        assert_eq!(harvested, count);
        if round % 64 == 0 {
            thread::yield_now();
        }
        if start.elapsed() > TIME {
            break;
        }
    }
}

#[test]
fn no_wake_up_is_lost() {
    one_at_a_time(false);
    one_at_a_time(true);
}

#[test]
fn no_interrupt_is_lost() {
    several_at_once(false);
    several_at_once(true);
}
