//! Block I/O without a bus: what a [`request`] is, who carries it out ([`backend`]), and who calls
//! whom on which thread ([`engine`]). Nothing here knows virtio.
//!
//! A request is data until an engine pulls it from its [`source::RequestSource`]; then it is in
//! flight ([`source::InFlight`]) until it is finished, exactly once. Between the two, [`inject`] can
//! make a disk slow or faulty on purpose.

pub mod backend;
pub mod buffers;
pub mod engine;
pub mod gate;
pub mod inject;
pub mod request;
mod retries;
pub mod source;
