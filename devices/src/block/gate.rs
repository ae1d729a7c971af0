//! The drain: who may still come in, who is inside, and when the last one has left.
//!
//! Whoever wants to touch what the gate guards (a ring, the guest memory of its requests) enters
//! first and leaves when done. [`Gate::close`] lets nobody in any more; when the gate is closed
//! and empty, nobody touches it, and nobody will.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Set while the gate is closed; the other bits count those inside.
const CLOSED: u32 = 1 << 31;

/// A gate that counts.
pub struct Gate {
    state: AtomicU32,
    /// Orders the last one's leaving against somebody who begins to wait for it.
    waiting: Mutex<()>,
    emptied: Condvar,
}

impl Gate {
    /// A closed gate with nobody inside.
    pub fn closed() -> Self {
        Gate {
            state: AtomicU32::new(CLOSED),
            waiting: Mutex::new(()),
            emptied: Condvar::new(),
        }
    }

    /// Enters, if the gate is open; each success is followed by one [`leave`](Gate::leave).
    #[must_use]
    pub fn enter(&self) -> bool {
        // Counted first and looked at second, so that nobody slips in behind a close.
        if self.state.fetch_add(1, Ordering::AcqRel) & CLOSED == 0 {
            return true;
        }
        self.leave();
        false
    }

    /// Leaves.
    pub fn leave(&self) {
        if self.state.fetch_sub(1, Ordering::AcqRel) == CLOSED | 1 {
            let _waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
            self.emptied.notify_all();
        }
    }

    /// Lets everybody in from now on.
    pub fn open(&self) {
        self.state.fetch_and(!CLOSED, Ordering::AcqRel);
    }

    /// Lets nobody in from now on.
    pub fn close(&self) {
        self.state.fetch_or(CLOSED, Ordering::AcqRel);
    }

    /// Whether somebody may come in.
    pub fn is_open(&self) -> bool {
        self.state.load(Ordering::Acquire) & CLOSED == 0
    }

    /// Whether nobody is inside.
    pub fn is_empty(&self) -> bool {
        self.state.load(Ordering::Acquire) & !CLOSED == 0
    }

    /// Waits for at most `limit` until nobody is inside; returns whether that came about.
    pub fn wait_until_empty(&self, limit: Duration) -> bool {
        let end = Instant::now().checked_add(limit);
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        while !self.is_empty() {
            // A limit beyond the clock's range is no limit: an hour at a time.
            let left = end.map_or(Duration::from_secs(3600), |end| {
                end.saturating_duration_since(Instant::now())
            });
            if left.is_zero() {
                return false;
            }
            waiting = match self.emptied.wait_timeout(waiting, left) {
                Ok((guard, _)) => guard,
                Err(poisoned) => poisoned.into_inner().0,
            };
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::first_write::{Page, at_first_write};
    use std::sync::Arc;
    use std::thread;

    #[test]
    fn a_closed_gate_lets_nobody_in() {
        let gate = Gate::closed();
        assert!(!gate.enter());
        gate.open();
        assert!(gate.enter());
        gate.close();
        assert!(!gate.enter());
        assert!(!gate.is_empty());
        gate.leave();
        assert!(gate.is_empty());
    }

    #[test]
    fn waiting_ends_when_the_last_one_leaves_or_time_is_up() {
        let gate = Arc::new(Gate::closed());
        gate.open();
        assert!(gate.enter());
        gate.close();
        assert!(!gate.wait_until_empty(Duration::from_millis(5)));
        let inside = gate.clone();
        let leaver = thread::spawn(move || {
            thread::sleep(Duration::from_millis(20));
            inside.leave();
        });
        let start = Instant::now();
        assert!(gate.wait_until_empty(Duration::from_secs(20)));
        assert!(
            start.elapsed() < Duration::from_secs(10),
            "nobody told that the gate is empty"
        );
        leaver.join().unwrap();
    }

    /// The gate is closed, and found empty, just before somebody who enters is counted: who looked
    /// first and is counted afterwards slips in.
    #[test]
    fn nobody_slips_in_behind_a_close() {
        let page = Box::new(Page(Gate::closed()));
        let gate = &page.0;
        gate.open();
        let close = || {
            gate.close();
            assert!(gate.is_empty());
        };
        assert!(!at_first_write(&raw const *page, close, || gate.enter()));
        assert!(gate.is_empty());
        gate.open();
        assert!(gate.enter());
    }

    #[test]
    fn nobody_is_counted_twice_under_contention() {
        let gate = Arc::new(Gate::closed());
        gate.open();
        let threads: Vec<_> = (0..4)
            .map(|_| {
                let gate = gate.clone();
                thread::spawn(move || {
                    while gate.enter() {
                        gate.leave();
                    }
                })
            })
            .collect();
        for _ in 0..100 {
            gate.close();
            assert!(gate.wait_until_empty(Duration::from_secs(5)));
            gate.open();
        }
        gate.close();
        for thread in threads {
            thread.join().unwrap();
        }
        assert!(gate.is_empty());
    }
}
