//! Ends the requests that are to fail before an engine sees them: nothing of them is carried out. Whoever
//! watches sees a backend that has ended as soon as it began.

use std::sync::Arc;

use super::failure::{Armed, Failure};
use crate::block::request::{Completion, Outcome, Request};
use crate::block::source::{Pulled, RequestSource};
use crate::trace::{Point, Queue};

/// The requests of a source without those that fail.
pub(super) struct Failing {
    /// The disk's, for log lines.
    name: String,
    trace: Queue,
    source: Arc<dyn RequestSource>,
    failures: Arc<[Armed]>,
    seed: u64,
}

impl Failing {
    pub(super) fn new(
        name: &str,
        source: Arc<dyn RequestSource>,
        failures: Arc<[Armed]>,
        seed: u64,
    ) -> Self {
        Failing {
            name: name.to_owned(),
            trace: Queue::labelled(name),
            source,
            failures,
            seed,
        }
    }

    /// What `request` fails by, if it does. All are asked, so that each counts all of its requests.
    fn failure_of(&self, request: &Request) -> Option<&Failure> {
        self.failures.iter().fold(None, |found, armed| {
            let strikes = armed.strikes(self.seed, request);
            found.or(strikes.then_some(&armed.failure))
        })
    }
}

impl RequestSource for Failing {
    fn next(&self) -> Option<Pulled> {
        loop {
            // Whoever ends the source ends this loop: a closed source has no next.
            let pulled = self.source.next()?;
            let Some(failure) = self.failure_of(&pulled.request) else {
                return Some(pulled);
            };
            let Request { id, tag, .. } = pulled.request;
            if let Some(now) = self.trace.time_after(Point::Parsed, tag) {
                self.trace.pair([now, now], Point::Ended, tag, 0, 0);
            }
            log::debug!("{} #{id} fails on purpose: {failure}", self.name);
            self.source.complete(Completion {
                id,
                tag,
                outcome: Outcome::Failed,
            });
        }
    }

    fn complete(&self, completion: Completion) {
        self.source.complete(completion);
    }
}
