//! The request queue: the one owner of the ring. Who pops, who writes used entries and who decides
//! about an interrupt is here, for every thread of the device.
//!
//! The queue's thread and the workers pull through [`RequestSource`]. The lock is held to pop and
//! parse one head, and to publish one; not while a request is carried out. What can be answered
//! without the disk is answered on the spot.
//!
//! A completion is visible to the driver at once. The interrupt for it is decided on at once too,
//! unless the queue's thread is in the middle of a *turn*: then at the end of the turn, for all of
//! them together.
//!
//! Whoever holds something of the ring (a head, a request) is inside the [`Gate`]. To stop is to
//! close the gate; once it is empty too, no thread touches the ring or the guest memory of any
//! request, and the ring can go.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use iolite_devices_abi::status::{F_EVENT_IDX, F_INDIRECT_DESC};
use vm_memory::GuestMemoryMmap;
use vmm_sys_util::eventfd::EventFd;

use super::chain::{self, Buffer, ChainError, DescriptorTable};
use super::completion::{Answer, Pending};
use super::counters::Live;
use super::disk::Disk;
use super::request::{self, Parsed, Transfer};
use super::ring::{Popped, Ring, RingError};
use crate::block::gate::Gate;
use crate::block::request::{Completion, Kind, Request};
use crate::block::source::{Pulled, RequestSource};
use crate::throttle::Throttle;
use crate::trace::{self, Point};
use crate::virtio::device::QueueLayout;
use crate::virtio::notifier::Notifier;

/// The request queue of a block device, live or not.
pub struct RequestQueue {
    /// For log lines: the disk's name, with a number where there are several queues.
    pub(super) label: String,
    /// Wakes the queue's thread: the ioeventfd of QueueNotify, and who else has work for it.
    pub(super) doorbell: EventFd,
    pub(super) disk: Arc<Disk>,
    memory: Arc<GuestMemoryMmap>,
    notifier: Arc<Notifier>,
    gate: Gate,
    state: Mutex<State>,
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
    last_id: u64,
    /// Where chains are followed to.
    chain: Vec<Buffer>,
    /// For log lines: the requests that no interrupt has been decided for.
    unsaid: Vec<u64>,
}

/// A live queue.
struct Active {
    ring: Ring,
    table: DescriptorTable,
    features: u64,
}

/// Why the queue is broken until the next reset.
#[derive(Debug, thiserror::Error)]
enum Broken {
    #[error("{0}")]
    Ring(#[from] RingError),
    #[error("{0}")]
    Chain(#[from] ChainError),
}

impl RequestQueue {
    /// Queue `label` of `disk`; `doorbell` wakes its thread.
    pub(super) fn new(
        label: String,
        doorbell: EventFd,
        disk: Arc<Disk>,
        memory: Arc<GuestMemoryMmap>,
        notifier: Arc<Notifier>,
    ) -> Self {
        RequestQueue {
            trace: trace::Queue::labelled(&label),
            label,
            doorbell,
            disk,
            memory,
            notifier,
            gate: Gate::closed(),
            state: Mutex::new(State {
                active: None,
                last_id: 0,
                chain: Vec::new(),
                unsaid: Vec::new(),
            }),
            in_turn: AtomicBool::new(false),
            undecided: AtomicBool::new(false),
            counters: Live::default(),
            complaints: Throttle::default(),
        }
    }

    /// The driver is set up: requests may be pulled from now on.
    pub(super) fn activate(&self, layout: &QueueLayout, features: u64) {
        let event_idx = features & F_EVENT_IDX != 0;
        let Some(ring) = Ring::new(&self.memory, layout, event_idx) else {
            // The transport has checked the layout against the same memory.
            return self.notifier.fail();
        };
        let table = ring.table(features & F_INDIRECT_DESC != 0);
        self.lock().active = Some(Active {
            ring,
            table,
            features,
        });
        self.gate.open();
    }

    /// Gives out no request any more.
    pub(super) fn stop(&self) {
        self.gate.close();
    }

    /// Whether nothing is in flight.
    pub(super) fn is_drained(&self) -> bool {
        self.gate.is_empty()
    }

    /// Stops, waits at most `wait` for what is in flight, and lets go of the ring; false if time
    /// was up.
    pub(super) fn deactivate(&self, wait: Duration) -> bool {
        self.gate.close();
        let drained = self.gate.wait_until_empty(wait);
        if drained {
            let mut state = self.lock();
            state.active = None;
            state.unsaid.clear();
        }
        drained
    }

    /// The queue's thread polls from now on: the driver is asked for no notifications.
    pub(super) fn attend(&self) {
        if let Some(active) = &mut self.lock().active {
            active.ring.attend();
        }
    }

    /// The queue's thread is about to sleep. True if there is something to pull already; otherwise
    /// the driver notifies of the next buffer.
    pub(super) fn rest(&self) -> bool {
        let mut state = self.lock();
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
        self.decide(&mut self.lock());
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next request to carry out. The caller is inside the gate, and stays there with the request
    /// if it gets one.
    #[inline]
    fn pull<'a>(&'a self, mut state: MutexGuard<'a, State>) -> Option<Pulled> {
        // The gate is asked for every head: a driver that refills the ring with requests that are
        // answered on the spot cannot hold up a reset.
        while self.gate.is_open() && !self.notifier.needs_reset() {
            match self.step(&mut state) {
                Ok(Step::Pulled(pulled)) => return Some(pulled),
                Ok(Step::Answered) => {
                    // There may be no end to these, nor to the turn.
                    self.decide(&mut state);
                    drop(state);
                    state = self.lock();
                }
                Ok(Step::Empty) => break,
                Err(broken) => self.break_down(&broken),
            }
        }
        drop(state);
        self.gate.leave();
        None
    }

    /// One head: a request to carry out, or one that is answered already, or none.
    #[inline]
    fn step(&self, state: &mut State) -> Result<Step, Broken> {
        let Some(active) = &mut state.active else {
            return Ok(Step::Empty);
        };
        let Some(Popped { head, more }) = active.ring.pop()? else {
            return Ok(Step::Empty);
        };
        self.trace.event(Point::Popped, head, 0, 0);
        let in_flight = active.ring.in_flight();
        self.counters.max_in_flight.at_least(in_flight.into());
        state.last_id += 1;
        let id = state.last_id;
        chain::walk(&self.memory, &active.table, head, &mut state.chain)?;
        let limits = self.disk.limits(active.features);
        match request::parse(&self.memory, &state.chain, limits) {
            Parsed::Transfer(transfer) => {
                let request = self.begin(&mut active.ring, id, head, transfer);
                Ok(Step::Pulled(Pulled { request, more }))
            }
            other => {
                let answer = self.answer_now(id, other);
                self.publish(state, id, head, answer);
                Ok(Step::Answered)
            }
        }
    }

    /// A transfer becomes a request in flight.
    #[inline]
    fn begin(&self, ring: &mut Ring, id: u64, head: u16, transfer: Transfer) -> Request {
        let Transfer {
            kind,
            offset,
            buffers,
            ranges,
            status,
        } = transfer;
        let what = buffers.len() | u64::from(operation(kind)) << 56;
        self.trace.event(Point::Parsed, head, offset, what);
        let name = &self.label;
        log::debug!("{name} #{id} popped: head {head}, {kind:?} at {offset}, {buffers:?}");
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

    /// Takes the answer to a request. False, and a complaint, if that is not in flight.
    #[inline]
    fn finish(&self, state: &mut State, completion: Completion) -> bool {
        let Completion { id, tag, outcome } = completion;
        let active = state.active.as_ref();
        let Some(pending) = active.and_then(|active| active.ring.pending(tag)) else {
            let name = &self.label;
            log::error!("{name} #{id} completed twice (please report this bug)");
            return false;
        };
        self.counters.count_outcome(pending, outcome);
        self.publish(state, id, tag, pending.answer(outcome));
        true
    }

    /// Gives a head back to the driver, and notifies it if it wants that.
    #[inline]
    fn publish(&self, state: &mut State, id: u64, head: u16, answer: Answer) {
        // A broken queue is stopped: the driver gets nothing back until it has reset the device.
        let Some(active) = &mut state.active else {
            return;
        };
        if self.notifier.needs_reset() {
            return;
        }
        let status = answer.code().unwrap_or(u8::MAX);
        self.trace.event(Point::Used, head, status.into(), 0);
        answer.write_status(&self.memory);
        active.ring.publish(head, answer.len());
        if log::log_enabled!(log::Level::Debug) {
            let (len, code) = (answer.len(), answer.code());
            log::debug!("{} #{id} used: len {len}, status {code:?}", self.label);
            state.unsaid.push(id);
        }
        if self.in_turn.load(Ordering::Relaxed) {
            self.undecided.store(true, Ordering::Relaxed);
        } else {
            self.decide(state);
        }
    }

    /// Sends an interrupt if the driver wants one for what was published since the last decision.
    /// The lock is held until it is sent, so that none comes after a reset.
    fn decide(&self, state: &mut State) {
        self.undecided.store(false, Ordering::Relaxed);
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
            self.notifier.used_buffer();
        }
        self.counters.interrupts_sent.add(sent.into());
        let suppressed = published.saturating_sub(sent.into());
        self.counters.interrupts_suppressed.add(suppressed);
        for id in state.unsaid.drain(..) {
            let what = if sent { "sent" } else { "suppressed" };
            log::debug!("{} #{id} interrupt {what}", self.label);
        }
    }

    /// Stops the queue until the next reset.
    fn break_down(&self, why: &Broken) {
        self.gate.close();
        self.complain(format_args!("{why}: the device needs a reset"));
        self.notifier.fail();
    }

    pub(super) fn complain(&self, what: std::fmt::Arguments<'_>) {
        self.complaints.warn(format_args!("{}: {what}", self.label));
    }
}

enum Step {
    Empty,
    Answered,
    Pulled(Pulled),
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

impl RequestSource for RequestQueue {
    fn next(&self) -> Option<Pulled> {
        let mut state = self.lock();
        // Who polls mostly finds nothing: that is not worth a way through the gate. Under the lock the
        // ring is there, or is gone.
        let active = state.active.as_mut();
        if active.is_none_or(|active| active.ring.is_quiet()) {
            return None;
        }
        self.gate.enter().then(|| self.pull(state))?
    }

    fn complete(&self, completion: Completion) {
        let mut state = self.lock();
        let was_in_flight = self.finish(&mut state, completion);
        drop(state);
        if was_in_flight {
            self.gate.leave();
        }
    }

    fn exchange(&self, completion: Completion) -> Option<Pulled> {
        let mut state = self.lock();
        // The next request takes the place of this one inside the gate.
        self.finish(&mut state, completion)
            .then(|| self.pull(state))?
    }
}
