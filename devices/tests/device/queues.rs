//! Several queues: each serves its own requests, and what one of them suffers is not the others'.

use std::num::NonZeroU64;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use iolite_devices::block::backend::fault::FaultBackend;
use iolite_devices::block::inject::{Failure, Injection, Limits, Operation, Rate, Which};
use iolite_devices::virtio::blk::{BlockConfig, BlockDevice, BlockError};
use iolite_devices_abi::blk::{F_MQ, S_OK, T_IN, config::NUM_QUEUES};
use iolite_devices_abi::mmio as reg;
use iolite_devices_abi::status::*;
use vm_memory::{Bytes, GuestAddress};

use super::driver::*;

const QUEUES: u16 = 4;
/// Where a queue's memory begins, and how much of it each has.
const LANES: u64 = 1 << 20;
const LANE: u64 = 1 << 16;

/// A queue as its driver sees it.
pub struct Lane {
    pub number: u16,
    pub base: u64,
    sent: u16,
}

impl Lane {
    pub fn new(number: u16) -> Self {
        let base = LANES + LANE * u64::from(number);
        Lane {
            number,
            base,
            sent: 0,
        }
    }

    pub fn place(&self, driver: &Driver) {
        driver.memory_fill(self.base, 0x4000, 0);
        driver.write(reg::QUEUE_SEL, self.number.into());
        assert_eq!(driver.read(reg::QUEUE_NUM_MAX), u32::from(QUEUE_SIZE));
        driver.write(reg::QUEUE_NUM, QUEUE_SIZE.into());
        driver.write(reg::QUEUE_DESC_LOW, self.base as u32);
        driver.write(reg::QUEUE_DRIVER_LOW, (self.base + 0x1000) as u32);
        driver.write(reg::QUEUE_DEVICE_LOW, (self.base + 0x2000) as u32);
        driver.write(reg::QUEUE_READY, 1);
        assert_eq!(driver.read(reg::QUEUE_READY), 1);
    }

    /// Reads `sector` into the queue's own memory.
    pub fn send(&mut self, driver: &Driver, sector: u64) {
        self.send_at(driver, sector, 0);
    }

    /// [`send`](Lane::send) with another head.
    pub fn send_at(&mut self, driver: &Driver, sector: u64, head: u16) {
        let header = self.base + 0x3000;
        driver.put(header, [u64::from(T_IN), sector]);
        driver.put(self.base + 0x3800, UNTOUCHED);
        let pieces = [
            r(header, 16),
            w(self.base + 0x4000, 512),
            w(self.base + 0x3800, 1),
        ];
        driver.chain_in(self.base, head, &pieces);
        let slot = u64::from(self.sent % QUEUE_SIZE);
        driver.put(self.base + 0x1004 + 2 * slot, head);
        self.sent += 1;
        self.set_avail_idx(driver, self.sent);
    }

    pub fn set_avail_idx(&self, driver: &Driver, index: u16) {
        let addr = GuestAddress(self.base + 0x1002);
        driver.memory.store(index, addr, Ordering::Release).unwrap();
        driver.write(reg::QUEUE_NOTIFY, self.number.into());
    }

    /// How many were answered.
    pub fn used(&self, driver: &Driver) -> u16 {
        let addr = GuestAddress(self.base + 0x2002);
        driver.memory.load(addr, Ordering::Acquire).unwrap()
    }

    pub fn is_answered(&self, driver: &Driver) -> bool {
        self.used(driver) == self.sent
    }

    #[track_caller]
    pub fn assert_read(&self, driver: &Driver, sector: u64) {
        assert!(
            eventually(|| self.is_answered(driver)),
            "queue {}: no answer",
            self.number
        );
        assert_eq!(driver.get::<u8>(self.base + 0x3800), S_OK);
        let at = sector as usize * 512;
        let expected = &pattern(at + 512)[at..];
        assert_eq!(driver.bytes(self.base + 0x4000, 512), expected);
    }
}

fn several() -> BlockConfig {
    BlockConfig {
        queues: QUEUES,
        ..config()
    }
}

fn set_up(driver: &Driver) -> Vec<Lane> {
    set_up_with(driver, QUEUES, FEATURES | F_MQ)
}

pub fn set_up_with(driver: &Driver, queues: u16, features: u64) -> Vec<Lane> {
    driver.negotiate(features);
    let lanes: Vec<_> = (0..queues).map(Lane::new).collect();
    for lane in &lanes {
        lane.place(driver);
    }
    driver.driver_ok();
    assert_ne!(driver.status() & DRIVER_OK, 0);
    lanes
}

/// A disk whose requests can be held.
fn holding() -> (Driver, Controls) {
    let controls = Controls::default();
    let backend = Arc::new(FaultBackend::new(memory_disk(), controls.0.clone()));
    (Driver::cold(backend, several()), controls)
}

#[test]
fn several_queues_are_offered_as_such() {
    let count = |driver: &Driver| {
        let mut bytes = [0; 2];
        driver.window.read(reg::CONFIG + NUM_QUEUES, &mut bytes);
        u16::from_le_bytes(bytes)
    };
    let driver = Driver::cold(memory_disk(), several());
    assert_ne!(driver.offered() & F_MQ, 0);
    assert_eq!(count(&driver), QUEUES);
    driver.write(reg::QUEUE_SEL, QUEUES.into());
    assert_eq!(driver.read(reg::QUEUE_NUM_MAX), 0);
    let driver = Driver::cold(memory_disk(), config());
    assert_eq!(driver.offered() & F_MQ, 0);
    assert_eq!(count(&driver), 0);
}

#[test]
fn each_queue_serves_its_own() {
    let driver = Driver::cold(memory_disk(), several());
    let mut lanes = set_up(&driver);
    for round in 0..200 {
        for lane in &mut lanes {
            lane.send(&driver, (round * 5 + u64::from(lane.number)) % SECTORS);
        }
        for lane in &lanes {
            lane.assert_read(&driver, (round * 5 + u64::from(lane.number)) % SECTORS);
        }
    }
    let each: Vec<_> = driver.device.queue_counters().collect();
    assert!(each.iter().all(|queue| queue.reads == 200), "{each:?}");
    assert_eq!(driver.device.counters().reads, 800);
    assert_eq!(driver.device.counters().bytes_read, 800 * 512);
}

#[test]
fn a_driver_may_leave_queues_alone() {
    let driver = Driver::cold(memory_disk(), several());
    driver.negotiate(FEATURES);
    let mut lane = Lane::new(2);
    lane.place(&driver);
    driver.driver_ok();
    driver.write(reg::QUEUE_NOTIFY, 1);
    lane.send(&driver, 3);
    lane.assert_read(&driver, 3);
}

#[test]
fn a_slow_request_holds_up_its_own_queue_at_most() {
    let (driver, faults) = holding();
    let mut lanes = set_up(&driver);
    faults.hold();
    lanes[1].send(&driver, 7);
    assert!(eventually(|| faults.held() == 1));
    faults.release_at(9 * 512);
    lanes[3].send(&driver, 9);
    lanes[3].assert_read(&driver, 9);
    assert!(!lanes[1].is_answered(&driver));
    faults.release();
    lanes[1].assert_read(&driver, 7);
}

#[test]
fn a_queue_that_is_taken_away_is_drained_alone() {
    let (driver, faults) = holding();
    let mut lanes = set_up(&driver);
    faults.hold();
    lanes[2].send(&driver, 7);
    assert!(eventually(|| faults.held() == 1));
    driver.write(reg::QUEUE_SEL, 2);
    driver.write(reg::QUEUE_READY, 0);
    assert_eq!(driver.read(reg::QUEUE_READY), 1, "a request is in flight");
    faults.release();
    assert!(eventually(|| driver.read(reg::QUEUE_READY) == 0));
    lanes[2].assert_read(&driver, 7);
    lanes[2].send(&driver, 8);
    lanes[0].send(&driver, 1);
    lanes[0].assert_read(&driver, 1);
    assert!(!lanes[2].is_answered(&driver), "it was taken away");
}

#[test]
fn a_queue_that_is_reset_leaves_the_others_alone() {
    let (driver, faults) = holding();
    let mut lanes = set_up_with(&driver, QUEUES, FEATURES | F_MQ | F_RING_RESET);
    faults.hold();
    lanes[1].send(&driver, 7);
    assert!(eventually(|| faults.held() == 1));
    // Nothing of this one is in flight: its reset waits for nobody.
    driver.write(reg::QUEUE_SEL, 2);
    driver.write(reg::QUEUE_RESET, 1);
    assert_eq!(driver.read(reg::QUEUE_RESET), 0);
    driver.write(reg::QUEUE_SEL, 1);
    assert_eq!(driver.read(reg::QUEUE_READY), 1);
    faults.release();
    lanes[1].assert_read(&driver, 7);
    lanes[2].place(&driver);
    for lane in &mut lanes {
        lane.send(&driver, 9);
        lane.assert_read(&driver, 9);
    }
}

#[test]
fn a_reset_waits_for_every_queue() {
    let (driver, faults) = holding();
    let mut lanes = set_up(&driver);
    faults.hold();
    lanes[3].send(&driver, 7);
    assert!(eventually(|| faults.held() == 1));
    driver.write(reg::STATUS, 0);
    assert_ne!(driver.status(), 0, "reset while a request was in flight");
    faults.release();
    assert!(eventually(|| driver.status() == 0));
    let mut lanes = set_up(&driver);
    for lane in &mut lanes {
        lane.send(&driver, 5);
        lane.assert_read(&driver, 5);
    }
}

#[test]
fn a_broken_ring_stops_the_device() {
    let driver = Driver::cold(memory_disk(), several());
    let mut lanes = set_up(&driver);
    lanes[1].set_avail_idx(&driver, QUEUE_SIZE + 1);
    assert!(eventually(|| driver.status() & DEVICE_NEEDS_RESET != 0));
    lanes[0].send(&driver, 1);
    driver.assert_quiet();
    assert!(!lanes[0].is_answered(&driver));
    driver.write(reg::STATUS, 0);
    assert!(eventually(|| driver.status() == 0));
    let mut lanes = set_up(&driver);
    lanes[1].send(&driver, 2);
    lanes[1].assert_read(&driver, 2);
}

#[test]
fn numbers_of_queues_that_are_not_possible() {
    let memory = Driver::live().memory.clone();
    for queues in [0, 17] {
        let config = BlockConfig { queues, ..config() };
        let edges = Arc::new(Edges::default());
        let error = BlockDevice::on_mmio(memory.clone(), memory_disk(), config, edges).err();
        assert!(matches!(error, Some(BlockError::Queues(n)) if n == queues));
    }
}

#[test]
fn what_is_injected_is_the_disks_and_not_each_queues() {
    let injection = Injection {
        failures: vec![Failure {
            operation: Operation::Read,
            which: Which::Every(NonZeroU64::new(4).unwrap()),
        }],
        limits: Limits {
            requests: NonZeroU64::new(100).map(|rate| Rate::new(rate, NonZeroU64::new(4))),
            bytes: None,
        },
        ..Injection::default()
    };
    let config = BlockConfig {
        injection,
        ..several()
    };
    let driver = Driver::cold(memory_disk(), config);
    let mut lanes = set_up(&driver);
    let start = Instant::now();
    let mut failed = Vec::new();
    for round in 0..3 {
        for lane in &mut lanes {
            lane.send(&driver, 5);
            assert!(eventually(|| lane.is_answered(&driver)), "no answer");
            if driver.get::<u8>(lane.base + 0x3800) != S_OK {
                failed.push((round, lane.number));
            }
        }
    }
    assert_eq!(failed, [(0, 3), (1, 3), (2, 3)]);
    // Four at once, eight more in 10 ms each.
    let time = start.elapsed();
    assert!(time >= Duration::from_millis(79), "{time:?}");
}
