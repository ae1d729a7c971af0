//! From a completion to the used ring, and to an interrupt.

use std::sync::atomic::Ordering;

use log::Level;

use super::{Active, RequestQueue, State};
use crate::block::request::Completion;
use crate::lines::{Guard, debug_later};
use crate::trace::Point;
use crate::virtio::blk::completion::Answer;

impl RequestQueue {
    /// Takes the answer to a request; it is `now` if somebody watches. False, and a complaint, if the
    /// request is not in flight.
    #[inline]
    pub(super) fn finish(
        &self,
        state: &mut Guard<'_, State>,
        completion: Completion,
        now: Option<u64>,
    ) -> bool {
        let Completion { id, tag, outcome } = completion;
        let active = state.active.as_ref();
        let Some(pending) = active.and_then(|active| active.ring.pending(tag)) else {
            let what = format_args!(
                "{} #{id} completed twice (please report this bug)",
                self.label
            );
            state.lines.add(Level::Error, module_path!(), what);
            return false;
        };
        self.counters.count_outcome(pending, outcome);
        self.publish(state, id, tag, pending.answer(outcome), now);
        true
    }

    /// Gives a head back to the driver, and notifies it if it wants that. It is `now` if somebody
    /// watches.
    #[inline]
    pub(super) fn publish(
        &self,
        state: &mut Guard<'_, State>,
        id: u64,
        head: u16,
        answer: Answer,
        now: Option<u64>,
    ) {
        // A broken queue is stopped: the driver gets nothing back until it has reset the device.
        let (held, lines) = state.split();
        let Some(active) = &mut held.active else {
            return;
        };
        if self.notifier.needs_reset() {
            return;
        }
        let status = answer.code().unwrap_or(u8::MAX);
        if let Some(now) = now {
            self.trace
                .event_at(now, Point::Used, head, status.into(), 0);
        }
        answer.write_status(&active.ram);
        active.ring.publish(head, answer.len());
        if log::log_enabled!(log::Level::Debug) {
            let (len, code) = (answer.len(), answer.code());
            debug_later!(
                lines,
                "{} #{id} used: len {len}, status {code:?}",
                self.label
            );
            held.unsaid.push(id);
        }
        if self.in_turn.load(Ordering::Relaxed) {
            self.undecided.store(true, Ordering::Relaxed);
        } else {
            self.decide(state);
        }
    }

    /// Sends an interrupt if the driver wants one for what was published since the last decision.
    /// The lock is held until it is sent, so that none comes after a reset.
    pub(super) fn decide(&self, state: &mut Guard<'_, State>) {
        self.undecided.store(false, Ordering::Relaxed);
        let (state, lines) = state.split();
        let Some(Active { ring, .. }) = &mut state.active else {
            return;
        };
        let published = u64::from(ring.undecided());
        let sent = ring.wants_interrupt();
        if published > 0 {
            let decided = if sent {
                Point::Interrupted
            } else {
                Point::Suppressed
            };
            self.trace.event(decided, 0, 0, 0);
        }
        if sent {
            self.notifier.used_buffer(lines);
        }
        self.counters.interrupts_sent.add(sent.into());
        let suppressed = published.saturating_sub(sent.into());
        self.counters.interrupts_suppressed.add(suppressed);
        for id in state.unsaid.drain(..) {
            let what = if sent { "sent" } else { "suppressed" };
            debug_later!(lines, "{} #{id} interrupt {what}", self.label);
        }
    }
}
