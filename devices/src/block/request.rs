//! A request: what to do, where, with which guest buffers.

use std::ops::Range;

use super::buffers::GuestBuffers;

/// What a request asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Fill the buffers from the disk.
    Read,
    /// Bring the buffers to the disk.
    Write {
        /// The data must be durable when the request completes: nobody will send a flush.
        durable: bool,
    },
    /// Make every write that completed before durable.
    Flush,
    /// What is in the ranges no longer matters.
    Discard,
    /// The ranges read as zeros from now on.
    WriteZeroes {
        /// They may lose their place on the disk.
        unmap: bool,
        /// As for a write.
        durable: bool,
    },
}

/// A request that has been parsed and checked: its range lies inside the disk's capacity, its
/// buffers lie in guest memory.
#[derive(Debug)]
pub struct Request {
    /// Number of the request on its disk, counted from 1: what log lines call it.
    pub id: u64,
    /// The source's own name for the request; comes back in its [`Completion`].
    pub tag: u16,
    /// What to do.
    pub kind: Kind,
    /// First byte on the disk of a read or write.
    pub offset: u64,
    /// The guest's memory, as many bytes as are to be read or written; otherwise empty.
    pub buffers: GuestBuffers,
    /// The bytes on the disk of a discard or write-zeroes; otherwise empty.
    pub ranges: Vec<Range<u64>>,
}

impl Request {
    /// The bytes on the disk that the request concerns, whatever its kind.
    pub fn extents(&self) -> impl Iterator<Item = Range<u64>> + use<'_> {
        let transfer =
            (!self.buffers.is_empty()).then(|| self.offset..self.offset + self.buffers.len());
        transfer.into_iter().chain(self.ranges.iter().cloned())
    }
}

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// All of it was done.
    Done,
    /// It failed, wholly or in part; why is in the log.
    Failed,
}

/// The answer to a [`Request`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Completion {
    /// The request's number.
    pub id: u64,
    /// The request's tag.
    pub tag: u16,
    /// How it ended.
    pub outcome: Outcome,
}
