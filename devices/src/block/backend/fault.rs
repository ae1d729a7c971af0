//! The tests' instrument: a backend that wraps another one and does what a test wants, when it
//! wants it. It occupies a worker while it is slow, it can hold requests until they are released,
//! and it can panic. What users choose by disk keys is [`inject`](crate::block::inject).
//!
//! [`Faults`] are the controls; they may be changed while the disk is in use. A request meets them
//! in this order: it is held, it is delayed, it fails; what comes through goes to the real backend.

use std::io;
use std::ops::Range;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use super::Backend;
use crate::block::buffers::GuestBuffers;
pub use crate::block::inject::Operation;

/// What happens to a request that meets a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// It fails with this error number (`libc::EIO`).
    Error(i32),
    /// The backend panics, as one with a bug would.
    Panic,
}

/// The controls of a [`FaultBackend`].
#[derive(Default)]
pub struct Faults {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    rules: Vec<(Operation, Range<u64>, Effect)>,
    latency: Duration,
    stagger: Option<Stagger>,
    holding: bool,
    /// Positions of the requests that are held now.
    held: Vec<u64>,
    /// Positions that are let go although everything else is held.
    let_go: Vec<u64>,
}

struct Stagger {
    group: u32,
    step: Duration,
    next: u32,
}

impl Faults {
    /// Every `operation` that touches a byte of `range` suffers `effect`, until
    /// [`heal`](Faults::heal). A flush matches any range.
    pub fn fail(&self, operation: Operation, range: Range<u64>, effect: Effect) {
        self.lock().rules.push((operation, range, effect));
    }

    /// Nothing fails any more.
    pub fn heal(&self) {
        self.lock().rules.clear();
    }

    /// Every request takes this much longer.
    pub fn set_latency(&self, latency: Duration) {
        self.lock().latency = latency;
    }

    /// Of every `group` requests in a row the first takes `group` times `step` longer, the second
    /// one step less, and so on: requests that are in flight together complete in reverse order.
    pub fn stagger(&self, group: u32, step: Duration) {
        let group = group.max(1);
        self.lock().stagger = Some(Stagger {
            group,
            step,
            next: 0,
        });
    }

    /// Requests wait from now on.
    pub fn hold(&self) {
        self.lock().holding = true;
    }

    /// How many requests wait.
    pub fn held(&self) -> usize {
        self.lock().held.len()
    }

    /// One waiting request that begins at byte `offset` goes on; if there is none, the next one
    /// that comes will.
    pub fn release_at(&self, offset: u64) {
        self.lock().let_go.push(offset);
        self.changed.notify_all();
    }

    /// All waiting requests go on, and nothing waits any more.
    pub fn release(&self) {
        let mut state = self.lock();
        state.holding = false;
        state.let_go.clear();
        self.changed.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn meet(&self, operation: Operation, offset: u64, len: u64) -> io::Result<()> {
        let delay = {
            let mut state = self.wait_while_held(offset);
            state.latency
                + state
                    .stagger
                    .as_mut()
                    .map_or(Duration::ZERO, Stagger::next_delay)
        };
        if !delay.is_zero() {
            thread::sleep(delay);
        }
        match self.effect(operation, offset, len) {
            None => Ok(()),
            Some(Effect::Error(number)) => Err(io::Error::from_raw_os_error(number)),
            Some(Effect::Panic) => panic!("a fault that was asked for at byte {offset}"),
        }
    }

    fn wait_while_held(&self, offset: u64) -> MutexGuard<'_, State> {
        let mut state = self.lock();
        if !state.holding {
            return state;
        }
        state.held.push(offset);
        while state.holding {
            if let Some(at) = state.let_go.iter().position(|&let_go| let_go == offset) {
                state.let_go.swap_remove(at);
                break;
            }
            state = self
                .changed
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
        if let Some(at) = state.held.iter().position(|&held| held == offset) {
            state.held.swap_remove(at);
        }
        state
    }

    fn effect(&self, operation: Operation, offset: u64, len: u64) -> Option<Effect> {
        let touches = |range: &Range<u64>| {
            operation == Operation::Flush || (offset < range.end && offset + len > range.start)
        };
        let state = self.lock();
        let mut rules = state.rules.iter();
        rules
            .find(|rule| rule.0 == operation && touches(&rule.1))
            .map(|rule| rule.2)
    }
}

impl Stagger {
    fn next_delay(&mut self) -> Duration {
        let position = self.next % self.group;
        self.next = (position + 1) % self.group;
        self.step * (self.group - position)
    }
}

/// A backend with faults.
pub struct FaultBackend {
    inner: Arc<dyn Backend>,
    faults: Arc<Faults>,
}

impl FaultBackend {
    /// `inner`, with what `faults` does to it.
    pub fn new(inner: Arc<dyn Backend>, faults: Arc<Faults>) -> Self {
        FaultBackend { inner, faults }
    }
}

impl Backend for FaultBackend {
    fn capacity(&self) -> u64 {
        self.inner.capacity()
    }

    fn refresh(&self) -> io::Result<u64> {
        self.inner.refresh()
    }

    fn block_size(&self) -> u32 {
        self.inner.block_size()
    }

    fn read_only(&self) -> bool {
        self.inner.read_only()
    }

    fn read(&self, offset: u64, buffers: &GuestBuffers) -> io::Result<()> {
        self.faults.meet(Operation::Read, offset, buffers.len())?;
        self.inner.read(offset, buffers)
    }

    fn write(&self, offset: u64, buffers: &GuestBuffers) -> io::Result<()> {
        self.faults.meet(Operation::Write, offset, buffers.len())?;
        self.inner.write(offset, buffers)
    }

    fn discard(&self, offset: u64, len: u64) -> io::Result<()> {
        self.faults.meet(Operation::Discard, offset, len)?;
        self.inner.discard(offset, len)
    }

    fn write_zeroes(&self, offset: u64, len: u64, unmap: bool) -> io::Result<()> {
        self.faults.meet(Operation::Write, offset, len)?;
        self.inner.write_zeroes(offset, len, unmap)
    }

    fn flush(&self) -> io::Result<()> {
        self.faults.meet(Operation::Flush, 0, 0)?;
        self.inner.flush()
    }
}
