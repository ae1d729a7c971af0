//! One queue, as a front-end sets it up: it is *started* by its kick eventfd and stopped when its base
//! is asked for, and it works while it is *enabled* as well (vhost-user, "Ring states").

use vm_memory::{Bytes, GuestMemoryMmap};

use super::eventfd::SharedEventFd;
use super::memory::Memory;
use super::message::RingAddresses;
use crate::virtio::device::{Position, QueueLayout};
use crate::virtio::in_flight::InFlightRegion;
use crate::virtio::setup::{self, SetupError};

/// `used.idx` lies behind `used.flags`.
const USED_IDX: u64 = 2;

/// What a front-end has said of a queue.
#[derive(Default)]
pub(super) struct Vring {
    /// Queue size; 0 before it is set.
    pub(super) size: u16,
    pub(super) addresses: Option<RingAddresses>,
    /// The available index to begin with.
    pub(super) base: u16,
    /// It is started while this is here.
    pub(super) kick: Option<SharedEventFd>,
    pub(super) enabled: bool,
    /// The device has it.
    pub(super) live: bool,
}

impl Vring {
    /// The queue that has been described.
    pub(super) fn layout(
        &self,
        memory: &Memory,
        guest: &GuestMemoryMmap,
    ) -> Result<QueueLayout, SetupError> {
        let addresses = self.addresses.map(|parts| {
            let parts = [parts.desc_table, parts.avail_ring, parts.used_ring];
            parts.map(|user| memory.guest_address(user).map(|address| address.0))
        });
        setup::layout(guest, self.size, addresses.unwrap_or_default())
    }

    /// How far the queue has got: where its base and its used ring say, or, if somebody noted what was
    /// in flight, where they left it.
    pub(super) fn position(
        &self,
        guest: &GuestMemoryMmap,
        layout: &QueueLayout,
        region: Option<InFlightRegion>,
        longest_chain: u16,
    ) -> Position {
        let at = layout.used_ring.0 + USED_IDX;
        // The layout has been checked against this memory.
        let next_used = u16::from_le(guest.read_obj(vm_memory::GuestAddress(at)).unwrap_or(0));
        let mut position = Position {
            next_avail: self.base,
            next_used,
            longest_chain: Some(longest_chain.max(layout.size)),
            ..Position::default()
        };
        if let Some(mut region) = region {
            position.again = region.resume(next_used);
            // There are at most as many as the queue has entries.
            position.next_avail = next_used.wrapping_add(position.again.len() as u16);
            position.region = Some(region);
        }
        position
    }
}
