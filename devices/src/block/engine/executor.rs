//! Calling a backend with care: a panic costs one request, and what fails is in the log.

use std::fmt;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Instant;

use crate::block::backend::{Backend, Waits};
use crate::block::request::{Kind, Outcome, Request};
use crate::block::source::InFlight;
use crate::lines::Lines;
use crate::throttle::Throttle;
use crate::ticks;
use crate::trace::{Point, Queue};

/// A backend, and how its failures are told.
pub(super) struct Executor {
    /// The disk's name, for log lines.
    name: String,
    trace: Queue,
    backend: Arc<dyn Backend>,
    /// For failures that the guest can repeat as often as it likes.
    failures: Throttle,
}

/// Where a request is carried out, for log lines.
#[derive(Clone, Copy, Debug)]
pub(super) enum Place {
    QueueThread,
    Worker(usize),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::QueueThread => write!(f, "the queue's thread"),
            Place::Worker(number) => write!(f, "worker {number}"),
        }
    }
}

impl Executor {
    /// For the disk called `name`.
    pub(super) fn new(name: &str, backend: Arc<dyn Backend>, failures: Throttle) -> Self {
        Executor {
            name: name.to_owned(),
            trace: Queue::labelled(name),
            backend,
            failures,
        }
    }

    /// Whether [`try_now`](Executor::try_now) is worth a try.
    pub(super) fn can_try(&self) -> bool {
        self.backend.waits() != Waits::Always
    }

    /// Whether the backend's file still has all of the request's bytes.
    pub(super) fn is_inside(&self, request: &Request) -> bool {
        self.backend.reaches(request.offset + request.buffers.len())
    }

    /// Carries a request out if it need not wait for the disk; otherwise it is to be carried out as if
    /// nothing had been tried. The lines are for when the request has ended.
    pub(super) fn try_now(&self, request: &Request) -> Option<(Outcome, Lines)> {
        let (outcome, lines) = self.attempt(request)?;
        let (name, id) = (&self.name, request.id);
        log::debug!("{name} #{id} started on {}", Place::QueueThread);
        log::debug!("{name} #{id} finished: {outcome:?}, at once");
        Some((outcome, lines))
    }

    fn attempt(&self, request: &Request) -> Option<(Outcome, Lines)> {
        let (offset, buffers) = (request.offset, &request.buffers);
        self.guarded(request, |backend| match (backend.waits(), request.kind) {
            (Waits::Never, _) => Some(carry_out(backend, request)),
            (Waits::Sometimes, Kind::Read) => backend.read_now(offset, buffers).then_some(Ok(())),
            (Waits::Sometimes, Kind::Write { durable: false }) => {
                backend.write_now(offset, buffers).then_some(Ok(()))
            }
            _ => None,
        })
    }

    /// Carries a request out on this thread, however long it takes, and ends it.
    pub(super) fn finish(&self, in_flight: InFlight<'_>, place: Place) {
        let (name, id) = (&self.name, in_flight.request().id);
        log::debug!("{name} #{id} started on {place}");
        let start = log::log_enabled!(log::Level::Debug).then(Instant::now);
        let request = in_flight.request();
        let outcome = self.guarded(request, |backend| Some(carry_out(backend, request)));
        let (outcome, lines) = outcome.unwrap_or((Outcome::Failed, Lines::default()));
        if let Some(start) = start {
            let us = start.elapsed().as_micros();
            log::debug!("{name} #{id} finished: {outcome:?}, {us} us");
        }
        in_flight.finish(outcome);
        // A drain does not wait for who reads the log.
        drop(lines);
    }

    fn guarded(
        &self,
        request: &Request,
        call: impl FnOnce(&dyn Backend) -> Option<io::Result<()>>,
    ) -> Option<(Outcome, Lines)> {
        // Unwind safety: the request is only read, and a backend that panicked is the same to us
        // as one that returned an error half-way: it has to keep its own promises to later calls.
        let begun = self.trace.time_after(Point::Parsed, request.tag);
        let done = catch_unwind(AssertUnwindSafe(|| call(&*self.backend)));
        if let (Some(begun), Ok(Some(_)) | Err(_)) = (begun, &done) {
            let times = [begun, ticks::end_after(begun)];
            self.trace.pair(times, Point::Ended, request.tag, 0, 0);
        }
        let lines = match done {
            Ok(None) => return None,
            Ok(Some(Ok(()))) => return Some((Outcome::Done, Lines::default())),
            Ok(Some(Err(error))) => self.complaint(request, format_args!("{error}")),
            Err(_) => self.complaint(
                request,
                format_args!("the backend panicked (please report this bug)"),
            ),
        };
        Some((Outcome::Failed, lines))
    }

    #[cold]
    fn complaint(&self, request: &Request, why: fmt::Arguments<'_>) -> Lines {
        let mut lines = Lines::default();
        let Request {
            id,
            kind,
            offset,
            buffers,
            ..
        } = request;
        self.failures.warn(
            &mut lines,
            module_path!(),
            format_args!(
                "{} #{id}: {kind:?} of {} bytes at {offset} failed: {why}",
                self.name,
                buffers.len()
            ),
        );
        lines
    }
}

/// Carries one request out on the calling thread, and returns when it is done.
fn carry_out(backend: &dyn Backend, request: &Request) -> io::Result<()> {
    let ranges = || request.ranges.iter().map(|r| (r.start, r.end - r.start));
    match request.kind {
        Kind::Read => backend.read(request.offset, &request.buffers),
        Kind::Write { durable } => {
            backend.write(request.offset, &request.buffers)?;
            flush_if(durable, backend)
        }
        Kind::Flush => backend.flush(),
        Kind::Discard => ranges().try_for_each(|(at, len)| backend.discard(at, len)),
        Kind::WriteZeroes { unmap, durable } => {
            ranges().try_for_each(|(at, len)| backend.write_zeroes(at, len, unmap))?;
            flush_if(durable, backend)
        }
    }
}

fn flush_if(durable: bool, backend: &dyn Backend) -> io::Result<()> {
    if durable { backend.flush() } else { Ok(()) }
}
