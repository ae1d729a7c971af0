//! The way back to a guest: for each queue an eventfd for used buffers (call) and one for a queue that
//! is broken (err), both of the front-end's; and for the device as a whole, changes of its
//! configuration, which the session's thread passes on.

use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};

use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use super::eventfd::SharedEventFd;
use crate::interrupt::Interrupt;

/// A queue's line.
#[derive(Default)]
pub(super) struct Line(Mutex<Ends>);

#[derive(Default)]
struct Ends {
    call: Option<SharedEventFd>,
    err: Option<SharedEventFd>,
}

impl Line {
    /// What is signalled for used buffers from now on; none: the driver polls.
    pub(super) fn set_call(&self, call: Option<SharedEventFd>) {
        self.lock().call = call;
    }

    /// What is signalled when the queue is broken.
    pub(super) fn set_err(&self, err: Option<SharedEventFd>) {
        self.lock().err = err;
    }

    /// Lets go of both.
    pub(super) fn cut(&self) {
        *self.lock() = Ends::default();
    }

    fn lock(&self) -> MutexGuard<'_, Ends> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Interrupt for Line {
    fn trigger(&self) -> io::Result<()> {
        self.lock()
            .call
            .as_ref()
            .map_or(Ok(()), SharedEventFd::signal)
    }

    fn broken(&self) -> io::Result<()> {
        self.lock()
            .err
            .as_ref()
            .map_or(Ok(()), SharedEventFd::signal)
    }
}

/// Changes of the configuration, for the session's thread.
pub(super) struct Changes(EventFd);

impl Changes {
    pub(super) fn new() -> io::Result<Self> {
        EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC).map(Changes)
    }

    /// Readable when there is a change that has not been taken.
    pub(super) fn event(&self) -> &EventFd {
        &self.0
    }

    /// Whether there was one since the last time.
    pub(super) fn take(&self) -> bool {
        self.0.read().is_ok()
    }
}

impl Interrupt for Changes {
    fn trigger(&self) -> io::Result<()> {
        self.0.write(1)
    }
}
