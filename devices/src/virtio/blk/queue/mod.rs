//! The request queue: the one owner of the ring. Who pops, who writes used entries and who decides
//! about an interrupt is here, for every thread of the device.
//!
//! The queue's thread and the workers pull through [`RequestSource`] (`pull`), and complete (`publish`).
//! The lock is held to pop and parse one head, and to publish one; not while a request is carried out.
//! What can be answered without the disk is answered on the spot (`answers`).
//!
//! A completion is visible to the driver at once. The interrupt for it is decided on at once too,
//! unless the queue's thread is in the middle of a *turn*: then at the end of the turn, for all of
//! them together.
//!
//! Whoever holds something of the ring (a head, a request) is inside the [`Gate`]. To stop is to
//! close the gate; once it is empty too, no thread touches the ring or the guest memory of any
//! request, and the ring can go. Who writes to the log has left: what is to be said of a request that
//! was answered on the spot, or of the ring, is written outside the lock and outside the gate.

mod answers;
mod publish;
mod pull;
#[cfg(test)]
pub(super) mod tests;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use iolite_devices_abi::status::{F_EVENT_IDX, F_INDIRECT_DESC};

use super::chain::{Buffer, DescriptorTable};
use super::counters::Live;
use super::disk::Disk;
use super::ram::Ram;
use super::ring::Ring;
use crate::block::gate::Gate;
use crate::block::request::Completion;
use crate::block::source::{Pulled, RequestSource, Step, StepSource};
use crate::doorbell::Doorbell;
use crate::lines::{Guard, Lines, Lock};
use crate::throttle::{Budget, Throttle};
use crate::trace::{self, Point};
use crate::virtio::device::QueueStart;
use crate::virtio::notifier::Notifier;

/// The request queue of a block device, live or not.
pub struct RequestQueue {
    /// For log lines: the disk's name, with a number where there are several queues.
    pub(super) label: String,
    /// Wakes the queue's thread: the ioeventfd of QueueNotify, and who else has work for it.
    pub(super) doorbell: Doorbell,
    pub(super) disk: Arc<Disk>,
    notifier: Arc<Notifier>,
    gate: Gate,
    state: Lock<State>,
    /// The queue's thread is in a turn: interrupts are decided on at its end.
    in_turn: AtomicBool,
    /// Something was published in this turn.
    undecided: AtomicBool,
    /// Written under the lock of `state`, but for those of notifications.
    pub(super) counters: Live,
    /// For events of requests.
    pub(super) trace: trace::Queue,
    /// What the guest did wrong.
    complaints: Throttle,
}

/// What the lock guards.
struct State {
    active: Option<Active>,
    /// Where the last live queue stopped.
    next_avail: u16,
    last_id: u64,
    /// Where chains are followed to.
    chain: Vec<Buffer>,
    /// For log lines: the requests that no interrupt has been decided for.
    unsaid: Vec<u64>,
}

/// A live queue.
struct Active {
    ram: Ram,
    ring: Ring,
    table: DescriptorTable,
    features: u64,
}

impl RequestQueue {
    /// Queue `label` of `disk`; `doorbell` wakes its thread.
    pub(super) fn new(
        label: String,
        doorbell: Doorbell,
        disk: Arc<Disk>,
        notifier: Arc<Notifier>,
        budget: &Budget,
    ) -> Self {
        RequestQueue {
            trace: trace::Queue::labelled(&label),
            complaints: budget.share(&disk.name),
            label,
            doorbell,
            disk,
            notifier,
            gate: Gate::closed(),
            state: Lock::new(State {
                active: None,
                next_avail: 0,
                last_id: 0,
                chain: Vec::new(),
                unsaid: Vec::new(),
            }),
            in_turn: AtomicBool::new(false),
            undecided: AtomicBool::new(false),
            counters: Live::default(),
        }
    }

    /// The driver is set up: requests may be pulled from now on.
    pub(super) fn activate(&self, start: QueueStart, features: u64, lines: &mut Lines) {
        let event_idx = features & F_EVENT_IDX != 0;
        let ram = Ram::new(Arc::clone(&start.memory));
        let Some(ring) = Ring::new(start, event_idx) else {
            // The transport has checked the layout against the same memory.
            return self.notifier.fail(lines);
        };
        let table = ring.table(features & F_INDIRECT_DESC != 0);
        let mut state = self.state.lock();
        state.active = Some(Active {
            ram,
            ring,
            table,
            features,
        });
        // Under the lock, as `rest` looks: a thread that is awake must not take a ring that holds
        // something for one that was stopped, and sleep with notifications off.
        self.gate.open();
    }

    /// Gives out no request any more.
    pub(super) fn stop(&self) {
        self.gate.close();
    }

    /// Stops, waits at most `wait` for what is in flight, and lets go of the ring; false if time
    /// was up.
    pub(super) fn deactivate(&self, wait: Duration) -> bool {
        self.gate.close();
        let drained = self.gate.wait_until_empty(wait);
        if drained {
            let mut state = self.state.lock();
            if let Some(active) = state.active.take() {
                state.next_avail = active.ring.next_avail();
            }
            state.unsaid.clear();
        }
        drained
    }

    /// Where the queue stopped when it was last let go of.
    pub(super) fn next_avail(&self) -> u16 {
        self.state.lock().next_avail
    }

    /// The queue's thread polls from now on: the driver is asked for no notifications.
    pub(super) fn attend(&self) {
        if let Some(active) = &mut self.state.lock().active {
            active.ring.attend();
        }
    }

    /// The queue's thread is about to sleep. True if there is something to pull already; otherwise
    /// the driver notifies of the next buffer.
    pub(super) fn rest(&self) -> bool {
        let mut state = self.state.lock();
        self.decide(&mut state);
        match &mut state.active {
            // Should the ring be broken, the next pop says so.
            Some(active) => {
                let ready = active.ring.rest().unwrap_or(true);
                ready && self.gate.is_open() && !self.notifier.needs_reset()
            }
            None => false,
        }
    }

    /// The queue's thread begins a turn: until its end nobody decides about interrupts.
    pub(super) fn begin_turn(&self) {
        self.in_turn.store(true, Ordering::Relaxed);
    }

    /// Decides about an interrupt for all that was completed in the turn.
    pub(super) fn end_turn(&self) {
        self.in_turn.store(false, Ordering::Relaxed);
        // What a worker publishes just now and we do not see yet is decided on after the next turn,
        // or before the sleep.
        if self.undecided.load(Ordering::Relaxed) {
            self.decide_now();
        }
    }

    /// Decides about an interrupt for all that was completed. After a turn nothing is left out: a
    /// worker that saw the turn and left the decision to its end had the lock before us.
    pub(super) fn decide_now(&self) {
        self.decide(&mut self.state.lock());
    }

    /// The lock, and the caller is inside the gate; or there is nothing to pull.
    #[inline]
    fn enter(&self) -> Option<Guard<'_, State>> {
        let mut state = self.state.lock();
        // Who polls mostly finds nothing: that is not worth a way through the gate. Under the lock the
        // ring is there, or is gone.
        let active = state.active.as_mut();
        if active.is_none_or(|active| active.ring.is_quiet()) {
            return None;
        }
        self.gate.enter().then_some(state)
    }

    fn complain(&self, lines: &mut Lines, what: fmt::Arguments<'_>) {
        let line = format_args!("{}: {what}", self.label);
        self.complaints.warn(lines, module_path!(), line);
    }
}

impl RequestSource for RequestQueue {
    fn next(&self) -> Option<Pulled> {
        self.pull(self.enter()?, None)
    }

    fn complete(&self, completion: Completion) {
        let mut state = self.state.lock();
        let was_in_flight = self.finish(&mut state, completion, trace::now_if_on());
        let lines = state.release();
        if was_in_flight {
            self.gate.leave();
        }
        drop(lines);
    }

    fn exchange(&self, completion: Completion) -> Option<Pulled> {
        let mut state = self.state.lock();
        // One time for three moments: it has ended, it is used, and one that waited is popped.
        let now = self.trace.time_after(Point::Ended, completion.tag);
        // The next request takes the place of this one inside the gate.
        self.finish(&mut state, completion, now)
            .then(|| self.pull(state, now))?
    }
}

impl StepSource for RequestQueue {
    fn step(&self, lines: &mut Lines) -> Step {
        match self.enter() {
            Some(state) => self.pull_one(state, lines),
            None => Step::Empty,
        }
    }
}
