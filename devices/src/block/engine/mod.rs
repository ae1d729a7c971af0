//! Who carries requests out, on which thread.
//!
//! Each queue has a thread, and the thread has an engine: it gives the engine one [turn](Engine::turn)
//! after the other for as long as there is something to do, and lets it [wait](Engine::wait) when
//! there is not. In a turn the engine pulls from its [`RequestSource`] and either carries requests
//! out on the spot or starts them elsewhere: [`pool`] has workers for those that may have to wait
//! for the disk.
//!
//! [`RequestSource`]: super::source::RequestSource

mod executor;
pub mod pool;

use vmm_sys_util::eventfd::EventFd;

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
    fn wait(&mut self, doorbell: &EventFd) {
        // An error is a wake-up for nothing.
        let _ = doorbell.read();
    }
}
