//! Messages between processes. A server and its client share a `channel`: memory that both map, and
//! an event each way. They meet at a `port`. `events` is how a thread waits for many of them, and
//! for the interrupts of devices, at once.
//!
//! Kept small on purpose: what is said in a channel's memory is between the two processes
//! (guest/core's `block_channel` for a block server). The kernel only knows who is still there.

pub mod channel;
pub mod events;
pub mod port;
