//! Who carries requests out, on which thread.
//!
//! An engine holds a [`RequestSource`] to pull from and a [`Backend`] to call. It is told when
//! there may be requests, and decides itself where to do the work: [`pool`] has workers for it.
//! An engine without threads of its own pulls in [`Engine::notify`], which runs on the queue's
//! thread.
//!
//! [`RequestSource`]: super::source::RequestSource

pub mod pool;

use std::io;

use super::backend::Backend;
use super::request::{Kind, Request};

/// Carries requests out.
pub trait Engine: Send + Sync {
    /// There may be requests in the source. Called on the queue's thread, seldom: the source
    /// keeps quiet while it is being pulled from.
    fn notify(&self);

    /// Finishes what is in flight and ends the engine's threads. Idempotent; nothing is pulled
    /// afterwards.
    fn stop(&self);
}

/// Carries one request out on the calling thread, and returns when it is done.
///
/// # Errors
/// The backend's.
pub fn execute(backend: &dyn Backend, request: &Request) -> io::Result<()> {
    let ranges = || request.ranges.iter().map(|r| (r.start, r.end - r.start));
    match request.kind {
        Kind::Read => backend.read(request.offset, &request.buffers),
        Kind::Write { durable } => {
            backend.write(request.offset, &request.buffers)?;
            flush_if(durable, backend)
        }
        Kind::Flush => backend.flush(),
        Kind::Discard => ranges().try_for_each(|(at, len)| backend.discard(at, len)),
        Kind::WriteZeroes { unmap, durable } => {
            ranges().try_for_each(|(at, len)| backend.write_zeroes(at, len, unmap))?;
            flush_if(durable, backend)
        }
    }
}

fn flush_if(durable: bool, backend: &dyn Backend) -> io::Result<()> {
    if durable { backend.flush() } else { Ok(()) }
}
