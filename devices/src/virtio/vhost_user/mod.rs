//! A disk for a virtual machine of another process: vhost-user, its transport over a UNIX socket.
//!
//! ```text
//! front-end (QEMU ...) --- socket: messages, memory, eventfds ---> channel -> message -> front_end
//!        guest's ring  --- kick eventfd ---> doorbell -> queue's thread -> ... -> used ring
//!        guest         <-- call eventfd ---- line <--------------------------------'
//! ```
//!
//! It stands beside [`mmio`](super::mmio): the same [`VirtioDevice`] is behind either, with the same
//! queues, engines and back ends. [`channel`](self) carries messages, `message` turns bytes into
//! requests and knows nothing else, `front_end` holds what a front-end has said so far and has the
//! device do it, `vring` is one queue of it, `memory` the guest's memory, `line` the way back.
//!
//! The front-end is not trusted: whatever it sends ends in an answer, in an error that is answered, or
//! in the end of its connection, with one line that says why. It is QEMU's specification that is
//! followed (docs/interop/vhost-user), with split virtqueues alone; sections are named where they
//! matter. The rust-vmm crate `vhost` is not used: it cannot tell a front-end of a change of the
//! configuration, so a disk could not grow, and `vhost-user-backend` brings queues of its own.
//!
//! [`VirtioDevice`]: super::device::VirtioDevice

mod channel;
mod eventfd;
mod front_end;
mod line;
mod memory;
mod message;
mod session;
mod vring;

pub use session::{Server, SessionError, Stopper};
