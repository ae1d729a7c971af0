//! The engine of most disks: the queue's thread serves at once what can be
//! served at once, and `workers` do the rest. Where nothing can be served at once, workers pull for
//! themselves.

use std::io;
use std::sync::Arc;

use super::executor::Executor;
use super::workers::Workers;
use super::{Engine, Turn, serve};
use crate::block::backend::Backend;
use crate::block::source::RequestSource;
use crate::doorbell::Doorbell;
use crate::throttle::Throttle;

/// The queue's thread and workers.
pub struct Pool {
    source: Arc<dyn RequestSource>,
    executor: Arc<Executor>,
    workers: Workers,
    /// The queue's thread tries what can be done at once.
    tries: bool,
}

impl Pool {
    /// With `workers` threads called `{name}-worker-0` and so on.
    ///
    /// # Errors
    /// If the system refuses a thread; those already started are ended.
    pub(crate) fn new(
        name: &str,
        workers: usize,
        source: Arc<dyn RequestSource>,
        backend: Arc<dyn Backend>,
        throttle: Throttle,
        doorbell: &Doorbell,
    ) -> io::Result<Self> {
        let executor = Arc::new(Executor::new(name, backend, throttle));
        let (from, by) = (Arc::clone(&source), Arc::clone(&executor));
        Ok(Pool {
            workers: Workers::start(name, workers, from, by, doorbell)?,
            tries: executor.can_try(),
            source,
            executor,
        })
    }
}

impl Engine for Pool {
    fn turn(&mut self) -> Turn {
        if !self.tries {
            self.workers.look();
            return Turn::Elsewhere;
        }
        if self.workers.is_full() {
            return Turn::Elsewhere;
        }
        serve(&*self.source, &self.executor, |waits| {
            self.workers.hand_over(waits);
            !self.workers.is_full()
        })
    }
}

#[cfg(test)]
impl Pool {
    pub(super) fn told_to_stop(&self) -> impl Fn() -> bool + Send + use<> {
        self.workers.told_to_stop()
    }
}
