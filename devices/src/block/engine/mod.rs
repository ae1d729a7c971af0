//! Who carries requests out, on which thread.
//!
//! Each queue has a thread, and the thread has an engine: it gives the engine one [turn](Engine::turn)
//! after the other for as long as there is something to do, and lets it [wait](Engine::wait) when
//! there is not. In a turn the engine pulls from its [`RequestSource`] and either carries requests
//! out on the spot or starts them elsewhere. What need not wait for the disk is carried out on the
//! spot by all of them; they differ in what they do with the rest: [`pool`] has workers for it,
//! [`uring`] the kernel's io_uring, and [`sync`] waits.
//!
//! [`RequestSource`]: super::source::RequestSource

mod executor;
pub mod pool;
pub mod sync;
pub mod uring;
mod workers;

use std::fmt;

use super::backend::{Backend, Waits};
use super::source::{InFlight, RequestSource};
use crate::doorbell::Doorbell;
use executor::Executor;

/// The engines there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// [`pool`].
    Pool,
    /// [`uring`].
    Uring,
    /// [`sync`].
    Sync,
}

impl Kind {
    /// The engine where nobody says which, for queues of `entries` entries: io_uring for a file of
    /// which nothing can be had at once, if this host has it; workers for everything else.
    pub fn suiting(backend: &dyn Backend, entries: u16) -> Self {
        let all_waits = backend.waits() == Waits::Always && backend.raw_file().is_some();
        match all_waits && uring::is_possible(entries) {
            true => Kind::Uring,
            false => Kind::Pool,
        }
    }
}

/// As the disk key `engine=` has it.
impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Kind::Pool => "pool",
            Kind::Uring => "uring",
            Kind::Sync => "sync",
        })
    }
}

/// How many requests an engine pulls in a turn at most: a driver that waits for an interrupt gets
/// it after as many.
const MAX_TURN: usize = 32;

/// What came of a turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// Something was done: the next turn may follow at once.
    Busy,
    /// There was nothing to do.
    Idle,
    /// Nothing is to be done on this thread until somebody rings the doorbell.
    Elsewhere,
}

/// Carries requests out. All calls come from the queue's thread, which also drops the engine: that
/// finishes what is in flight, and ends the engine's threads.
pub trait Engine: Send {
    /// Does what there is to do, without waiting for it to come.
    fn turn(&mut self) -> Turn;

    /// Sleeps until somebody rings `doorbell` or, in engines that wait for the disk on this thread,
    /// a request has ended. May return early.
    fn wait(&mut self, doorbell: &Doorbell) {
        doorbell.wait();
    }
}

/// One turn: pulls requests and carries out what can be carried out at once. `start` gets the others,
/// and says whether to pull more.
fn serve<'a>(
    source: &'a dyn RequestSource,
    executor: &Executor,
    mut start: impl FnMut(InFlight<'a>) -> bool,
) -> Turn {
    let Some((mut request, _)) = InFlight::pull(source) else {
        return Turn::Idle;
    };
    for number in 1..=MAX_TURN {
        let more = number < MAX_TURN;
        let next = match executor.try_now(request.request()) {
            Some((outcome, lines)) if more && lines.is_empty() => request.finish_and_pull(outcome),
            Some((outcome, lines)) => {
                request.finish(outcome);
                drop(lines);
                more.then(|| InFlight::pull(source))
                    .flatten()
                    .map(|(next, _)| next)
            }
            None if start(request) && more => InFlight::pull(source).map(|(next, _)| next),
            None => None,
        };
        match next {
            Some(next) => request = next,
            None => break,
        }
    }
    Turn::Busy
}

#[cfg(test)]
mod tests;
