//! Where requests come from and completions go: the contract between a queue and an engine.
//!
//! Engines *pull*. The queue behind a source is the only backlog there is: what has been pulled is
//! being carried out, what has not been pulled is still the driver's. That makes back-pressure
//! free and a drain exact.

use super::request::{Completion, Outcome, Request};
use crate::lines::Lines;

/// A request and a hint.
pub struct Pulled {
    /// What to do next.
    pub request: Request,
    /// There is another one to pull: wake somebody who has nothing to do.
    pub more: bool,
}

/// A queue of requests, as engines see it.
pub trait RequestSource: Send + Sync {
    /// The next request, or none: then the source has arranged to have the queue's thread woken for
    /// the next one, unless that thread polls anyway. Any thread may call, at any time.
    fn next(&self) -> Option<Pulled>;

    /// Takes the answer to a request that [`next`](RequestSource::next) gave out. Exactly one for
    /// each, in any order, from any thread.
    fn complete(&self, completion: Completion);

    /// [`complete`](RequestSource::complete), then [`next`](RequestSource::next). A source may do
    /// both in one go.
    fn exchange(&self, completion: Completion) -> Option<Pulled> {
        self.complete(completion);
        self.next()
    }
}

/// What became of the head of a queue.
pub enum Step {
    /// There was none.
    Empty,
    /// It needed no engine.
    Answered,
    /// A request is pulled.
    Pulled(Pulled),
}

/// A source for those who hold a lock while they pull.
pub trait StepSource: RequestSource {
    /// Pulls like [`next`](RequestSource::next), but looks at one head only, and leaves what there
    /// is to say to the caller: once he has let go of his lock.
    fn step(&self, lines: &mut Lines) -> Step;
}

/// A request in flight. It ends by [`finish`](InFlight::finish); one that is dropped without it is
/// a bug, which shows itself in the log, and in the guest as an I/O error.
pub struct InFlight<'a> {
    request: Request,
    answer: AnswerDue<'a>,
}

impl<'a> InFlight<'a> {
    /// Pulls a request, if there is one. The boolean is [`Pulled::more`].
    #[inline]
    pub fn pull(source: &'a dyn RequestSource) -> Option<(Self, bool)> {
        let Pulled { request, more } = source.next()?;
        Some((Self::resume(source, request), more))
    }

    /// Takes over a request that another thread has [handed over](InFlight::hand_over).
    #[inline]
    pub fn resume(source: &'a dyn RequestSource, request: Request) -> Self {
        let answer = AnswerDue {
            source,
            id: request.id,
            tag: request.tag,
            given: false,
        };
        InFlight { request, answer }
    }

    /// Leaves the request to another thread, which is to [`resume`](InFlight::resume) it.
    pub fn hand_over(self) -> Request {
        let InFlight {
            request,
            mut answer,
        } = self;
        answer.given = true;
        request
    }

    /// What is asked for.
    pub fn request(&self) -> &Request {
        &self.request
    }

    /// Ends the request.
    #[inline]
    pub fn finish(self, outcome: Outcome) {
        let InFlight {
            request,
            mut answer,
        } = self;
        drop(request);
        answer.give(outcome);
    }

    /// Ends the request, and pulls the next one, if there is one.
    #[inline]
    pub fn finish_and_pull(self, outcome: Outcome) -> Option<Self> {
        let InFlight {
            request,
            mut answer,
        } = self;
        drop(request);
        let (source, completion) = (answer.source, answer.completion(outcome));
        let Pulled { request, .. } = source.exchange(completion)?;
        Some(Self::resume(source, request))
    }
}

/// That a request is to be answered.
struct AnswerDue<'a> {
    source: &'a dyn RequestSource,
    id: u64,
    tag: u16,
    given: bool,
}

impl AnswerDue<'_> {
    fn give(&mut self, outcome: Outcome) {
        let completion = self.completion(outcome);
        self.source.complete(completion);
    }

    fn completion(&mut self, outcome: Outcome) -> Completion {
        self.given = true;
        let (id, tag) = (self.id, self.tag);
        Completion { id, tag, outcome }
    }
}

impl Drop for AnswerDue<'_> {
    fn drop(&mut self) {
        if !self.given {
            self.give(Outcome::Failed);
            let id = self.id;
            log::error!("request {id} was dropped unfinished: it fails (please report this bug)");
        }
    }
}
