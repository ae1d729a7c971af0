//! Where requests come from and completions go: the contract between a queue and an engine.
//!
//! Engines *pull*. The queue behind a source is the only backlog there is: what has been pulled is
//! being carried out, what has not been pulled is still the driver's. That makes back-pressure
//! free and a drain exact.

use super::request::{Completion, Outcome, Request};

/// A request and a hint.
pub struct Pulled {
    /// What to do next.
    pub request: Request,
    /// There is another one to pull: wake somebody who has nothing to do.
    pub more: bool,
}

/// A queue of requests, as engines see it.
pub trait RequestSource: Send + Sync {
    /// The next request, or none: then the source has arranged to have the engine notified about
    /// the next one. Any thread may call, at any time.
    fn next(&self) -> Option<Pulled>;
    /// Takes the answer to a request that [`next`](RequestSource::next) gave out. Exactly one for
    /// each, in any order, from any thread.
    fn complete(&self, completion: Completion);
}

/// A request in flight. It ends by [`finish`](InFlight::finish); one that is dropped without it is
/// a bug, which shows itself in the log, and in the guest as an I/O error.
pub struct InFlight<'a> {
    source: &'a dyn RequestSource,
    request: Request,
    finished: bool,
}

impl<'a> InFlight<'a> {
    /// Pulls a request, if there is one. The boolean is [`Pulled::more`].
    pub fn pull(source: &'a dyn RequestSource) -> Option<(Self, bool)> {
        let Pulled { request, more } = source.next()?;
        Some((
            InFlight {
                source,
                request,
                finished: false,
            },
            more,
        ))
    }

    /// What is asked for.
    pub fn request(&self) -> &Request {
        &self.request
    }

    /// Ends the request.
    pub fn finish(mut self, outcome: Outcome) {
        self.complete(outcome);
    }

    fn complete(&mut self, outcome: Outcome) {
        self.finished = true;
        let Request { id, tag, .. } = self.request;
        self.source.complete(Completion { id, tag, outcome });
    }
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        if !self.finished {
            log::error!(
                "request {} was dropped unfinished: it fails (please report this bug)",
                self.request.id
            );
            self.complete(Outcome::Failed);
        }
    }
}
