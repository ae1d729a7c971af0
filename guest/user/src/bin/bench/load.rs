//! The load: as many requests in flight as the cell says, each followed by the next one as soon as
//! its completion is seen.
//!
//! A cell runs for a tenth of its time before it is measured, and ends by waiting for what is in
//! flight. Of the reads every sixteenth is looked at; what was written last is read back.

use crate::blocks::Blocks;
use crate::failure::{Failure, Result};
use crate::neighbour::Neighbour;
use crate::span::Span;
use alloc::boxed::Box;
use alloc::vec::Vec;
use iolite_user::core_logic::bench::{Cell, MAX_DEPTH, Measured, Places, Ready, SECTOR_BYTES};
use iolite_user::core_logic::histogram::Histogram;
use iolite_user::driver::{Done, Operation, Outcome, Queue};
use iolite_user::{DrivenDisk, Errno, Instant, Pollable, wait_events};

/// Of how many reads one is looked at. A power of two.
const LOOK_EVERY: u64 = 16;
/// A request that takes this long is not coming back.
const LOST_NS: u64 = 30_000_000_000;

/// A request in flight.
#[derive(Clone, Copy, Default)]
struct Request {
    offset: u64,
    /// Time stamp counter when it was handed to the driver.
    submitted: u64,
}

/// A disk and all that is needed to load it.
pub struct Load {
    disk: DrivenDisk<Vec<Queue>>,
    neighbour: Option<Neighbour>,
    blocks: Blocks,
    requests: [Request; MAX_DEPTH],
    latencies: Box<Histogram>,
    measured: Measured,
    /// Completions seen.
    completed: u64,
    /// How many queues the cell uses, and which is looked at next.
    queues: usize,
    at: usize,
}

impl Load {
    /// Loads `disk`, and meanwhile its neighbour if there is one.
    pub fn new(disk: DrivenDisk<Vec<Queue>>, neighbour: Option<Neighbour>) -> Load {
        Load {
            disk,
            neighbour,
            blocks: Blocks::default(),
            requests: [Request::default(); MAX_DEPTH],
            latencies: Box::default(),
            measured: Measured::default(),
            completed: 0,
            queues: 1,
            at: 0,
        }
    }

    /// What the disk is.
    pub fn ready(&self) -> Ready {
        let info = self.disk.driver.info();
        Ready {
            sectors: info.sectors,
            queues: self.disk.driver.queues(),
            queue_depth: info.max_in_flight.into(),
        }
    }

    /// Measures one cell.
    ///
    /// # Errors
    ///
    /// [`Failure`]; requests may still be in flight then, and the program has to end.
    pub fn run(&mut self, cell: &Cell) -> Result<Measured> {
        let ready = self.ready();
        let bytes = ready.sectors * SECTOR_BYTES as u64;
        let mut places = Places::new(cell, bytes).ok_or(Errno::EINVAL)?;
        self.blocks.prepare(&self.disk, cell)?;
        *self.latencies = Histogram::new();
        self.measured = Measured::default();
        self.completed = 0;
        self.queues = cell.queues.min(ready.queues);
        self.at = 0;
        for queue in 0..self.queues {
            let mut queue = self.disk.driver.queue(queue);
            queue.set_interrupts(cell.interrupt);
        }
        if let Some(neighbour) = &mut self.neighbour {
            neighbour.start(cell.interrupt)?;
        }
        let notifications = self.disk.driver.notifications();

        let mut span = Span::from_now(cell.ms * 1_000_000);
        for index in 0..cell.depth {
            self.submit(cell, index, places.next_offset())?;
        }
        let mut in_flight = cell.depth;
        while in_flight > 0 {
            let done = self.wait(cell.interrupt)?;
            if self.complete(cell, done, &mut span)? {
                self.submit(cell, done.cookie as usize, places.next_offset())?;
            } else {
                in_flight -= 1;
            }
        }
        self.measured.all = self.completed;
        self.measured.notifications = self.disk.driver.notifications() - notifications;
        self.measured.neighbour = self.neighbour.as_ref().map_or(0, Neighbour::completed);
        let mut result = self.result(span.ns());
        if cell.write {
            self.read_back(cell)?;
            result.verified = self.measured.verified;
        }
        Ok(result)
    }

    /// Hands the next request to the driver, in the place of one that has completed; each place has
    /// its queue.
    #[inline(always)]
    fn submit(&mut self, cell: &Cell, index: usize, offset: u64) -> Result<()> {
        let sector = offset / SECTOR_BYTES as u64;
        let operation = if cell.write {
            self.blocks.stamp(index, offset, cell.seed);
            Operation::Write { sector }
        } else {
            Operation::Read { sector }
        };
        self.requests[index] = Request {
            offset,
            submitted: Instant::now().ticks(),
        };
        let segment = self.blocks.segment(index);
        // There is room: no more are in flight than the queue holds.
        let mut queue = self.disk.driver.queue(index % self.queues);
        let submitted = queue.submit(operation, &[segment], index as u32);
        submitted.map_err(|_| Failure::Refused(Errno::EAGAIN))
    }

    /// The next completion, waited for.
    #[inline(always)]
    fn wait(&mut self, interrupt: bool) -> Result<Done> {
        if let Some(done) = self.poll() {
            return Ok(done);
        }
        if let Some(neighbour) = &mut self.neighbour {
            neighbour.turn()?;
        }
        if interrupt {
            self.wait_for_interrupt()
        } else {
            self.spin()
        }
    }

    /// The next completion, if there is one. What was submitted to a queue is shown to the device when
    /// there is nothing left to take from that queue, and so in batches as large as they come.
    #[inline(always)]
    fn poll(&mut self) -> Option<Done> {
        for _ in 0..self.queues {
            let mut queue = self.disk.driver.queue(self.at);
            if let Some(done) = queue.poll() {
                return Some(done);
            }
            queue.notify();
            self.at = if self.at + 1 < self.queues {
                self.at + 1
            } else {
                0
            };
        }
        None
    }

    #[inline(always)]
    fn spin(&mut self) -> Result<Done> {
        let mut lost = None;
        loop {
            // Looking at the clock costs more than looking at the ring.
            for _ in 0..4096 {
                if let Some(done) = self.poll() {
                    return Ok(done);
                }
                core::hint::spin_loop();
            }
            let now = Instant::now();
            if now.ticks() > lost.get_or_insert(now.after_ns(LOST_NS)).ticks() {
                return Err(Failure::Lost);
            }
            if let Some(neighbour) = &mut self.neighbour {
                neighbour.turn()?;
            }
        }
    }

    fn wait_for_interrupt(&mut self) -> Result<Done> {
        loop {
            // Asks each queue for an interrupt that has nothing.
            for queue in 0..self.queues {
                if let Some(done) = self.disk.driver.queue(queue).harvest() {
                    return Ok(done);
                }
            }
            let disk = &self.disk as &dyn Pollable;
            let ready = match &self.neighbour {
                None => wait_events([disk], LOST_NS),
                Some(neighbour) => wait_events([disk, neighbour.pollable()], LOST_NS),
            };
            let ready = match ready {
                Err(Errno::ETIMEDOUT) => return Err(Failure::Lost),
                other => other?,
            };
            if ready[0].has_event() {
                self.measured.interrupts += 1;
                self.disk.driver.acknowledge();
            }
            if let Some(neighbour) = &mut self.neighbour {
                neighbour.woken(ready[1].has_event())?;
            }
        }
    }

    /// Counts a completion, and looks at what it brought now and then. False when it is time to
    /// submit no more.
    #[inline(always)]
    fn complete(&mut self, cell: &Cell, done: Done, span: &mut Span) -> Result<bool> {
        let now = Instant::now().ticks();
        // The driver gives back what it was given.
        let index = done.cookie as usize;
        let Request { offset, submitted } = self.requests[index];
        if done.outcome != Outcome::Ok {
            return Err(Failure::Request(offset));
        }
        let go_on = span.go_on(now, self.latencies.count());
        if go_on && now >= span.warm {
            self.latencies.record(now - submitted);
        }
        self.completed += 1;
        if self.completed.is_multiple_of(LOOK_EVERY) {
            if !cell.write {
                self.look(index, offset, None)?;
            }
            // It has its turn too while completions come without end.
            if let Some(neighbour) = &mut self.neighbour {
                neighbour.turn()?;
            }
        }
        Ok(go_on)
    }

    #[inline(always)]
    fn look(&mut self, index: usize, offset: u64, seed: Option<u64>) -> Result<()> {
        if !self.blocks.holds(index, offset, seed) {
            return Err(Failure::Content(offset));
        }
        self.measured.verified += 1;
        Ok(())
    }

    /// Reads what each place has written last, one after the other.
    fn read_back(&mut self, cell: &Cell) -> Result<()> {
        for index in 0..cell.depth {
            let offset = self.requests[index].offset;
            self.blocks.spoil(index);
            let read = Cell {
                write: false,
                ..*cell
            };
            self.submit(&read, index, offset)?;
            if self.wait(cell.interrupt)?.outcome != Outcome::Ok {
                return Err(Failure::Request(offset));
            }
            self.look(index, offset, Some(cell.seed))?;
        }
        Ok(())
    }

    fn result(&self, ns: u64) -> Measured {
        let origin = Instant::from_ticks(0);
        let in_ns = |ticks| origin.ns_until(Instant::from_ticks(ticks));
        Measured {
            requests: self.latencies.count(),
            ns,
            p50_ns: in_ns(self.latencies.per_mille(500)),
            p99_ns: in_ns(self.latencies.per_mille(990)),
            p999_ns: in_ns(self.latencies.per_mille(999)),
            max_ns: in_ns(self.latencies.max()),
            ..self.measured
        }
    }
}
