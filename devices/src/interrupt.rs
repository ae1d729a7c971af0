//! How a device gets the guest's attention. Devices do not know what is behind it: an irqfd of
//! KVM, or a counter in a test.

use std::io;

use vmm_sys_util::eventfd::EventFd;

/// An interrupt line, edge-triggered: each [`trigger`](Interrupt::trigger) is one edge.
pub trait Interrupt: Send + Sync {
    /// Raises the interrupt. Called from any thread; must not block.
    ///
    /// # Errors
    /// Whatever the system says; the edge is lost then.
    fn trigger(&self) -> io::Result<()>;

    /// The device needs a reset: an edge as any other, where there is no better way to say so.
    ///
    /// # Errors
    /// As [`trigger`](Interrupt::trigger).
    fn broken(&self) -> io::Result<()> {
        self.trigger()
    }
}

/// An eventfd, registered as an irqfd by the VMM.
impl Interrupt for EventFd {
    fn trigger(&self) -> io::Result<()> {
        self.write(1)
    }
}
