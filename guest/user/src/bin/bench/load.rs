//! The load: as many requests in flight as the cell says, each followed by the next one as soon as
//! its completion is seen.
//!
//! A cell runs for a tenth of its time before it is measured, and ends by waiting for what is in
//! flight. Of the reads every sixteenth is looked at; what was written last is read back.

use crate::blocks::Blocks;
use alloc::boxed::Box;
use core::fmt;
use iolite_user::core_logic::bench::{
    Cell, MAX_DEPTH, MIN_REQUESTS, Measured, Places, SECTOR_BYTES,
};
use iolite_user::core_logic::histogram::Histogram;
use iolite_user::driver::{Done, Info, Operation, Outcome};
use iolite_user::{DrivenDisk, Errno, Instant, wait_events};

/// Of how many reads one is looked at. A power of two.
const LOOK_EVERY: u64 = 16;
/// The warm-up's part of the time.
const WARM_UP: u64 = 10;
/// A request that takes this long is not coming back.
const LOST_NS: u64 = 30_000_000_000;

/// Why a cell could not be measured.
pub enum Failure {
    /// The kernel refused something.
    Refused(Errno),
    /// A request failed, at this offset.
    Request(u64),
    /// The sectors at this offset are not those that should be there.
    Content(u64),
    /// No completion comes.
    Lost,
}

impl From<Errno> for Failure {
    fn from(errno: Errno) -> Failure {
        Failure::Refused(errno)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Refused(errno) => errno.fmt(f),
            Failure::Request(offset) => write!(f, "the request at byte {offset} failed"),
            Failure::Content(offset) => write!(f, "wrong content at byte {offset}"),
            Failure::Lost => f.write_str("a request does not complete"),
        }
    }
}

type Result<T> = core::result::Result<T, Failure>;

/// A request in flight.
#[derive(Clone, Copy, Default)]
struct Request {
    offset: u64,
    /// Time stamp counter when it was handed to the driver.
    submitted: u64,
}

/// When a cell is measured, by the time stamp counter.
struct Span {
    warm: u64,
    end: u64,
}

impl Span {
    /// Warms up from now on, then lasts `ns` nanoseconds.
    fn from_now(ns: u64) -> Span {
        let warm = Instant::now().after_ns(ns / WARM_UP);
        Span {
            warm: warm.ticks(),
            end: warm.after_ns(ns).ticks(),
        }
    }

    /// Does a request that completes now still count, `counted` having done so? Where so few
    /// complete in the time, it lasts longer.
    #[inline(always)]
    fn go_on(&mut self, now: u64, counted: u64) -> bool {
        if now >= self.end && counted < MIN_REQUESTS {
            self.end = now + 1;
        }
        now < self.end
    }

    fn ns(&self) -> u64 {
        Instant::from_ticks(self.warm).ns_until(Instant::from_ticks(self.end))
    }
}

/// A disk and all that is needed to load it.
pub struct Load {
    disk: DrivenDisk,
    blocks: Blocks,
    requests: [Request; MAX_DEPTH],
    latencies: Box<Histogram>,
    measured: Measured,
    /// Completions seen.
    completed: u64,
}

impl Load {
    /// Loads `disk`.
    pub fn new(disk: DrivenDisk) -> Load {
        Load {
            disk,
            blocks: Blocks::default(),
            requests: [Request::default(); MAX_DEPTH],
            latencies: Box::default(),
            measured: Measured::default(),
            completed: 0,
        }
    }

    /// What the disk is.
    pub fn info(&self) -> &Info {
        self.disk.driver.info()
    }

    /// Measures one cell.
    ///
    /// # Errors
    ///
    /// [`Failure`]; requests may still be in flight then, and the program has to end.
    pub fn run(&mut self, cell: &Cell) -> Result<Measured> {
        let bytes = self.info().sectors * SECTOR_BYTES as u64;
        let mut places = Places::new(cell, bytes).ok_or(Errno::EINVAL)?;
        self.blocks.prepare(&self.disk, cell)?;
        *self.latencies = Histogram::new();
        self.measured = Measured::default();
        self.completed = 0;
        self.disk.driver.set_interrupts(cell.interrupt);
        let notifications = self.disk.driver.notifications();

        let mut span = Span::from_now(cell.ms * 1_000_000);
        for index in 0..cell.depth {
            self.submit(cell, index, places.next_offset())?;
        }
        self.disk.driver.notify();
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
        let mut result = self.result(span.ns());
        if cell.write {
            self.read_back(cell)?;
            result.verified = self.measured.verified;
        }
        Ok(result)
    }

    /// Hands the next request to the driver, in the place of one that has completed.
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
        let submitted = self.disk.driver.submit(operation, &[segment], index as u32);
        submitted.map_err(|_| Failure::Refused(Errno::EAGAIN))
    }

    /// The next completion. What was submitted since the last one is shown to the device when there
    /// is none left to take, and so in batches as large as they come.
    #[inline(always)]
    fn wait(&mut self, interrupt: bool) -> Result<Done> {
        if let Some(done) = self.disk.driver.poll() {
            return Ok(done);
        }
        self.disk.driver.notify();
        if interrupt {
            self.wait_for_interrupt()
        } else {
            self.spin()
        }
    }

    #[inline(always)]
    fn spin(&mut self) -> Result<Done> {
        let mut lost = None;
        loop {
            // Looking at the clock costs more than looking at the ring.
            for _ in 0..4096 {
                if let Some(done) = self.disk.driver.poll() {
                    return Ok(done);
                }
                core::hint::spin_loop();
            }
            let now = Instant::now();
            if now.ticks() > lost.get_or_insert(now.after_ns(LOST_NS)).ticks() {
                return Err(Failure::Lost);
            }
        }
    }

    fn wait_for_interrupt(&mut self) -> Result<Done> {
        loop {
            if let Some(done) = self.disk.driver.harvest() {
                return Ok(done);
            }
            match wait_events([&self.disk as &dyn iolite_user::Pollable], LOST_NS) {
                Err(Errno::ETIMEDOUT) => return Err(Failure::Lost),
                other => other?,
            };
            self.measured.interrupts += 1;
            self.disk.driver.acknowledge();
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
        if !cell.write && self.completed.is_multiple_of(LOOK_EVERY) {
            self.look(index, offset, None)?;
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
            self.disk.driver.notify();
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
