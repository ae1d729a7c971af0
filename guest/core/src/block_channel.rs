//! What a block server and its client say to each other: two rings in the memory they share.
//!
//! ```text
//!   words  0        submitted: how many requests the client has written, ever
//!          8        completed: how many completions the server has written, ever
//!         16, 24    1 while the server, the client, is about to wait for a notification
//!         32..48    the disk, and what the server has counted
//!         64..      requests, 4 words each; then completions, 2 words each
//!   bytes 16384..   the client's buffers
//! ```
//!
//! Each ring has one writer. Neither side believes the other: indices that make no sense are an
//! error, a request is copied once and then checked, and no side reads back what it wrote itself.
//! At most [`SLOTS`] requests are on their way, so a completion always has its place.
//!
//! Who is about to wait says so, looks once more, and only then waits; who has written something
//! notifies if the other has said so: a notification is a system call, and a busy ring needs none.

use core::sync::atomic::{AtomicU64, Ordering, fence};

/// Most requests of a client on their way.
pub const SLOTS: usize = 256;
/// Where the client's buffers begin, in bytes.
pub const BUFFERS_AT: usize = 16384;
/// Longest request in bytes.
pub const MAX_BYTES: u32 = 128 * 1024;
/// How many words of the memory are not buffers.
pub const WORDS: usize = BUFFERS_AT / size_of::<u64>();

const SUBMITTED: usize = 0;
const COMPLETED: usize = 8;
const SERVER_WAITS: usize = 16;
const CLIENT_WAITS: usize = 24;
const INFO: usize = 32;
const REQUESTS: usize = 64;
const REQUEST_WORDS: usize = 4;
const COMPLETIONS: usize = REQUESTS + SLOTS * REQUEST_WORDS;
const COMPLETION_WORDS: usize = 2;
const _: () = assert!(COMPLETIONS + SLOTS * COMPLETION_WORDS <= WORDS);
const SECTOR_BYTES: u64 = 512;

/// What a request does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Reads from the disk into the buffer.
    Read,
    /// Writes the buffer to the disk.
    Write,
    /// Makes durable what was written.
    Flush,
    /// Has the server write [`Info::counters`] anew.
    Count,
}

impl Operation {
    fn from_raw(raw: u32) -> Option<Operation> {
        [Self::Read, Self::Write, Self::Flush, Self::Count]
            .into_iter()
            .find(|operation| *operation as u32 == raw)
    }
}

/// A request, as its client wrote it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// Comes back in the completion.
    pub user: u64,
    /// An [`Operation`] by its number.
    pub operation: u32,
    /// Length of the buffer in bytes.
    pub bytes: u32,
    /// Where on the disk, in bytes.
    pub offset: u64,
    /// Where in the memory the buffer begins, in bytes.
    pub buffer: u64,
}

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Completion {
    /// What the request said.
    pub user: u64,
    /// Bytes read or written, or a negated error number.
    pub result: i64,
}

/// What the server has counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Requests completed by the device, of all clients.
    pub requests: u64,
    /// Those that failed.
    pub errors: u64,
    /// Most in flight at once.
    pub max_in_flight: u64,
    /// Available buffer notifications sent.
    pub notifications: u64,
}

/// What the server says of its disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Info {
    /// Capacity in bytes.
    pub bytes: u64,
    /// Writes are refused.
    pub read_only: bool,
    /// As they were when the server last wrote them.
    pub counters: Counters,
}

/// The other side has broken the rules: an index that makes no sense.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Broken;

/// A request that a server may hand to its disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Checked {
    /// What to do.
    pub operation: Operation,
    /// First sector; 0 without a buffer.
    pub sector: u64,
    /// The buffer in the channel's memory, in bytes; empty for a flush.
    pub buffer: u64,
    /// Its length in bytes: a multiple of the sector size.
    pub bytes: u32,
}

/// Why a server refuses a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// No such operation, a buffer that is not all in the client's memory, or not made of whole
    /// sectors: EINVAL.
    Invalid,
    /// Past the end of the disk: ENOSPC.
    PastEnd,
    /// The disk is read-only: EROFS.
    ReadOnly,
}

impl Request {
    /// Is this something to hand to a disk? `memory` is the length of the channel's memory in bytes.
    pub fn check(&self, disk: &Info, memory: u64) -> Result<Checked, Refused> {
        let operation = Operation::from_raw(self.operation).ok_or(Refused::Invalid)?;
        let (bytes, offset) = (u64::from(self.bytes), self.offset);
        if matches!(operation, Operation::Flush | Operation::Count) {
            return match bytes {
                0 => Ok(Checked {
                    operation,
                    sector: 0,
                    buffer: BUFFERS_AT as u64,
                    bytes: 0,
                }),
                _ => Err(Refused::Invalid),
            };
        }
        let end = self.buffer.checked_add(bytes).ok_or(Refused::Invalid)?;
        let in_memory = self.buffer >= BUFFERS_AT as u64 && end <= memory;
        let aligned = (bytes | offset | self.buffer).is_multiple_of(SECTOR_BYTES);
        if !in_memory || !aligned || bytes == 0 || self.bytes > MAX_BYTES {
            return Err(Refused::Invalid);
        }
        if offset.checked_add(bytes).is_none_or(|end| end > disk.bytes) {
            return Err(Refused::PastEnd);
        }
        if operation == Operation::Write && disk.read_only {
            return Err(Refused::ReadOnly);
        }
        Ok(Checked {
            operation,
            sector: offset / SECTOR_BYTES,
            buffer: self.buffer,
            bytes: self.bytes,
        })
    }
}

/// The client's side. The memory's first [`WORDS`] words are handed to each call.
#[derive(Debug, Default)]
pub struct Client {
    submitted: u64,
    collected: u64,
}

impl Client {
    /// How many requests are on their way.
    pub fn on_their_way(&self) -> usize {
        (self.submitted - self.collected) as usize
    }

    /// The number of the next request, counted from 0: its server counts alike.
    pub fn next_request(&self) -> u64 {
        self.submitted
    }

    /// The number of the answer that was collected last, counted from 0.
    pub fn last_answer(&self) -> u64 {
        self.collected.wrapping_sub(1)
    }

    /// Writes a request. `false` if [`SLOTS`] are on their way.
    pub fn submit(&mut self, memory: &[AtomicU64], request: &Request) -> bool {
        if self.on_their_way() == SLOTS {
            return false;
        }
        let at = REQUESTS + (self.submitted as usize % SLOTS) * REQUEST_WORDS;
        let operation = u64::from(request.operation) | u64::from(request.bytes) << 32;
        store(memory, at, request.user);
        store(memory, at + 1, operation);
        store(memory, at + 2, request.offset);
        store(memory, at + 3, request.buffer);
        self.submitted += 1;
        memory[SUBMITTED].store(self.submitted, Ordering::Release);
        true
    }

    /// Is the server to be notified of what was submitted?
    pub fn server_waits(&self, memory: &[AtomicU64]) -> bool {
        waits(memory, SERVER_WAITS)
    }

    /// The next completion.
    pub fn collect(&mut self, memory: &[AtomicU64]) -> Result<Option<Completion>, Broken> {
        let completed = memory[COMPLETED].load(Ordering::Acquire);
        if completed == self.collected {
            return Ok(None);
        }
        if completed.wrapping_sub(self.collected) > self.submitted - self.collected {
            return Err(Broken);
        }
        let at = COMPLETIONS + (self.collected as usize % SLOTS) * COMPLETION_WORDS;
        self.collected += 1;
        Ok(Some(Completion {
            user: load(memory, at),
            result: load(memory, at + 1) as i64,
        }))
    }

    /// Says that the client is about to wait for a notification: there may be a completion all the
    /// same, and the caller looks once more.
    pub fn about_to_wait(&self, memory: &[AtomicU64]) {
        about_to_wait(memory, CLIENT_WAITS);
    }

    /// What the server says of its disk; `None` before it has accepted the client.
    pub fn info(memory: &[AtomicU64]) -> Option<Info> {
        let accepted = memory[INFO].load(Ordering::Acquire) == 1;
        accepted.then(|| Info {
            bytes: load(memory, INFO + 1),
            read_only: load(memory, INFO + 2) != 0,
            counters: Counters {
                requests: load(memory, INFO + 3),
                errors: load(memory, INFO + 4),
                max_in_flight: load(memory, INFO + 5),
                notifications: load(memory, INFO + 6),
            },
        })
    }
}

/// The server's side of one client.
#[derive(Debug, Default)]
pub struct Server {
    taken: u64,
    completed: u64,
}

impl Server {
    /// Says what the disk is, and what has been counted.
    pub fn publish_info(memory: &[AtomicU64], info: &Info) {
        let counters = &info.counters;
        store(memory, INFO + 1, info.bytes);
        store(memory, INFO + 2, u64::from(info.read_only));
        store(memory, INFO + 3, counters.requests);
        store(memory, INFO + 4, counters.errors);
        store(memory, INFO + 5, counters.max_in_flight);
        store(memory, INFO + 6, counters.notifications);
        memory[INFO].store(1, Ordering::Release);
    }

    /// The next request.
    pub fn take(&mut self, memory: &[AtomicU64]) -> Result<Option<Request>, Broken> {
        let submitted = memory[SUBMITTED].load(Ordering::Acquire);
        if submitted == self.taken {
            return Ok(None);
        }
        if submitted.wrapping_sub(self.completed) > SLOTS as u64 || submitted < self.taken {
            return Err(Broken);
        }
        let at = REQUESTS + (self.taken as usize % SLOTS) * REQUEST_WORDS;
        self.taken += 1;
        let operation = load(memory, at + 1);
        Ok(Some(Request {
            user: load(memory, at),
            operation: operation as u32,
            bytes: (operation >> 32) as u32,
            offset: load(memory, at + 2),
            buffer: load(memory, at + 3),
        }))
    }

    /// The number of the request that was taken last, counted from 0.
    pub fn last_request(&self) -> u64 {
        self.taken.wrapping_sub(1)
    }

    /// The number of the next answer, counted from 0.
    pub fn next_answer(&self) -> u64 {
        self.completed
    }

    /// Writes a completion for a request that was taken.
    pub fn complete(&mut self, memory: &[AtomicU64], completion: Completion) {
        debug_assert!(self.completed < self.taken);
        let at = COMPLETIONS + (self.completed as usize % SLOTS) * COMPLETION_WORDS;
        store(memory, at, completion.user);
        store(memory, at + 1, completion.result as u64);
        self.completed += 1;
        memory[COMPLETED].store(self.completed, Ordering::Release);
    }

    /// How many requests were taken and have not been completed.
    pub fn in_flight(&self) -> usize {
        (self.taken - self.completed) as usize
    }

    /// Is the client to be notified of what was completed?
    pub fn client_waits(&self, memory: &[AtomicU64]) -> bool {
        waits(memory, CLIENT_WAITS)
    }

    /// As [`Client::about_to_wait`].
    pub fn about_to_wait(&self, memory: &[AtomicU64]) {
        about_to_wait(memory, SERVER_WAITS);
    }

    /// Says that the server has found something to do after all.
    pub fn does_not_wait(&self, memory: &[AtomicU64]) {
        memory[SERVER_WAITS].store(0, Ordering::Relaxed);
    }
}

fn load(memory: &[AtomicU64], at: usize) -> u64 {
    memory[at].load(Ordering::Relaxed)
}

fn store(memory: &[AtomicU64], at: usize, value: u64) {
    memory[at].store(value, Ordering::Relaxed);
}

/// After an index was written: full barriers on both sides, so that one of them sees the other.
fn waits(memory: &[AtomicU64], who: usize) -> bool {
    fence(Ordering::SeqCst);
    load(memory, who) != 0 && memory[who].swap(0, Ordering::SeqCst) != 0
}

fn about_to_wait(memory: &[AtomicU64], who: usize) {
    memory[who].store(1, Ordering::SeqCst);
    fence(Ordering::SeqCst);
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use std::vec::Vec;

    fn memory() -> Vec<AtomicU64> {
        (0..WORDS).map(|_| AtomicU64::new(0)).collect()
    }

    fn read(user: u64) -> Request {
        Request {
            user,
            operation: Operation::Read as u32,
            bytes: 4096,
            offset: user * 4096,
            buffer: BUFFERS_AT as u64,
        }
    }

    #[test]
    fn requests_and_completions_cross_in_order_and_wrap() {
        let memory = memory();
        let (mut client, mut server) = (Client::default(), Server::default());
        for round in 0..3 * SLOTS as u64 {
            for user in [2 * round, 2 * round + 1] {
                assert!(client.submit(&memory, &read(user)));
            }
            for user in [2 * round, 2 * round + 1] {
                assert_eq!(server.take(&memory), Ok(Some(read(user))));
            }
            assert_eq!(server.take(&memory), Ok(None));
            // In another order.
            for user in [2 * round + 1, 2 * round] {
                let result = -(user as i64);
                server.complete(&memory, Completion { user, result });
                assert_eq!(
                    client.collect(&memory),
                    Ok(Some(Completion { user, result }))
                );
            }
            assert_eq!(client.collect(&memory), Ok(None));
        }
    }

    #[test]
    fn a_full_ring_takes_no_more_until_something_was_collected() {
        let memory = memory();
        let (mut client, mut server) = (Client::default(), Server::default());
        for user in 0..SLOTS as u64 {
            assert!(client.submit(&memory, &read(user)));
        }
        assert!(!client.submit(&memory, &read(0)));
        let taken = server.take(&memory).unwrap().unwrap();
        let completion = Completion {
            user: taken.user,
            result: 0,
        };
        server.complete(&memory, completion);
        assert!(!client.submit(&memory, &read(0)));
        assert_eq!(client.collect(&memory), Ok(Some(completion)));
        assert!(client.submit(&memory, &read(0)));
        assert_eq!(client.on_their_way(), SLOTS);
    }

    #[test]
    fn indices_that_make_no_sense_are_an_error() {
        let memory = memory();
        let (mut client, mut server) = (Client::default(), Server::default());
        memory[SUBMITTED].store(SLOTS as u64 + 1, Ordering::Relaxed);
        assert_eq!(server.take(&memory), Err(Broken));
        memory[SUBMITTED].store(u64::MAX, Ordering::Relaxed);
        assert_eq!(server.take(&memory), Err(Broken));
        memory[COMPLETED].store(1, Ordering::Relaxed);
        assert_eq!(client.collect(&memory), Err(Broken));
        memory[COMPLETED].store(u64::MAX, Ordering::Relaxed);
        assert_eq!(client.collect(&memory), Err(Broken));
    }

    #[test]
    fn an_index_that_goes_back_is_an_error() {
        let memory = memory();
        let (mut client, mut server) = (Client::default(), Server::default());
        client.submit(&memory, &read(1));
        client.submit(&memory, &read(2));
        assert!(server.take(&memory).unwrap().is_some());
        assert!(server.take(&memory).unwrap().is_some());
        memory[SUBMITTED].store(1, Ordering::Relaxed);
        assert_eq!(server.take(&memory), Err(Broken));
    }

    #[test]
    fn who_waits_is_notified_once() {
        let memory = memory();
        let (client, server) = (Client::default(), Server::default());
        assert!(!client.server_waits(&memory));
        server.about_to_wait(&memory);
        assert!(client.server_waits(&memory));
        assert!(!client.server_waits(&memory));
        client.about_to_wait(&memory);
        assert!(server.client_waits(&memory));
        assert!(!server.client_waits(&memory));
        server.about_to_wait(&memory);
        server.does_not_wait(&memory);
        assert!(!client.server_waits(&memory));
    }

    #[test]
    fn a_client_knows_the_disk_when_it_has_been_accepted() {
        let memory = memory();
        assert_eq!(Client::info(&memory), None);
        let info = Info {
            bytes: 1 << 20,
            read_only: true,
            counters: Counters {
                requests: 1,
                errors: 2,
                max_in_flight: 3,
                notifications: 4,
            },
        };
        Server::publish_info(&memory, &info);
        assert_eq!(Client::info(&memory), Some(info));
    }

    #[test]
    fn requests_are_checked() {
        let disk = Info {
            bytes: 1 << 20,
            ..Info::default()
        };
        let memory = 1 << 18;
        let good = read(1);
        let checked = good.check(&disk, memory).unwrap();
        assert_eq!((checked.sector, checked.bytes), (8, 4096));
        let bad = |change: fn(&mut Request)| {
            let mut request = good;
            change(&mut request);
            request.check(&disk, memory)
        };
        for change in [
            (|r| r.operation = 9) as fn(&mut Request),
            |r| r.bytes = 0,
            |r| r.bytes = 100,
            |r| r.bytes = MAX_BYTES + 512,
            |r| r.offset = 1,
            |r| r.buffer = 0,
            |r| r.buffer = BUFFERS_AT as u64 + 1,
            |r| r.buffer = (1 << 18) - 512,
            |r| r.buffer = u64::MAX - 511,
            |r| r.operation = Operation::Flush as u32,
        ] {
            assert_eq!(bad(change), Err(Refused::Invalid));
        }
        assert_eq!(bad(|r| r.offset = 1 << 20), Err(Refused::PastEnd));
        assert_eq!(bad(|r| r.offset = !511), Err(Refused::PastEnd));
        let flush = Request {
            operation: Operation::Flush as u32,
            bytes: 0,
            ..good
        };
        assert!(flush.check(&disk, memory).is_ok());
        let read_only = Info {
            read_only: true,
            ..disk
        };
        let write = Request {
            operation: Operation::Write as u32,
            ..good
        };
        assert!(write.check(&disk, memory).is_ok());
        assert_eq!(write.check(&read_only, memory), Err(Refused::ReadOnly));
    }
}
