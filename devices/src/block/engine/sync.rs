//! The engine without threads of its own: the queue's thread does everything, one request after the
//! other, and waits for the disk where it has to. The vCPUs never wait for it.

use std::sync::Arc;

use super::executor::{Executor, Place};
use super::{Engine, Turn, serve};
use crate::block::backend::Backend;
use crate::block::source::RequestSource;
use crate::throttle::Throttle;

/// The queue's thread alone.
pub struct Sync {
    source: Arc<dyn RequestSource>,
    executor: Executor,
}

impl Sync {
    /// For the disk called `name`.
    pub(crate) fn new(
        name: &str,
        source: Arc<dyn RequestSource>,
        backend: Arc<dyn Backend>,
        throttle: Throttle,
    ) -> Self {
        let executor = Executor::new(name, backend, throttle);
        Sync { source, executor }
    }
}

impl Engine for Sync {
    fn turn(&mut self) -> Turn {
        serve(&*self.source, &self.executor, |waits| {
            self.executor.finish(waits, Place::QueueThread);
            // Who was served before has waited for an interrupt long enough.
            false
        })
    }
}
