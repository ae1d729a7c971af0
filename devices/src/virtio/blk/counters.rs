//! What a queue has done so far.

use std::sync::atomic::{AtomicU64, Ordering};

use super::completion::Pending;
use crate::block::request::{Kind, Outcome};

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// A snapshot of a queue's counters, or the sum of a disk's, all since the device was made.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct Counters {
            $($(#[$doc])* pub $name: u64,)*
        }

        impl Counters {
            /// What two queues have done together.
            pub(super) fn plus(self, other: Counters) -> Counters {
                let most = self.max_in_flight.max(other.max_in_flight);
                let sum = Counters { $($name: self.$name + other.$name,)* };
                Counters { max_in_flight: most, ..sum }
            }
        }

        /// The counters themselves.
        #[derive(Default)]
        pub(super) struct Live {
            $(pub(super) $name: Counter,)*
        }

        impl Live {
            pub(super) fn snapshot(&self) -> Counters {
                Counters { $($name: self.$name.get(),)* }
            }
        }
    };
}

counters! {
    /// Reads popped (VIRTIO_BLK_T_IN).
    reads,
    /// Writes popped (VIRTIO_BLK_T_OUT).
    writes,
    /// Flushes popped (VIRTIO_BLK_T_FLUSH).
    flushes,
    /// Discards popped (VIRTIO_BLK_T_DISCARD).
    discards,
    /// Ranges of zeros popped (VIRTIO_BLK_T_WRITE_ZEROES).
    write_zeroes,
    /// Everything else that was popped: GET_ID, unknown types, what could not be parsed.
    others,
    /// Bytes brought to the guest by reads that succeeded.
    bytes_read,
    /// Bytes brought to the disk by writes that succeeded.
    bytes_written,
    /// Requests that were not answered with OK.
    errors,
    /// Used buffer notifications sent.
    interrupts_sent,
    /// Completions for which no interrupt was sent: the driver did not want one, or one was sent for
    /// several together.
    interrupts_suppressed,
    /// Available buffer notifications received; several may have been merged into one.
    notifications,
    /// The most requests that were in flight at once (in one queue).
    max_in_flight,
}

impl Live {
    /// A request for the backend was popped.
    #[inline]
    pub(super) fn count_popped(&self, kind: Kind) {
        match kind {
            Kind::Read => self.reads.add(1),
            Kind::Write { .. } => self.writes.add(1),
            Kind::Flush => self.flushes.add(1),
            Kind::Discard => self.discards.add(1),
            Kind::WriteZeroes { .. } => self.write_zeroes.add(1),
        }
    }

    /// A request has ended.
    #[inline]
    pub(super) fn count_outcome(&self, pending: Pending, outcome: Outcome) {
        match (outcome, pending.kind) {
            (Outcome::Failed, _) => self.errors.add(1),
            (Outcome::Done, Kind::Read) => self.bytes_read.add(pending.bytes),
            (Outcome::Done, Kind::Write { .. }) => self.bytes_written.add(pending.bytes),
            (Outcome::Done, _) => {}
        }
    }
}

/// One counter, that one thread at a time writes (the queue's lock sees to it) and any thread reads.
/// Counters order nothing.
#[derive(Default)]
pub(super) struct Counter(AtomicU64);

impl Counter {
    pub(super) fn add(&self, amount: u64) {
        self.0.store(self.get() + amount, Ordering::Relaxed);
    }

    pub(super) fn at_least(&self, value: u64) {
        if value > self.get() {
            self.0.store(value, Ordering::Relaxed);
        }
    }

    fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}
