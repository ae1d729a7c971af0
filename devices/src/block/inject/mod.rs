//! A disk that is slow or faulty on purpose: to see overlap that a fast disk hides, and to see what
//! a guest does on a bad one.
//!
//! An [`Injection`] stands between a queue and an engine, as a [`RequestSource`] of its own:
//!
//! ```text
//! queue -> delay: notes when the request began -> failing: ends those that are to fail -> engine
//! queue <- delay: holds the completion back until it is due  <-----------------------------'
//! ```
//!
//! So it works with every engine and every backend, none of which knows of it, and where nothing
//! is injected nothing stands there. It concerns the guest's requests only: the flush at the end
//! of a machine is the real one. What needs no disk (GET_ID, requests that are refused) is answered
//! by the queue and never comes here.
//!
//! Everything random is a function of the seed and the request's number: the same requests in the
//! same order meet the same fate.

mod delay;
mod failing;
mod failure;
mod latency;
mod random;

pub use failure::{Failure, MILLION, Operation, Which};
pub use latency::Latency;

use std::io;
use std::sync::Arc;

use vmm_sys_util::eventfd::EventFd;

use super::engine::{Engine, Turn};
use super::source::RequestSource;
use delay::Delay;
use failing::Failing;

/// What is injected into a disk; by default nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Injection {
    /// How long each request takes at least.
    pub latency: Option<Latency>,
    /// Which requests fail: those that meet any of these.
    pub failures: Vec<Failure>,
    /// What random choices are made from.
    pub seed: u64,
}

impl Injection {
    /// Makes an engine with `make`, between which and `source` this stands. `name` is the disk's.
    ///
    /// # Errors
    /// Those of `make`, and if the system refuses a thread.
    pub fn engine(
        self,
        name: &str,
        mut source: Arc<dyn RequestSource>,
        make: impl FnOnce(Arc<dyn RequestSource>) -> io::Result<Box<dyn Engine>>,
    ) -> io::Result<Box<dyn Engine>> {
        let delay = match self.latency {
            Some(latency) => Some(Delay::new(name, source.clone(), latency, self.seed)?),
            None => None,
        };
        if let Some(delay) = &delay {
            source = delay.source();
        }
        if !self.failures.is_empty() {
            source = Arc::new(Failing::new(name, source, self.failures, self.seed));
        }
        let engine = make(source)?;
        Ok(match delay {
            Some(delay) => Box::new(Delayed {
                engine,
                _delay: delay,
            }),
            None => engine,
        })
    }
}

/// An engine whose completions are delayed. What is declared first is dropped first: the engine, after
/// which nothing new can be held back; then the delay, which lets go of all that it holds.
struct Delayed {
    engine: Box<dyn Engine>,
    _delay: Delay,
}

impl Engine for Delayed {
    fn turn(&mut self) -> Turn {
        self.engine.turn()
    }

    fn wait(&mut self, doorbell: &EventFd) {
        self.engine.wait(doorbell);
    }
}
