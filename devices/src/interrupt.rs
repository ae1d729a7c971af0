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
}

/// An eventfd, registered as an irqfd by the VMM.
impl Interrupt for EventFd {
    fn trigger(&self) -> io::Result<()> {
        self.write(1)
    }
}
