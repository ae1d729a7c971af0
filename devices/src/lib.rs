//! The devices of an iolite machine: what a guest sees on its buses, and what is behind it.
//!
//! This crate knows guest memory and an [`interrupt::Interrupt`]; it does not know KVM. Within it,
//! [`block`] (requests, engines, backends) does not know virtio, and [`virtio`] does not know
//! files. A request goes one way:
//!
//! ```text
//! bus | ioeventfd -> virtio::mmio -> virtio::blk::queue -> virtio::blk::request -> block::engine
//!     -> block::backend -> virtio::blk::completion -> used ring -> interrupt
//! ```

pub mod block;
pub mod bus;
mod bus_error;
pub mod doorbell;
pub mod exit;
#[cfg(test)]
mod first_write;
pub mod i8042;
pub mod interrupt;
pub mod lines;
pub mod power;
pub mod serial;
pub mod thread;
pub mod throttle;
mod ticks;
pub mod trace;
pub mod virtio;
