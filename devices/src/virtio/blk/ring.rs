//! The ring of a live queue, under the queue's lock: popping heads, using them, and deciding about
//! notifications of both directions. virtio-queue's `Queue` does the reading and writing.
//!
//! Available buffer notifications: the device asks for one exactly while the ring is empty. Then
//! the next buffer notifies; while there are buffers left, somebody is about to pull them anyway.

use std::num::Wrapping;
use std::sync::atomic::Ordering;

use iolite_devices_abi::ring::AVAIL_F_NO_INTERRUPT;
use virtio_queue::{Queue, QueueOwnedT, QueueT};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use super::chain::DescriptorTable;
use super::completion::Pending;

/// The ring breaks the rules: the device needs a reset.
#[derive(Debug, thiserror::Error)]
pub(super) enum RingError {
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
    /// The ring's memory or indices.
    #[error("the available ring is broken: {0}")]
    Queue(#[from] virtio_queue::Error),
}

/// A popped head.
pub(super) struct Popped {
    pub(super) head: u16,
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
    queue: Queue,
    slots: Box<[Slot]>,
    in_flight: u16,
    /// The driver is asked to notify (without EVENT_IDX: the flag is clear).
    notifications_on: bool,
}

impl Ring {
    /// Takes over a checked queue.
    pub(super) fn new(queue: Queue) -> Self {
        let slots = vec![Slot::Free; usize::from(queue.size())].into_boxed_slice();
        Ring {
            queue,
            slots,
            in_flight: 0,
            notifications_on: true,
        }
    }

    pub(super) fn table(&self, indirect: bool) -> DescriptorTable {
        DescriptorTable {
            addr: GuestAddress(self.queue.desc_table()),
            size: self.queue.size(),
            indirect,
        }
    }

    /// How many heads the device has.
    pub(super) fn in_flight(&self) -> u16 {
        self.in_flight
    }

    /// The next head, if there is one. Either there is more to pop afterwards, or the driver has
    /// been asked to notify.
    pub(super) fn pop(&mut self, memory: &GuestMemoryMmap) -> Result<Option<Popped>, RingError> {
        let Some(head) = self.pop_head(memory)? else {
            return Ok(None);
        };
        let slot = usize::from(head);
        match self.slots.get(slot) {
            None => {
                return Err(RingError::Head {
                    head,
                    size: self.queue.size(),
                });
            }
            Some(Slot::Free) => self.slots[slot] = Slot::Popped,
            Some(_) => return Err(RingError::InFlight(head)),
        }
        self.in_flight += 1;
        let more = if self.is_empty(memory)? {
            self.ask_for_notification(memory)?
        } else {
            self.ask_for_silence(memory)?;
            true
        };
        Ok(Some(Popped { head, more }))
    }

    fn pop_head(&mut self, memory: &GuestMemoryMmap) -> Result<Option<u16>, RingError> {
        // `iter` checks that the index is at most the queue size ahead.
        if let Some(chain) = self.queue.iter(memory)?.next() {
            return Ok(Some(chain.head_index()));
        }
        if !self.ask_for_notification(memory)? {
            return Ok(None);
        }
        // One came just before the driver was asked to notify.
        match self.queue.iter(memory)?.next() {
            Some(chain) => Ok(Some(chain.head_index())),
            None => Err(virtio_queue::Error::InvalidAvailRingIndex.into()),
        }
    }

    fn is_empty(&self, memory: &GuestMemoryMmap) -> Result<bool, RingError> {
        let available = self.queue.avail_idx(memory, Ordering::Acquire)?;
        Ok(available == Wrapping(self.queue.next_avail()))
    }

    /// From the next buffer on, the driver is to notify. True if there is one already.
    pub(super) fn ask_for_notification(
        &mut self,
        memory: &GuestMemoryMmap,
    ) -> Result<bool, RingError> {
        if self.notifications_on && !self.queue.event_idx_enabled() {
            return Ok(!self.is_empty(memory)?);
        }
        self.notifications_on = true;
        Ok(self.queue.enable_notification(memory)?)
    }

    /// With EVENT_IDX silence is the default: the driver passed the last index it was given.
    fn ask_for_silence(&mut self, memory: &GuestMemoryMmap) -> Result<(), RingError> {
        if self.notifications_on && !self.queue.event_idx_enabled() {
            self.notifications_on = false;
            self.queue.disable_notification(memory)?;
        }
        Ok(())
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

    /// Puts a head into the used ring; returns whether the driver wants to hear about it.
    pub(super) fn publish(
        &mut self,
        memory: &GuestMemoryMmap,
        head: u16,
        len: u32,
    ) -> Result<bool, RingError> {
        // Free before it is published: the driver may make it available again at once.
        if let Some(slot) = self.slots.get_mut(usize::from(head)) {
            *slot = Slot::Free;
            self.in_flight = self.in_flight.saturating_sub(1);
        }
        self.queue.add_used(memory, head, len)?;
        // This includes the full barrier between the used index and what the driver wants.
        let wanted = self.queue.needs_notification(memory)?;
        Ok(wanted && (self.queue.event_idx_enabled() || !self.interrupts_off(memory)?))
    }

    /// VIRTQ_AVAIL_F_NO_INTERRUPT, which virtio-queue leaves to us (section 2.7.7).
    fn interrupts_off(&self, memory: &GuestMemoryMmap) -> Result<bool, RingError> {
        let flags: u16 = memory
            .load(GuestAddress(self.queue.avail_ring()), Ordering::Relaxed)
            .map_err(virtio_queue::Error::GuestMemory)?;
        Ok(u16::from_le(flags) & AVAIL_F_NO_INTERRUPT != 0)
    }
}
