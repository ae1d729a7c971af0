//! From a head in the available ring to a request in flight.

use super::{RequestQueue, State};
use crate::block::request::{Kind, Request};
use crate::block::source::{Pulled, Step};
use crate::lines::{Guard, Lines, debug_later};
use crate::trace::{self, Point};
use crate::virtio::blk::chain::{self, ChainError};
use crate::virtio::blk::completion::Pending;
use crate::virtio::blk::request::{self, Parsed, Transfer};
use crate::virtio::blk::ring::{Popped, Ring, RingError};

/// Why the queue is broken until the next reset.
#[derive(Debug, thiserror::Error)]
enum Broken {
    #[error("{0}")]
    Ring(#[from] RingError),
    #[error("{0}")]
    Chain(#[from] ChainError),
}

impl RequestQueue {
    /// The next request to carry out. The caller is inside the gate, and stays there with the request
    /// if it gets one. `now` is the time, if it is known.
    #[inline]
    pub(super) fn pull<'a>(
        &'a self,
        mut state: Guard<'a, State>,
        mut now: Option<u64>,
    ) -> Option<Pulled> {
        // The gate is asked for every head: a driver that refills the ring with requests that are
        // answered on the spot cannot hold up a reset.
        while self.gate.is_open() && !self.notifier.needs_reset() {
            match self.pull_head(&mut state, now.take()) {
                Step::Pulled(pulled) => return Some(pulled),
                Step::Answered => {
                    let lines = state.release();
                    if !lines.is_empty() {
                        self.gate.leave();
                        drop(lines);
                        if !self.gate.enter() {
                            return None;
                        }
                    }
                    state = self.state.lock();
                }
                Step::Empty => break,
            }
        }
        let lines = state.release();
        self.gate.leave();
        drop(lines);
        None
    }

    /// The same for one head, and with `lines` for the caller to write.
    pub(super) fn pull_one(&self, mut state: Guard<'_, State>, lines: &mut Lines) -> Step {
        let step = match self.gate.is_open() && !self.notifier.needs_reset() {
            true => self.pull_head(&mut state, None),
            false => Step::Empty,
        };
        *lines = state.release();
        if !matches!(step, Step::Pulled(_)) {
            self.gate.leave();
        }
        step
    }

    /// One head: a request to carry out, or one that is answered already, or none.
    #[inline]
    fn pull_head(&self, state: &mut Guard<'_, State>, now: Option<u64>) -> Step {
        match self.take_head(state, now) {
            Ok(Step::Answered) => {
                // There may be no end to these, nor to the turn.
                self.decide(state);
                Step::Answered
            }
            Ok(step) => step,
            Err(broken) => {
                self.break_down(&broken, &mut state.lines);
                Step::Empty
            }
        }
    }

    #[inline]
    fn take_head(&self, state: &mut Guard<'_, State>, now: Option<u64>) -> Result<Step, Broken> {
        let (held, lines) = state.split();
        let Some(active) = &mut held.active else {
            return Ok(Step::Empty);
        };
        let Some(Popped { head, waited, more }) = active.ring.pop()? else {
            return Ok(Step::Empty);
        };
        // One that did not wait may have come after the time that is known.
        let popped = now.filter(|_| waited).or_else(trace::now_if_on);
        let in_flight = active.ring.in_flight();
        self.counters.max_in_flight.at_least(in_flight.into());
        held.last_id += 1;
        let id = held.last_id;
        chain::walk(&active.ram, &active.table, head, &mut held.chain)?;
        let limits = self.disk.limits(active.features);
        match request::parse(&active.ram, &held.chain, limits) {
            Parsed::Transfer(transfer) => {
                self.trace_parsed(popped, head, &transfer);
                let request = self.begin(&mut active.ring, id, head, transfer, lines);
                Ok(Step::Pulled(Pulled { request, more }))
            }
            other => {
                if let Some(popped) = popped {
                    self.trace.event_at(popped, Point::Popped, head, 0, 0);
                }
                let answer = self.answer_now(id, other, lines);
                self.publish(state, id, head, answer, trace::now_if_on());
                Ok(Step::Answered)
            }
        }
    }

    /// Somebody watches if there is a time at which the head was popped.
    #[inline]
    fn trace_parsed(&self, popped: Option<u64>, head: u16, transfer: &Transfer) {
        if let Some(popped) = popped {
            let Transfer { offset, kind, .. } = *transfer;
            let what = transfer.buffers.len() | u64::from(operation(kind)) << 56;
            let times = [popped, trace::now()];
            self.trace.pair(times, Point::Parsed, head, offset, what);
        }
    }

    /// A transfer becomes a request in flight.
    #[inline]
    fn begin(
        &self,
        ring: &mut Ring,
        id: u64,
        head: u16,
        transfer: Transfer,
        lines: &mut Lines,
    ) -> Request {
        let Transfer {
            kind,
            offset,
            buffers,
            ranges,
            status,
        } = transfer;
        let name = &self.label;
        debug_later!(
            lines,
            "{name} #{id} popped: head {head}, {kind:?} at {offset}, {buffers:?}"
        );
        self.counters.count_popped(kind);
        ring.start(
            head,
            Pending {
                status,
                kind,
                bytes: buffers.len(),
            },
        );
        Request {
            id,
            tag: head,
            kind,
            offset,
            buffers,
            ranges,
        }
    }

    /// Stops the queue until the next reset.
    fn break_down(&self, why: &Broken, lines: &mut Lines) {
        self.gate.close();
        self.complain(lines, format_args!("{why}: the device needs a reset"));
        self.notifier.fail(lines);
    }
}

/// What a request of this kind is called in events.
fn operation(kind: Kind) -> u8 {
    match kind {
        Kind::Read => trace::operation::READ,
        Kind::Write { .. } => trace::operation::WRITE,
        Kind::Flush => trace::operation::FLUSH,
        Kind::Discard | Kind::WriteZeroes { .. } => trace::operation::DISCARD,
    }
}
