//! The driver that sends the requests, and the model of the disk.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use iolite_devices::block::backend::Backend;
use iolite_devices::virtio::blk::BlockConfig;
use iolite_devices_abi::blk::*;
use iolite_devices_abi::mmio as reg;
use iolite_devices_abi::status::*;
use vm_memory::{Bytes, GuestAddress};

use crate::driver::*;

pub const SECTORS: usize = 512;
/// How many requests can be in flight; each has a slot for its header, data and status.
const SLOTS: u64 = 16;
const SLOT_BYTES: u64 = 16 << 10;
/// Where the memory of queues begins, how much of it each has, and what lies where in it.
const QUEUES: u64 = 1 << 20;
const QUEUE_BYTES: u64 = 16 << 10;
const AVAIL: u64 = 0x1000;
const USED: u64 = 0x2000;
/// Entries of a queue: three for each slot.
const ENTRIES: u16 = 64;
const MOST_SECTORS: usize = SLOT_BYTES as usize / 512;

/// A source of numbers that repeats itself for the same seed (Marsaglia's xorshift).
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 16) as usize % limit
    }
}

/// A request in flight.
struct Request {
    request_type: u32,
    sectors: Range<usize>,
    /// What the sectors hold once it is done.
    after: Vec<u8>,
}

/// Where it was sent.
struct Sent {
    slot: u64,
    queue: usize,
    request: Request,
}

/// A disk, its driver, and the model.
pub struct Test {
    pub driver: Driver,
    /// How many requests each queue was given, and how many of them have been seen to end.
    queues: Vec<(u16, u16)>,
    pub model: Vec<u8>,
    random: Random,
    /// Makes each write's bytes its own.
    writes: u8,
    /// How many requests have failed.
    pub failed: usize,
}

impl Test {
    pub fn new(backend: Arc<dyn Backend>, config: BlockConfig, seed: u64) -> Self {
        let config = BlockConfig {
            queue_size: ENTRIES,
            ..config
        };
        let mut test = Test {
            queues: vec![(0, 0); config.queues.into()],
            driver: Driver::cold(backend, config),
            model: pattern(512 * SECTORS),
            random: Random(seed * 2 + 1),
            writes: 0,
            failed: 0,
        };
        test.start();
        test
    }

    fn start(&mut self) {
        let driver = &self.driver;
        let several = if self.queues.len() > 1 { F_MQ } else { 0 };
        driver.negotiate(FEATURES | F_DISCARD | F_WRITE_ZEROES | F_RING_RESET | several);
        for number in 0..self.queues.len() {
            self.place(number);
        }
        self.driver.driver_ok();
        let up = ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK;
        assert_eq!(self.driver.status(), up);
    }

    fn place(&mut self, number: usize) {
        let (driver, base) = (&self.driver, base_of(number));
        driver.memory_fill(base, QUEUE_BYTES as usize, 0);
        driver.write(reg::QUEUE_SEL, number as u32);
        driver.write(reg::QUEUE_NUM, ENTRIES.into());
        driver.write(reg::QUEUE_DESC_LOW, base as u32);
        driver.write(reg::QUEUE_DRIVER_LOW, (base + AVAIL) as u32);
        driver.write(reg::QUEUE_DEVICE_LOW, (base + USED) as u32);
        driver.write(reg::QUEUE_READY, 1);
        self.queues[number] = (0, 0);
    }

    /// Makes a chain available, and notifies.
    fn submit(&mut self, number: usize, head: u16) {
        let base = base_of(number) + AVAIL;
        let (sent, _) = &mut self.queues[number];
        self.driver
            .put(base + 4 + 2 * u64::from(*sent % ENTRIES), head);
        *sent = sent.wrapping_add(1);
        let index = GuestAddress(base + 2);
        self.driver
            .memory
            .store(*sent, index, Ordering::Release)
            .unwrap();
        self.driver.write(reg::QUEUE_NOTIFY, number as u32);
    }

    /// Waits until one more request has ended.
    fn next_end(&mut self) {
        let (driver, queues) = (&self.driver, &mut self.queues);
        let ended = eventually(|| {
            (0..).zip(queues.iter_mut()).any(|(number, (_, seen))| {
                let index = GuestAddress(base_of(number) + USED + 2);
                let used: u16 = driver.memory.load(index, Ordering::Acquire).unwrap();
                let ended = used != *seen;
                *seen = seen.wrapping_add(ended.into());
                ended
            })
        });
        assert!(ended, "a request is not answered");
    }

    /// Sends random requests, in so many rounds.
    pub fn run(&mut self, rounds: usize) {
        for _ in 0..rounds {
            let count = 1 + self.random.below(SLOTS as usize);
            let requests = self.requests(count);
            let sent = (0..).zip(requests).map(|(slot, request)| Sent {
                slot,
                queue: self.send(slot, &request),
                request,
            });
            let sent = sent.collect();
            match self.random.below(10) {
                0 => self.reset(sent),
                1 => self.reset_queue(sent),
                _ => self.finish(sent),
            }
        }
    }

    /// Random requests for different sectors: each in its own part of the disk.
    fn requests(&mut self, count: usize) -> Vec<Request> {
        let part = SECTORS / count;
        let random = &mut self.random;
        let mut requests = Vec::new();
        for number in 0..count {
            let len = random.below(part.min(MOST_SECTORS) + 1);
            let start = number * part + random.below(part - len + 1);
            let kinds = [
                T_IN,
                T_IN,
                T_OUT,
                T_OUT,
                T_OUT,
                T_WRITE_ZEROES,
                T_DISCARD,
                T_FLUSH,
            ];
            let request_type = kinds[random.below(kinds.len())];
            let sectors = match request_type {
                T_FLUSH => 0..0,
                _ => start..start + len,
            };
            let before = &self.model[bytes_of(&sectors)];
            let after = match request_type {
                T_IN | T_FLUSH => before.to_vec(),
                T_OUT => {
                    self.writes = self.writes.wrapping_add(1);
                    (0..before.len())
                        .map(|at| (at / 512) as u8 ^ self.writes)
                        .collect()
                }
                _ => vec![0; before.len()],
            };
            requests.push(Request {
                request_type,
                sectors,
                after,
            });
        }
        requests
    }

    /// Sends a request to some queue, and says which.
    fn send(&mut self, slot: u64, request: &Request) -> usize {
        let driver = &mut self.driver;
        let (data, status) = (DATA + slot * SLOT_BYTES, STATUS + slot);
        let sector = request.sectors.start as u64;
        let bytes = request.after.len() as u32;
        let header = r(
            driver.header_at(slot as u16, request.request_type, sector),
            16,
        );
        let data = match request.request_type {
            T_IN => {
                driver.memory_fill(data, bytes as usize, UNTOUCHED);
                w(data, bytes)
            }
            T_OUT => {
                let memory = &driver.memory;
                memory
                    .write_slice(&request.after, GuestAddress(data))
                    .unwrap();
                r(data, bytes)
            }
            T_FLUSH => r(data, 0),
            _ => {
                let range = DiscardWriteZeroes {
                    sector,
                    num_sectors: request.sectors.len() as u32,
                    flags: match request.request_type {
                        T_WRITE_ZEROES => self.random.below(2) as u32,
                        _ => 0,
                    },
                };
                driver.put(data, range.to_le_bytes());
                r(data, 16)
            }
        };
        driver.put(status, UNTOUCHED);
        let queue = self.random.below(self.queues.len());
        let head = 3 * slot as u16;
        driver.chain_in(base_of(queue), head, &[header, data, w(status, 1)]);
        self.submit(queue, head);
        queue
    }

    /// All requests end, and are what they must be.
    fn finish(&mut self, requests: Vec<Sent>) {
        for _ in &requests {
            self.next_end();
        }
        for Sent { slot, request, .. } in requests {
            match self.driver.get::<u8>(STATUS + slot) {
                S_OK => self.done(slot, request),
                S_IOERR => self.failed += 1,
                other => panic!("status {other}"),
            }
        }
    }

    fn done(&mut self, slot: u64, request: Request) {
        if request.request_type == T_IN {
            let read = self
                .driver
                .bytes(DATA + slot * SLOT_BYTES, request.after.len());
            assert!(read == request.after, "{:?} read wrong", request.sectors);
        }
        self.model[bytes_of(&request.sectors)].copy_from_slice(&request.after);
    }

    /// The driver resets the disk with requests in flight.
    fn reset(&mut self, requests: Vec<Sent>) {
        for _ in 0..self.random.below(requests.len() + 1) {
            self.next_end();
        }
        self.driver.write(reg::STATUS, 0);
        assert!(eventually(|| self.driver.status() == 0));
        self.start();
        self.look_up(requests);
    }

    /// The driver resets a queue with requests in flight; the others know nothing of it.
    fn reset_queue(&mut self, requests: Vec<Sent>) {
        let number = self.random.below(self.queues.len());
        let driver = &self.driver;
        driver.write(reg::QUEUE_SEL, number as u32);
        driver.write(reg::QUEUE_RESET, 1);
        assert!(eventually(|| driver.read(reg::QUEUE_RESET) == 0));
        self.place(number);
        let (lost, others) = requests.into_iter().partition(|sent| sent.queue == number);
        self.finish(others);
        self.look_up(lost);
    }

    /// These were done or not, as a whole sector each.
    fn look_up(&mut self, requests: Vec<Sent>) {
        for Sent { request, .. } in requests {
            let Request { sectors, after, .. } = request;
            for (sector, after) in sectors.zip(after.chunks(512)) {
                let now = self.read_sector(sector);
                let before = &mut self.model[bytes_of(&(sector..sector + 1))];
                assert!(now == before || now == after, "sector {sector} is neither");
                before.copy_from_slice(&now);
            }
        }
    }

    fn read_sector(&mut self, sector: usize) -> Vec<u8> {
        // A read may fail on purpose.
        loop {
            let read = Request {
                request_type: T_IN,
                sectors: sector..sector + 1,
                after: vec![0; 512],
            };
            self.send(0, &read);
            self.next_end();
            if self.driver.get::<u8>(STATUS) == S_OK {
                return self.driver.bytes(DATA, 512);
            }
        }
    }

    /// The whole disk, as the driver sees it.
    pub fn check(&mut self) {
        for sector in 0..SECTORS {
            let read = self.read_sector(sector);
            assert!(
                read == self.model[bytes_of(&(sector..sector + 1))],
                "sector {sector}"
            );
        }
    }
}

fn base_of(queue: usize) -> u64 {
    QUEUES + QUEUE_BYTES * queue as u64
}

fn bytes_of(sectors: &Range<usize>) -> Range<usize> {
    512 * sectors.start..512 * sectors.end
}
