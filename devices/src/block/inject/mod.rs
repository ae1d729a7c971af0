//! A disk that is slow or faulty on purpose: to see overlap that a fast disk hides, to see what a
//! guest does on a bad one, and to leave something of a good one to others.
//!
//! An [`Injection`] stands between each queue and its engine, as a [`RequestSource`] of its own:
//!
//! ```text
//! queue -> limit: lets no more through than a rate allows
//!       -> delay: notes when the request began -> failing: ends those that are to fail -> engine
//! queue <- delay: holds the completion back until it is due  <-----------------------------'
//! ```
//!
//! So it works with every engine and every backend, none of which knows of it, and where nothing
//! is injected nothing stands there. It concerns the guest's requests only: the flush at the end
//! of a machine is the real one. What needs no disk (GET_ID, requests that are refused) is answered
//! by the queue and never comes here.
//!
//! The limits, and the counts of what fails now and then, are the disk's; the rest is each queue's.
//!
//! Everything random is a function of the seed, the queue and the request's number: the same requests
//! in the same order meet the same fate.

mod delay;
mod failing;
mod failure;
mod latency;
mod limit;
mod random;
mod rate;

pub use failure::{Failure, MILLION, Operation, Which};
pub use latency::Latency;
pub use limit::Limits;
pub use rate::Rate;

use std::io;
use std::sync::{Arc, Mutex};

use super::engine::{Engine, Turn};
use super::source::{RequestSource, StepSource};
use crate::doorbell::Doorbell;
use delay::Delay;
use failing::Failing;
use failure::Armed;
use limit::{Buckets, Limit};

/// What is injected into a disk; by default nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Injection {
    /// How much it may do.
    pub limits: Limits,
    /// How long each request takes at least.
    pub latency: Option<Latency>,
    /// Which requests fail: those that meet any of these.
    pub failures: Vec<Failure>,
    /// What random choices are made from.
    pub seed: u64,
}

/// An injection at work: what the queues of a disk have in common of it.
pub struct Injector {
    latency: Option<Latency>,
    /// These count the requests of all queues.
    failures: Arc<[Armed]>,
    /// All queues take from the same.
    buckets: Option<Arc<Mutex<Buckets>>>,
    seed: u64,
}

impl Injector {
    /// Begins to inject, into a disk that is new.
    pub fn new(injection: &Injection) -> Self {
        let failures = injection.failures.iter().enumerate();
        let armed = failures.map(|(index, failure)| Armed::new(index, *failure));
        let limits = injection.limits;
        let buckets = (!limits.is_none()).then(|| Arc::new(Mutex::new(Buckets::new(limits))));
        Injector {
            latency: injection.latency,
            failures: armed.collect(),
            buckets,
            seed: injection.seed,
        }
    }

    /// Makes an engine with `make` for queue number `queue`, which is called `name`; between the
    /// engine and `source` this stands. `doorbell` is what the queue's thread waits for.
    ///
    /// # Errors
    /// Those of `make`, and if the system refuses a thread.
    pub fn engine(
        &self,
        queue: usize,
        name: &str,
        source: Arc<dyn StepSource>,
        doorbell: &Doorbell,
        make: impl FnOnce(Arc<dyn RequestSource>) -> io::Result<Box<dyn Engine>>,
    ) -> io::Result<Box<dyn Engine>> {
        // Each queue counts its requests from 1: without this they would all meet the same fate.
        let seed = self.seed.wrapping_add(queue as u64);
        let limit = match &self.buckets {
            None => None,
            Some(buckets) => Some(Limit::new(name, source.clone(), buckets.clone(), doorbell)?),
        };
        let mut source: Arc<dyn RequestSource> = match &limit {
            Some(limit) => limit.source(),
            None => source,
        };
        let delay = match self.latency {
            Some(latency) => Some(Delay::new(name, source.clone(), latency, seed)?),
            None => None,
        };
        if let Some(delay) = &delay {
            source = delay.source();
        }
        if !self.failures.is_empty() {
            source = Arc::new(Failing::new(name, source, self.failures.clone(), seed));
        }
        let engine = make(source)?;
        Ok(match (&limit, &delay) {
            (None, None) => engine,
            _ => Box::new(Injected {
                engine,
                limit,
                _delay: delay,
            }),
        })
    }
}

/// An engine that does not see all that happens. What is declared first is dropped first: the engine,
/// after which nothing new can be held back; then the delay, which lets go of all that it holds.
struct Injected {
    engine: Box<dyn Engine>,
    _delay: Option<Delay>,
    limit: Option<Limit>,
}

impl Engine for Injected {
    fn turn(&mut self) -> Turn {
        match (self.engine.turn(), &self.limit) {
            // What is in the ring may not begin yet; the limit rings when it may.
            (Turn::Idle, Some(limit)) if limit.pauses() => Turn::Elsewhere,
            (turn, _) => turn,
        }
    }

    fn wait(&mut self, doorbell: &Doorbell) {
        self.engine.wait(doorbell);
    }
}
