//! Events as they were recorded, of both sides, before anything is made of them.

use iolite_devices::trace::EventLog;
use iolite_devices_abi::trace::{EVENT_BYTES, kind};

/// An event of the guest's rings (docs/tracing.md).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GuestEvent {
    /// The guest's time stamp counter.
    pub tsc: u64,
    /// One of [`kind`].
    pub kind: u8,
    /// The ring it was in; 0 is the kernel's.
    pub ring: u8,
    /// See [`kind`].
    pub a: u16,
    /// See [`kind`].
    pub b: u32,
    /// See [`kind`].
    pub c: u64,
    /// See [`kind`].
    pub d: u64,
}

/// All that was recorded.
#[derive(Clone, Debug, Default)]
pub struct Recording {
    /// The guest's events, in order within each ring.
    pub guest: Vec<GuestEvent>,
    /// The host's, each with the number of its thread; in order within a thread.
    pub host: EventLog,
    /// The host's threads.
    pub threads: Vec<String>,
    /// The disks.
    pub disks: Vec<String>,
}

impl GuestEvent {
    /// An event as it lies in ring number `ring`. None for a kind that does not exist: a guest may
    /// write what it likes.
    pub fn parse(bytes: &[u8; EVENT_BYTES], ring: u8) -> Option<GuestEvent> {
        let word = |at: usize| {
            let mut word = [0; 8];
            word.copy_from_slice(&bytes[at..at + 8]);
            u64::from_le_bytes(word)
        };
        let what = word(8);
        let known = kind::RUN..=kind::LAST;
        Some(GuestEvent {
            tsc: word(0),
            kind: Some(what as u8).filter(|kind| known.contains(kind))?,
            ring,
            a: (what >> 16) as u16,
            b: (what >> 32) as u32,
            c: word(16),
            d: word(24),
        })
    }

    /// The text in `c` and `d`, as far as it is printable.
    pub fn text(&self) -> String {
        let bytes = [self.c.to_le_bytes(), self.d.to_le_bytes()].concat();
        let text = bytes.iter().take_while(|byte| **byte != 0);
        text.map(|byte| char::from(*byte))
            .filter(|c| c.is_ascii_graphic() || *c == ' ')
            .collect()
    }
}
