//! The engine that leaves to the kernel's io_uring what may have to wait for the disk: as many reads
//! and writes are in flight as the queue holds, and nobody waits for a single one. The file is
//! registered, so the kernel does not look it up for each request.
//!
//! What a ring does not take (flushes, discards, backends without a file) goes to `workers`. So do
//! writes that must be durable: only the backend can promise it, and those who wait share its flushes.
//! And so do requests that did not end as they should, cut short or with an error: the worker does them
//! again from the beginning, and finds out what is wrong.
//!
//! The thread sleeps in io_uring_enter when requests are in flight. Then the doorbell is polled by the
//! ring as well, so that either wakes it.
//!
//! If io_uring_enter fails and goes on failing, the ring is given up, and workers do everything. What
//! the kernel has not taken goes to them. What it has taken ends without us, and is waited for: until
//! then the kernel may write to guest memory, and no process can make it stop.
#![allow(unsafe_code)]

use std::collections::VecDeque;
use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;

use io_uring::{IoUring, opcode, squeue, types};

use super::executor::Executor;
use super::workers::Workers;
use super::{Engine, Turn, serve};
use crate::block::backend::{Backend, RawFile};
use crate::block::request::{Kind, Outcome, Request};
use crate::block::retries::Retries;
use crate::block::source::{InFlight, RequestSource};
use crate::doorbell::Doorbell;
use crate::throttle::Throttle;
use crate::trace::{self, Point};

/// Which completion is the doorbell's; requests have the number of their slot.
const DOORBELL: u64 = u64::MAX;
/// The most pieces of one request (IOV_MAX of Linux).
const IOV_MAX: usize = 1024;
/// The most bytes of one request: what the kernel transfers in one go, a page less than 2 GiB.
const MAX_BYTES: u64 = (1 << 31) - 4096;
/// The registered file.
const FILE: types::Fixed = types::Fixed(0);
/// How often a ring that was given up is looked at, in milliseconds.
const LOOK: u16 = 1;

/// Whether the host lets us have an io_uring for `entries` requests at once. Sysctls, seccomp filters
/// and limits may stand against it.
pub(super) fn is_possible(entries: u16) -> bool {
    IoUring::new(entries.into())
        .inspect_err(|error| log::debug!("no io_uring: {error}"))
        .is_ok()
}

/// The queue's thread, an io_uring, and workers.
pub struct Uring {
    source: Arc<dyn RequestSource>,
    executor: Arc<Executor>,
    ring: Ring,
    workers: Workers,
}

impl Uring {
    /// With room for `entries` requests at once, a power of two, and `workers` threads.
    ///
    /// # Errors
    /// If the system has no io_uring for us, or refuses a thread.
    pub(crate) fn new(
        name: &str,
        entries: u16,
        workers: usize,
        source: Arc<dyn RequestSource>,
        backend: Arc<dyn Backend>,
        throttle: Throttle,
        doorbell: &Doorbell,
    ) -> io::Result<Self> {
        let ring = Ring::new(name, entries, backend.raw_file(), doorbell)?;
        let executor = Arc::new(Executor::new(name, backend, throttle));
        let (from, by) = (Arc::clone(&source), Arc::clone(&executor));
        Ok(Uring {
            workers: Workers::start(name, workers, from, by, doorbell)?,
            source,
            executor,
            ring,
        })
    }

    /// Ends what has ended. True if something has.
    fn reap(&mut self) -> bool {
        let mut any = false;
        while let Some((request, done)) = self.ring.next_ended() {
            any = true;
            let in_flight = InFlight::resume(&*self.source, request);
            if done {
                in_flight.finish(Outcome::Done);
            } else {
                self.workers.hand_over(in_flight);
            }
        }
        any
    }
}

impl Engine for Uring {
    fn turn(&mut self) -> Turn {
        let reaped = self.reap();
        if self.workers.is_full() {
            return if reaped { Turn::Busy } else { Turn::Elsewhere };
        }
        let (source, ring, workers) = (&*self.source, &mut self.ring, &self.workers);
        let executor = &self.executor;
        let turn = serve(source, executor, |in_flight| {
            let started = match executor.is_inside(in_flight.request()) {
                true => ring.start(in_flight.hand_over()),
                false => Err(in_flight.hand_over()),
            };
            if let Err(refused) = started {
                workers.hand_over(InFlight::resume(source, refused));
            }
            !workers.is_full()
        });
        self.ring.submit();
        if reaped { Turn::Busy } else { turn }
    }

    fn wait(&mut self, doorbell: &Doorbell) {
        if self.ring.is_idle() {
            doorbell.wait();
        } else {
            self.ring.wait();
        }
    }
}

impl Drop for Uring {
    fn drop(&mut self) {
        // The workers, which are dropped next, finish what is left.
        while self.ring.in_flight > 0 {
            self.ring.wait();
            self.reap();
        }
    }
}

/// The io_uring, and what is in flight in it.
struct Ring {
    /// The disk's, for log lines.
    name: String,
    trace: trace::Queue,
    ring: IoUring,
    /// What the file takes; none if there is no file.
    terms: Option<Terms>,
    doorbell: Doorbell,
    /// The ring polls the doorbell.
    armed: bool,
    /// Requests in flight. They do not move while the kernel looks at their buffers.
    slots: Box<[Option<Request>]>,
    free: Vec<u16>,
    in_flight: usize,
    /// What the kernel may not have taken yet, oldest first.
    pushed: VecDeque<u64>,
    /// Of io_uring_enter.
    retries: Retries,
    /// It is never called again.
    given_up: bool,
}

impl Ring {
    fn new(
        name: &str,
        entries: u16,
        file: Option<RawFile<'_>>,
        doorbell: &Doorbell,
    ) -> io::Result<Self> {
        let ring = IoUring::new(entries.into())?;
        if let Some(raw) = file {
            ring.submitter().register_files(&[raw.file.as_raw_fd()])?;
        }
        Ok(Ring {
            name: name.to_owned(),
            trace: trace::Queue::labelled(name),
            ring,
            terms: file.map(Terms::of),
            doorbell: doorbell.clone(),
            armed: false,
            slots: (0..entries).map(|_| None).collect(),
            free: (0..entries).rev().collect(),
            in_flight: 0,
            pushed: VecDeque::with_capacity(usize::from(entries) + 1),
            retries: Retries::default(),
            given_up: false,
        })
    }

    /// Whether nothing will complete.
    fn is_idle(&self) -> bool {
        self.in_flight == 0 && (!self.armed || self.given_up)
    }

    /// Starts a request with the next [`submit`](Ring::submit), or gives it back.
    fn start(&mut self, request: Request) -> Result<(), Request> {
        if self.given_up || !self.takes(&request) {
            return Err(request);
        }
        let Some(number) = self.free.pop() else {
            return Err(request);
        };
        let (id, tag) = (request.id, request.tag);
        let slot = &mut self.slots[usize::from(number)];
        let entry = entry(slot.insert(request)).user_data(number.into());
        // SAFETY: the entry's iovecs belong to the request, which stays in its slot, and unchanged,
        // until its completion has been reaped; they point into guest memory, which the request
        // keeps mapped. The registered file stays open with the ring.
        if unsafe { self.ring.submission().push(&entry) }.is_err() {
            self.free.push(number);
            return slot.take().map_or(Ok(()), Err);
        }
        self.pushed.push_back(number.into());
        self.in_flight += 1;
        self.trace.event(Point::Begun, tag, 0, 0);
        log::debug!("{} #{id} started in the io_uring", self.name);
        Ok(())
    }

    fn takes(&self, request: &Request) -> bool {
        let buffers = &request.buffers;
        self.terms.is_some_and(|terms| terms.allow(request))
            && !buffers.is_empty()
            && buffers.iovecs().len() <= IOV_MAX
            && buffers.len() <= MAX_BYTES
    }

    /// Starts what was pushed.
    fn submit(&mut self) {
        if self.given_up || self.ring.submission().is_empty() {
            return;
        }
        let result = self.ring.submit();
        self.has_entered(result);
    }

    /// Sleeps until something has ended, or the doorbell rings.
    fn wait(&mut self) {
        if self.given_up {
            return self.look_out();
        }
        if !self.armed {
            let fd = types::Fd(self.doorbell.as_raw_fd());
            let poll = opcode::PollAdd::new(fd, libc::POLLIN as u32).build();
            // SAFETY: the doorbell is this ring's too and is closed after it.
            let pushed = unsafe { self.ring.submission().push(&poll.user_data(DOORBELL)) };
            self.armed = pushed.is_ok();
            self.pushed.extend(self.armed.then_some(DOORBELL));
        }
        // Woken for nothing: the caller looks, and comes back.
        let result = self.ring.submit_and_wait(1);
        self.has_entered(result);
    }

    /// Takes note of what came of io_uring_enter. What the kernel has not taken it takes the next time,
    /// unless there have been too many.
    fn has_entered(&mut self, result: io::Result<usize>) {
        let left = self.ring.submission().len();
        self.pushed.drain(..self.pushed.len().saturating_sub(left));
        let Err(error) = result else {
            self.retries = Retries::default();
            return;
        };
        log::debug!("{}: io_uring_enter: {error}", self.name);
        if let Err(error) = self.retries.pause_after(error) {
            let name = &self.name;
            log::warn!("{name}: io_uring_enter: {error}: workers do without it from now on");
            self.given_up = true;
        }
    }

    /// Sleeps for a moment, or until the doorbell rings: completions come without a call, and tell nobody.
    fn look_out(&self) {
        self.doorbell.wait_at_most(LOOK);
    }

    /// A request that has ended, and whether all of it was done.
    fn next_ended(&mut self) -> Option<(Request, bool)> {
        if let Some(request) = self.take_back() {
            return Some((request, false));
        }
        loop {
            let completion = self.ring.completion().next()?;
            if completion.user_data() == DOORBELL {
                self.armed = false;
                // Heard: the next ring is a new one. Who has given up does not listen here.
                if !self.given_up {
                    self.doorbell.has_rung();
                }
                continue;
            }
            let Some(request) = self.take(completion.user_data()) else {
                continue;
            };
            let whole = i64::from(completion.result()) == request.buffers.len() as i64;
            let (name, id, result) = (&self.name, request.id, completion.result());
            if whole {
                self.trace.event(Point::Ended, request.tag, 0, 0);
                log::debug!("{name} #{id} finished: {result} bytes");
                return Some((request, true));
            }
            log::debug!("{name} #{id} is left to a worker: {result}");
            return Some((request, false));
        }
    }

    /// A request that the kernel has not taken and never will.
    fn take_back(&mut self) -> Option<Request> {
        while self.given_up
            && let Some(number) = self.pushed.pop_front()
        {
            if let Some(request) = self.take(number) {
                return Some(request);
            }
        }
        None
    }

    /// Empties the slot of this number, if there is such a one.
    fn take(&mut self, number: u64) -> Option<Request> {
        let number = u16::try_from(number).ok()?;
        let request = self.slots.get_mut(usize::from(number))?.take()?;
        self.free.push(number);
        self.in_flight -= 1;
        Some(request)
    }
}

/// What a file takes.
#[derive(Clone, Copy)]
struct Terms {
    memory: u64,
    block: u64,
    writes: bool,
}

impl Terms {
    fn of(file: RawFile<'_>) -> Self {
        Terms {
            memory: file.memory,
            block: file.block,
            writes: file.writes,
        }
    }

    fn allow(&self, request: &Request) -> bool {
        let direction = match request.kind {
            Kind::Read => true,
            Kind::Write { durable } => self.writes && !durable,
            _ => false,
        };
        let mut pieces = request.buffers.iovecs().iter();
        direction
            && request.offset.is_multiple_of(self.block)
            && request.buffers.len().is_multiple_of(self.block)
            && pieces.all(|piece| {
                let (addr, len) = (piece.iov_base as u64, piece.iov_len as u64);
                // Pieces follow one another on the disk.
                addr.is_multiple_of(self.memory) && len.is_multiple_of(self.block.max(self.memory))
            })
    }
}

/// The submission queue entry of a read or write.
fn entry(request: &Request) -> squeue::Entry {
    let iovecs = request.buffers.iovecs();
    let (pieces, count, offset) = (iovecs.as_ptr(), iovecs.len() as u32, request.offset);
    match request.kind {
        Kind::Write { .. } => opcode::Writev::new(FILE, pieces, count)
            .offset(offset)
            .build(),
        _ => opcode::Readv::new(FILE, pieces, count)
            .offset(offset)
            .build(),
    }
}

#[cfg(test)]
mod tests;
