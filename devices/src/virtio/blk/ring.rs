//! The ring of a live queue, under the queue's lock: popping heads, using them, and deciding about
//! notifications of both directions.
//!
//! Available buffer notifications (section 2.7.10): an *attended* ring is polled by the queue's
//! thread, and the driver is asked for none. Otherwise the driver is asked for one exactly while the
//! ring is empty: then the next buffer notifies; while there are buffers left, somebody is about to
//! pull them anyway.
//!
//! Used buffer notifications (section 2.7.7): used entries are visible to the driver at once; the
//! decision on an interrupt is made for all of them since the last decision.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};

use iolite_devices_abi::ring::{AVAIL_F_NO_INTERRUPT, USED_F_NO_NOTIFY, need_event};

use super::chain::DescriptorTable;
use super::completion::Pending;
use super::ring_memory::RingMemory;
use crate::virtio::device::QueueStart;
use crate::virtio::in_flight::InFlightRegion;

/// The ring breaks the rules: the device needs a reset.
#[derive(Debug, thiserror::Error)]
pub(super) enum RingError {
    /// More heads than the queue has entries.
    #[error("the available index {idx} is more than the queue of {size} ahead of {next}")]
    Index {
        /// The driver's index.
        idx: u16,
        /// The next one to pop.
        next: u16,
        /// The queue size.
        size: u16,
    },
    /// A head index that no descriptor has.
    #[error("head {head} is outside the queue of {size}")]
    Head {
        /// The index.
        head: u16,
        /// The queue size.
        size: u16,
    },
    /// A head index that the device has already.
    #[error("head {0} is made available while it is in flight")]
    InFlight(u16),
}

/// A popped head.
pub(super) struct Popped {
    pub(super) head: u16,
    /// It was there when somebody last looked.
    pub(super) waited: bool,
    /// There is another one.
    pub(super) more: bool,
}

/// What is known about a head that the device has.
#[derive(Clone, Copy)]
enum Slot {
    /// The driver's.
    Free,
    /// Popped; being parsed.
    Popped,
    /// A request in flight.
    Pending(Pending),
}

/// A live ring.
pub(super) struct Ring {
    memory: Arc<RingMemory>,
    slots: Box<[Slot]>,
    in_flight: u16,
    event_idx: bool,
    /// The available index as last seen.
    avail_idx: u16,
    next_avail: u16,
    next_used: u16,
    /// `next_used` when an interrupt was last decided on.
    decided: u16,
    /// Heads that were popped before, by somebody who never published them: they come first.
    again: VecDeque<u16>,
    /// Where heads in flight are noted, if anywhere.
    region: Option<InFlightRegion>,
    longest_chain: u16,
    /// The queue's thread polls.
    attended: bool,
    /// VIRTQ_USED_F_NO_NOTIFY is set. With EVENT_IDX it never is.
    silent: bool,
}

impl Ring {
    /// Takes over a checked queue; none if it is not in guest memory.
    pub(super) fn new(start: QueueStart, event_idx: bool) -> Option<Self> {
        let (layout, from) = (start.layout, start.from);
        let memory = RingMemory::find(&start.memory, &layout)?;
        // These are the device's, and the next buffer is to be heard.
        memory.set_used_flags(0);
        if event_idx {
            memory.set_avail_event(from.next_avail);
        }
        Some(Ring {
            memory: Arc::new(memory),
            slots: vec![Slot::Free; usize::from(layout.size)].into_boxed_slice(),
            in_flight: 0,
            event_idx,
            avail_idx: from.next_avail,
            next_avail: from.next_avail,
            next_used: from.next_used,
            decided: from.next_used,
            again: from.again.into(),
            region: from.region,
            longest_chain: from.longest_chain.unwrap_or(layout.size),
            attended: false,
            silent: false,
        })
    }

    pub(super) fn table(&self, indirect: bool) -> DescriptorTable {
        DescriptorTable {
            rings: Arc::clone(&self.memory),
            longest_chain: self.longest_chain,
            indirect,
        }
    }

    /// How many heads the device has.
    pub(super) fn in_flight(&self) -> u16 {
        self.in_flight
    }

    /// The next head, if there is one. If there is no other one afterwards, either the ring is
    /// attended or the driver has been asked to notify.
    pub(super) fn pop(&mut self) -> Result<Option<Popped>, RingError> {
        let waited = self.avail_idx != self.next_avail;
        if !self.is_ready()? && (self.attended || !self.ask_for_notification()?) {
            return Ok(None);
        }
        let head = self.next_head();
        match self.slots.get_mut(usize::from(head)) {
            None => {
                let size = self.memory.size();
                return Err(RingError::Head { head, size });
            }
            Some(slot @ Slot::Free) => *slot = Slot::Popped,
            Some(_) => return Err(RingError::InFlight(head)),
        }
        self.in_flight += 1;
        if let Some(region) = &mut self.region {
            region.popped(head);
        }
        let more = if self.is_ready()? {
            self.ask_for_silence();
            true
        } else {
            !self.attended && self.ask_for_notification()?
        };
        Ok(Some(Popped { head, waited, more }))
    }

    /// Takes the next head, which is there.
    fn next_head(&mut self) -> u16 {
        if let Some(head) = self.again.pop_front() {
            return head;
        }
        let head = self.memory.avail_head(self.next_avail);
        self.next_avail = self.next_avail.wrapping_add(1);
        head
    }

    /// Whether the ring is attended and there is nothing to pop.
    pub(super) fn is_quiet(&mut self) -> bool {
        self.attended && matches!(self.is_ready(), Ok(false))
    }

    /// Whether there is a head to pop. The index is the driver's and shared, so it is read only when
    /// what it said before is used up.
    fn is_ready(&mut self) -> Result<bool, RingError> {
        if self.avail_idx != self.next_avail || !self.again.is_empty() {
            return Ok(true);
        }
        let (idx, next, size) = (self.memory.avail_idx(), self.next_avail, self.memory.size());
        if idx.wrapping_sub(next) > size {
            return Err(RingError::Index { idx, next, size });
        }
        self.avail_idx = idx;
        Ok(idx != next)
    }

    /// The queue's thread polls from now on: the driver is asked for no notifications.
    pub(super) fn attend(&mut self) {
        self.attended = true;
        self.ask_for_silence();
    }

    /// The queue's thread polls no more. True if there is something to pop already; otherwise the
    /// next buffer notifies.
    pub(super) fn rest(&mut self) -> Result<bool, RingError> {
        self.attended = false;
        Ok(self.is_ready()? || self.ask_for_notification()?)
    }

    /// From the next buffer on, the driver is to notify. True if there is one already.
    fn ask_for_notification(&mut self) -> Result<bool, RingError> {
        if self.event_idx {
            self.memory.set_avail_event(self.next_avail);
        } else if self.silent {
            self.silent = false;
            self.memory.set_used_flags(0);
        }
        // Either the driver sees what was just written, or we see its buffer (section 2.7.13.4).
        fence(Ordering::SeqCst);
        self.is_ready()
    }

    /// With EVENT_IDX silence is the default: the driver passed the last index it was given.
    fn ask_for_silence(&mut self) {
        if !self.event_idx && !self.silent {
            self.silent = true;
            self.memory.set_used_flags(USED_F_NO_NOTIFY);
        }
    }

    /// A popped head has become a request in flight.
    pub(super) fn start(&mut self, head: u16, pending: Pending) {
        if let Some(slot) = self.slots.get_mut(usize::from(head)) {
            *slot = Slot::Pending(pending);
        }
    }

    /// The request in flight that began at `head`.
    pub(super) fn pending(&self, head: u16) -> Option<Pending> {
        match self.slots.get(usize::from(head)) {
            Some(Slot::Pending(pending)) => Some(*pending),
            _ => None,
        }
    }

    /// Puts a head into the used ring, where the driver can see it.
    pub(super) fn publish(&mut self, head: u16, len: u32) {
        // Free before it is published: the driver may make it available again at once.
        if let Some(slot) = self.slots.get_mut(usize::from(head)) {
            *slot = Slot::Free;
            self.in_flight = self.in_flight.saturating_sub(1);
        }
        self.memory.put_used(self.next_used, head, len);
        self.next_used = self.next_used.wrapping_add(1);
        let Some(region) = &mut self.region else {
            return self.memory.set_used_idx(self.next_used);
        };
        region.publishing(head);
        self.memory.set_used_idx(self.next_used);
        region.published(head, self.next_used);
    }

    /// The available index of the next head to pop.
    pub(super) fn next_avail(&self) -> u16 {
        self.next_avail
    }

    /// How many heads were published since the last decision on an interrupt.
    pub(super) fn undecided(&self) -> u16 {
        self.next_used.wrapping_sub(self.decided)
    }

    /// Decides for all that was published since the last decision: does the driver want an
    /// interrupt?
    pub(super) fn wants_interrupt(&mut self) -> bool {
        let (new, old) = (self.next_used, self.decided);
        if new == old {
            return false;
        }
        self.decided = new;
        // Either the driver sees the used index, or we see what it wants (section 2.7.7.2).
        fence(Ordering::SeqCst);
        if self.event_idx {
            need_event(self.memory.used_event(), new, old)
        } else {
            self.memory.avail_flags() & AVAIL_F_NO_INTERRUPT == 0
        }
    }
}

#[cfg(test)]
mod tests;
