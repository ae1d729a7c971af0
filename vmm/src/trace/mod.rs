//! Tracing: one request's life, from the program that asked to the thread that served it.
//!
//! ```text
//! guest's ring (ring) --+                                              +-> summary
//!                       +-> session -> assemble -> chrome -> FILE -> read -> timeline
//! device's rings -------+      clock: one time for both                +-> html, picture
//! ```
//!
//! docs/tracing.md describes the guest's ring, for other kernels, and the file.

mod about;
#[cfg(test)]
mod adopted;
pub mod assemble;
mod chrome;
pub mod clock;
pub mod command;

#[cfg(test)]
mod hostile;
mod in_flight;
pub mod model;
mod names;
pub mod parts;
pub mod paths;
mod raw;
pub mod read;
pub mod report;
pub mod ring;
pub mod session;
pub mod summary;
#[cfg(test)]
mod tests;
pub mod timeline;

pub use clock::offset;
pub use session::Session;
