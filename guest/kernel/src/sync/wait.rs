//! Threads that wait for the same thing, first come first woken. The links are the threads' own:
//! a queue is two numbers, and waiting allocates nothing.

use crate::task::ThreadId;
use crate::task::scheduler;

/// A queue of blocked threads.
#[derive(Clone, Copy, Debug)]
pub struct WaitQueue {
    pub(crate) first: Option<ThreadId>,
    /// Meaningless while there is no first.
    pub(crate) last: Option<ThreadId>,
}

impl WaitQueue {
    /// An empty queue.
    pub const fn new() -> Self {
        WaitQueue {
            first: None,
            last: None,
        }
    }

    /// Is nobody waiting?
    pub fn is_empty(&self) -> bool {
        self.first.is_none()
    }

    /// Puts the running thread at the end. It then lets go of whatever state the queue is part of
    /// and calls [`scheduler::block_queued`].
    pub fn join(&mut self) {
        scheduler::enqueue_current(self);
    }

    /// Wakes every thread.
    pub fn wake_all(&mut self) {
        if self.first.is_some() {
            scheduler::wake_queue(self);
        }
    }
}
