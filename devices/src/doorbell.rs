//! What a queue's thread sleeps on: its own bell, which the device's other threads ring, and the
//! driver's available buffer notifications.
//!
//! Under KVM a notification rings the bell itself (the ioeventfd of QueueNotify). A vhost-user
//! front-end brings an eventfd of its own for each queue; it is [watched](Doorbell::watch) beside the
//! bell. Both are looked at by one edge-triggered epoll: each write wakes the sleeper once, and nobody
//! has to read the eventfds, so a front-end that shares one cannot make this side block on it.

use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;

use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

/// The bell of one queue; clones are the same bell.
#[derive(Clone)]
pub struct Doorbell(Arc<Inner>);

struct Inner {
    bell: EventFd,
    epoll: Epoll,
}

impl Doorbell {
    /// A bell that nobody has rung.
    ///
    /// # Errors
    /// If the system has no descriptor left.
    pub fn new() -> io::Result<Self> {
        let inner = Inner {
            bell: EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC)?,
            epoll: Epoll::new()?,
        };
        let doorbell = Doorbell(Arc::new(inner));
        doorbell.watch(&doorbell.0.bell)?;
        Ok(doorbell)
    }

    /// Rings.
    pub fn ring(&self) {
        // It cannot fail but for a full counter: then somebody has rung 2^64 times.
        let _ = self.0.bell.write(1);
    }

    /// The bell itself, each write to which rings.
    pub fn eventfd(&self) -> &EventFd {
        &self.0.bell
    }

    /// Sleeps until somebody has rung since the last time. May return early.
    pub fn wait(&self) {
        // An error (a signal) is a wake-up for nothing.
        let _ = self.look(-1);
    }

    /// As [`wait`](Doorbell::wait), for a number of milliseconds.
    pub fn wait_at_most(&self, ms: u16) {
        let _ = self.look(ms.into());
    }

    /// Whether somebody has rung since the last time; does not sleep.
    pub fn has_rung(&self) -> bool {
        matches!(self.look(0), Ok(1..))
    }

    fn look(&self, timeout_ms: i32) -> io::Result<usize> {
        let mut events = [EpollEvent::default(); 2];
        self.0.epoll.wait(timeout_ms, &mut events)
    }

    /// From now on a write to `eventfd` rings too.
    ///
    /// # Errors
    /// If it is no descriptor that can be waited for, or is watched already.
    pub fn watch(&self, eventfd: &impl AsRawFd) -> io::Result<()> {
        let events = EpollEvent::new(EventSet::IN | EventSet::EDGE_TRIGGERED, 0);
        self.control(ControlOperation::Add, eventfd, events)
    }

    /// Ends [`watch`](Doorbell::watch).
    pub fn unwatch(&self, eventfd: &impl AsRawFd) {
        // It only fails for what is not watched.
        let _ = self.control(ControlOperation::Delete, eventfd, EpollEvent::default());
    }

    fn control(
        &self,
        operation: ControlOperation,
        eventfd: &impl AsRawFd,
        events: EpollEvent,
    ) -> io::Result<()> {
        self.0.epoll.ctl(operation, eventfd.as_raw_fd(), events)
    }
}

/// A descriptor that is readable when somebody has rung, for who waits by other means.
impl AsRawFd for Doorbell {
    fn as_raw_fd(&self) -> RawFd {
        self.0.epoll.as_raw_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn each_ring_is_heard_once() {
        let doorbell = Doorbell::new().unwrap();
        assert!(!doorbell.has_rung());
        doorbell.ring();
        doorbell.clone().ring();
        assert!(doorbell.has_rung());
        assert!(!doorbell.has_rung(), "two rings are one wake-up");
        doorbell.ring();
        assert!(
            doorbell.has_rung(),
            "nobody has read the eventfd, and it rings again"
        );
    }

    #[test]
    fn a_sleeper_hears_the_bell_and_what_is_watched() {
        let doorbell = Doorbell::new().unwrap();
        let kick = EventFd::new(EFD_NONBLOCK).unwrap();
        doorbell.watch(&kick).unwrap();
        let rings: [&dyn Fn(); 2] = [&|| doorbell.ring(), &|| kick.write(1).unwrap()];
        for ring in rings {
            std::thread::scope(|scope| {
                let sleeper = scope.spawn(|| doorbell.wait());
                std::thread::sleep(Duration::from_millis(5));
                ring();
                sleeper.join().unwrap();
            });
        }
        doorbell.unwatch(&kick);
        kick.write(1).unwrap();
        assert!(!doorbell.has_rung());
    }

    #[test]
    fn what_cannot_be_waited_for_is_refused() {
        let file = tempfile::tempfile().unwrap();
        assert!(Doorbell::new().unwrap().watch(&file).is_err());
    }
}
