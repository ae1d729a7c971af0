//! The request queue: the one owner of the ring. Who pops, who writes used entries and who decides
//! about an interrupt is here, for every thread of the device.
//!
//! Workers pull through [`RequestSource`], in parallel: the lock is held to pop a head and to
//! publish one, not while a chain is parsed or a request carried out. What can be answered without
//! the disk is answered on the spot.
//!
//! Whoever holds something of the ring (a head, a request) is inside the [`Gate`]. To stop is to
//! close the gate; once it is empty too, no thread touches the ring or the guest memory of any
//! request, and the ring can go.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use iolite_devices_abi::blk::S_OK;
use iolite_devices_abi::status::F_INDIRECT_DESC;
use virtio_queue::Queue;
use vm_memory::GuestMemoryMmap;

use super::chain::{self, ChainError, DescriptorTable};
use super::completion::{Answer, Pending};
use super::counters::Live;
use super::disk::Disk;
use super::request::{self, Parsed, Transfer};
use super::ring::{Popped, Ring, RingError};
use crate::block::gate::Gate;
use crate::block::request::{Completion, Kind, Outcome, Request};
use crate::block::source::{Pulled, RequestSource};
use crate::throttle::Throttle;
use crate::virtio::notifier::Notifier;

/// The request queue of a block device, live or not.
pub struct RequestQueue {
    disk: Arc<Disk>,
    memory: Arc<GuestMemoryMmap>,
    notifier: Arc<Notifier>,
    gate: Gate,
    active: Mutex<Option<Active>>,
    next_id: AtomicU64,
    pub(super) counters: Live,
    /// What the guest did wrong.
    complaints: Throttle,
}

/// A live queue.
struct Active {
    ring: Ring,
    terms: Terms,
}

/// What was settled when the queue went live.
#[derive(Clone, Copy)]
struct Terms {
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
    pub(super) fn new(
        disk: Arc<Disk>,
        memory: Arc<GuestMemoryMmap>,
        notifier: Arc<Notifier>,
    ) -> Self {
        RequestQueue {
            disk,
            memory,
            notifier,
            gate: Gate::closed(),
            active: Mutex::new(None),
            next_id: AtomicU64::new(1),
            counters: Live::default(),
            complaints: Throttle::default(),
        }
    }

    /// The driver is set up: requests may be pulled from now on.
    pub(super) fn activate(&self, queue: Queue, features: u64) {
        let mut ring = Ring::new(queue);
        // The ring is in memory, so this does not fail; should it, the first pop says so.
        let _ = ring.ask_for_notification(&self.memory);
        let table = ring.table(features & F_INDIRECT_DESC != 0);
        let terms = Terms { table, features };
        *self.lock() = Some(Active { ring, terms });
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
            *self.lock() = None;
        }
        drained
    }

    fn lock(&self) -> MutexGuard<'_, Option<Active>> {
        self.active.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One head: a request to carry out, or one that is answered already, or none. The caller is
    /// inside the gate, and stays there with the request if it gets one.
    fn step(&self) -> Result<Step, Broken> {
        let Some((Popped { head, more }, terms)) = self.pop()? else {
            return Ok(Step::Empty);
        };
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let chain = chain::walk(&self.memory, terms.table, head)?;
        let limits = self.disk.limits(terms.features);
        match request::parse(&self.memory, &chain, limits) {
            Parsed::Transfer(transfer) => {
                let request = self.begin(id, head, transfer);
                Ok(Step::Pulled(Pulled { request, more }))
            }
            other => {
                self.publish(id, head, self.answer_now(id, other))?;
                Ok(Step::Answered)
            }
        }
    }

    fn pop(&self) -> Result<Option<(Popped, Terms)>, RingError> {
        let mut active = self.lock();
        let Some(Active { ring, terms }) = active.as_mut() else {
            return Ok(None);
        };
        let popped = ring.pop(&self.memory)?;
        self.counters
            .max_in_flight
            .at_least(ring.in_flight().into());
        Ok(popped.map(|popped| (popped, *terms)))
    }

    /// A transfer becomes a request in flight.
    fn begin(&self, id: u64, head: u16, transfer: Transfer) -> Request {
        let Transfer {
            kind,
            offset,
            buffers,
            ranges,
            status,
        } = transfer;
        let name = &self.disk.name;
        log::debug!("{name} #{id} popped: head {head}, {kind:?} at {offset}, {buffers:?}");
        match kind {
            Kind::Read => self.counters.reads.add(1),
            Kind::Write { .. } => self.counters.writes.add(1),
            Kind::Flush => self.counters.flushes.add(1),
            Kind::Discard => self.counters.discards.add(1),
            Kind::WriteZeroes { .. } => self.counters.write_zeroes.add(1),
        }
        if let Some(active) = self.lock().as_mut() {
            active.ring.start(
                head,
                Pending {
                    status,
                    kind,
                    bytes: buffers.len(),
                },
            );
        }
        Request {
            id,
            tag: head,
            kind,
            offset,
            buffers,
            ranges,
        }
    }

    /// The answer to what needs no backend.
    fn answer_now(&self, id: u64, parsed: Parsed) -> Answer {
        let name = &self.disk.name;
        match parsed {
            Parsed::Flushed { .. } => self.counters.flushes.add(1),
            _ => self.counters.others.add(1),
        }
        match parsed {
            Parsed::Identify { buffers, status } => {
                log::debug!("{name} #{id} popped: GET_ID");
                let copied = buffers.copy_from(&self.disk.id);
                Answer::new(status, S_OK, copied as u64)
            }
            Parsed::Flushed { status } => {
                log::debug!("{name} #{id} popped: Flush, which is ignored");
                Answer::new(status, S_OK, 0)
            }
            Parsed::Refused { reason, status } => {
                self.complain(format_args!("#{id} is refused: {reason}"));
                self.counters.errors.add(1);
                Answer::new(status, reason.status(), 0)
            }
            Parsed::NoStatus | Parsed::Transfer(_) => {
                self.complain(format_args!("#{id} has no place for its status"));
                self.counters.errors.add(1);
                Answer::NONE
            }
        }
    }

    /// Gives a head back to the driver, and notifies it if it wants that.
    fn publish(&self, id: u64, head: u16, answer: Answer) -> Result<(), RingError> {
        // A broken queue is stopped: the driver gets nothing back until it has reset the device.
        if self.notifier.needs_reset() {
            return Ok(());
        }
        answer.write_status(&self.memory);
        let len = answer.len();
        let wanted = match &mut *self.lock() {
            Some(active) => active.ring.publish(&self.memory, head, len)?,
            None => return Ok(()),
        };
        let name = &self.disk.name;
        log::debug!("{name} #{id} used: len {len}, status {:?}", answer.code());
        if wanted {
            self.notifier.used_buffer();
            self.counters.interrupts_sent.add(1);
        } else {
            self.counters.interrupts_suppressed.add(1);
        }
        log::debug!(
            "{name} #{id} interrupt {}",
            if wanted { "sent" } else { "suppressed" }
        );
        Ok(())
    }

    /// Stops the queue until the next reset.
    fn break_down(&self, why: &Broken) {
        self.gate.close();
        self.complain(format_args!("{why}: the device needs a reset"));
        self.notifier.fail();
    }

    fn complain(&self, what: std::fmt::Arguments<'_>) {
        self.complaints
            .warn(format_args!("{}: {what}", self.disk.name));
    }

    fn count_outcome(&self, pending: Pending, outcome: Outcome) {
        match (outcome, pending.kind) {
            (Outcome::Failed, _) => self.counters.errors.add(1),
            (Outcome::Done, Kind::Read) => self.counters.bytes_read.add(pending.bytes),
            (Outcome::Done, Kind::Write { .. }) => self.counters.bytes_written.add(pending.bytes),
            (Outcome::Done, _) => {}
        }
    }
}

enum Step {
    Empty,
    Answered,
    Pulled(Pulled),
}

impl RequestSource for RequestQueue {
    fn next(&self) -> Option<Pulled> {
        // The gate is asked for every head: a driver that refills the ring with requests that are
        // answered on the spot cannot hold up a reset.
        while self.gate.enter() {
            match self.step() {
                Ok(Step::Pulled(pulled)) => return Some(pulled),
                Ok(Step::Answered) => self.gate.leave(),
                Ok(Step::Empty) => {
                    self.gate.leave();
                    return None;
                }
                Err(broken) => {
                    self.break_down(&broken);
                    self.gate.leave();
                }
            }
        }
        None
    }

    fn complete(&self, completion: Completion) {
        let Completion { id, tag, outcome } = completion;
        let pending = self
            .lock()
            .as_ref()
            .and_then(|active| active.ring.pending(tag));
        let Some(pending) = pending else {
            log::error!(
                "{} #{id} completed twice (please report this bug)",
                self.disk.name
            );
            return;
        };
        self.count_outcome(pending, outcome);
        if let Err(error) = self.publish(id, tag, pending.answer(outcome)) {
            self.break_down(&error.into());
        }
        self.gate.leave();
    }
}
