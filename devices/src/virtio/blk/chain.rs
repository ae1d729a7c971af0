//! Following a descriptor chain (virtio 1.2, section 2.7.5).
//!
//! Every descriptor is read once, into a copy; all decisions are made on the copy, whatever other
//! vCPUs do to the table meanwhile. The walk is bounded by the queue size, so loops end.
//!
//! A chain that breaks the rules of the ring is a [`ChainError`]: driver and device disagree about
//! the ring itself, and the device needs a reset. What the buffers *mean* is not decided here.

use std::sync::Arc;

use iolite_devices_abi::ring::{DESC_F_INDIRECT, DESC_F_NEXT, DESC_F_WRITE, Descriptor};
use vm_memory::GuestAddress;

use super::ram::Ram;
use super::ring_memory::RingMemory;

/// Size in bytes of a descriptor.
const DESC_BYTES: u64 = Descriptor::SIZE as u64;

/// One buffer of a chain. Not checked against guest memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Buffer {
    /// Where it begins.
    pub addr: GuestAddress,
    /// Its length in bytes; may be 0.
    pub len: u32,
    /// Device-writable; device-readable otherwise.
    pub writable: bool,
}

/// What is wrong with a chain.
#[derive(Clone, Copy, Debug, thiserror::Error, PartialEq, Eq)]
pub enum ChainError {
    /// A descriptor index outside its table.
    #[error("descriptor {index} is outside its table of {size}")]
    Index {
        /// The index.
        index: u16,
        /// How many descriptors the table has.
        size: u32,
    },
    /// The chain is a loop, or longer than its queue.
    #[error("the chain is longer than {0}")]
    TooLong(u16),
    /// A table that is not in guest memory.
    #[error("the descriptor at {0:#x} is outside guest memory")]
    Unreadable(u64),
    /// INDIRECT where INDIRECT_DESC was not negotiated.
    #[error("an indirect descriptor, but INDIRECT_DESC was not negotiated")]
    NotNegotiated,
    /// INDIRECT together with NEXT.
    #[error("an indirect descriptor with a next one")]
    IndirectWithNext,
    /// INDIRECT within an indirect table.
    #[error("an indirect descriptor in an indirect table")]
    Nested,
    /// An indirect table that is not a whole number of descriptors, or has none.
    #[error("an indirect table of {0} bytes")]
    IndirectLength(u32),
}

/// A queue's descriptor table, as negotiated.
pub(super) struct DescriptorTable {
    pub(super) rings: Arc<RingMemory>,
    /// The most descriptors of a chain.
    pub(super) longest_chain: u16,
    /// INDIRECT_DESC was negotiated.
    pub(super) indirect: bool,
}

/// Follows the chain that begins at `head`, and leaves its buffers in `buffers`.
///
/// # Errors
/// [`ChainError`] for every breach of section 2.7.5.
pub(super) fn walk(
    ram: &Ram,
    table: &DescriptorTable,
    head: u16,
    buffers: &mut Vec<Buffer>,
) -> Result<(), ChainError> {
    buffers.clear();
    let longest = table.longest_chain;
    let mut current = Part::Direct(&table.rings);
    let mut index = head;
    loop {
        let descriptor = current.read(ram, index)?;
        // The indirect descriptor itself holds no buffer: it does not count.
        if descriptor.flags & DESC_F_INDIRECT != 0 {
            current = enter_indirect(table, &current, descriptor)?;
            index = 0;
            continue;
        }
        if buffers.len() == usize::from(longest) {
            return Err(ChainError::TooLong(longest));
        }
        buffers.push(Buffer {
            addr: GuestAddress(descriptor.addr),
            len: descriptor.len,
            writable: descriptor.flags & DESC_F_WRITE != 0,
        });
        if descriptor.flags & DESC_F_NEXT == 0 {
            return Ok(());
        }
        index = descriptor.next;
    }
}

/// The table that an indirect descriptor names (section 2.7.5.3). Its WRITE flag means nothing.
fn enter_indirect<'a>(
    table: &DescriptorTable,
    current: &Part<'_>,
    descriptor: Descriptor,
) -> Result<Part<'a>, ChainError> {
    let Descriptor {
        addr, len, flags, ..
    } = descriptor;
    if !table.indirect {
        return Err(ChainError::NotNegotiated);
    }
    if matches!(current, Part::Indirect { .. }) {
        return Err(ChainError::Nested);
    }
    if flags & DESC_F_NEXT != 0 {
        return Err(ChainError::IndirectWithNext);
    }
    if len == 0 || !u64::from(len).is_multiple_of(DESC_BYTES) {
        return Err(ChainError::IndirectLength(len));
    }
    Ok(Part::Indirect {
        addr,
        size: len / DESC_BYTES as u32,
    })
}

/// A table of descriptors.
enum Part<'a> {
    /// The queue's.
    Direct(&'a RingMemory),
    /// One that an indirect descriptor names.
    Indirect { addr: u64, size: u32 },
}

impl Part<'_> {
    fn read(&self, ram: &Ram, index: u16) -> Result<Descriptor, ChainError> {
        let size = match self {
            Part::Direct(rings) => rings.size().into(),
            Part::Indirect { size, .. } => *size,
        };
        if u32::from(index) >= size {
            return Err(ChainError::Index { index, size });
        }
        match self {
            Part::Direct(rings) => Ok(rings.descriptor(index)),
            Part::Indirect { addr, .. } => read_indirect(ram, *addr, index),
        }
    }
}

/// Descriptor `index` of the indirect table at `table`, which may lie anywhere.
fn read_indirect(ram: &Ram, table: u64, index: u16) -> Result<Descriptor, ChainError> {
    let addr = table.checked_add(u64::from(index) * DESC_BYTES);
    let addr = addr.ok_or(ChainError::Unreadable(table))?;
    let bytes = ram.read(GuestAddress(addr));
    bytes
        .map(Descriptor::from_le_bytes)
        .ok_or(ChainError::Unreadable(addr))
}
