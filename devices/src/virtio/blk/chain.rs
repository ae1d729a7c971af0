//! Following a descriptor chain (virtio 1.2, section 2.7.5).
//!
//! Every descriptor is read once, into a copy; all decisions are made on the copy, whatever other
//! vCPUs do to the table meanwhile. The walk is bounded by the queue size, so loops end.
//!
//! A chain that breaks the rules of the ring is a [`ChainError`]: driver and device disagree about
//! the ring itself, and the device needs a reset. What the buffers *mean* is not decided here.

use iolite_devices_abi::ring::{DESC_F_INDIRECT, DESC_F_NEXT, DESC_F_WRITE, Descriptor};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

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
    #[error("the chain is longer than the queue of {0}")]
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
#[derive(Clone, Copy, Debug)]
pub struct DescriptorTable {
    /// Where it begins.
    pub addr: GuestAddress,
    /// The queue size.
    pub size: u16,
    /// INDIRECT_DESC was negotiated.
    pub indirect: bool,
}

/// Follows the chain that begins at `head`.
///
/// # Errors
/// [`ChainError`] for every breach of section 2.7.5.
pub fn walk(
    memory: &GuestMemoryMmap,
    table: DescriptorTable,
    head: u16,
) -> Result<Vec<Buffer>, ChainError> {
    let mut buffers = Vec::with_capacity(4);
    let mut visited = 0;
    let mut current = Part {
        addr: table.addr.0,
        size: table.size.into(),
        is_indirect: false,
    };
    let mut index = head;
    loop {
        let descriptor = current.read(memory, index)?;
        // The indirect descriptor itself holds no buffer: it does not count.
        if descriptor.flags & DESC_F_INDIRECT != 0 {
            current = enter_indirect(table, current, descriptor)?;
            index = 0;
            continue;
        }
        visited += 1;
        if visited > table.size {
            return Err(ChainError::TooLong(table.size));
        }
        buffers.push(Buffer {
            addr: GuestAddress(descriptor.addr),
            len: descriptor.len,
            writable: descriptor.flags & DESC_F_WRITE != 0,
        });
        if descriptor.flags & DESC_F_NEXT == 0 {
            return Ok(buffers);
        }
        index = descriptor.next;
    }
}

/// The table that an indirect descriptor names (section 2.7.5.3). Its WRITE flag means nothing.
fn enter_indirect(
    table: DescriptorTable,
    current: Part,
    descriptor: Descriptor,
) -> Result<Part, ChainError> {
    let Descriptor {
        addr, len, flags, ..
    } = descriptor;
    if !table.indirect {
        return Err(ChainError::NotNegotiated);
    }
    if current.is_indirect {
        return Err(ChainError::Nested);
    }
    if flags & DESC_F_NEXT != 0 {
        return Err(ChainError::IndirectWithNext);
    }
    if len == 0 || !u64::from(len).is_multiple_of(DESC_BYTES) {
        return Err(ChainError::IndirectLength(len));
    }
    Ok(Part {
        addr,
        size: len / DESC_BYTES as u32,
        is_indirect: true,
    })
}

/// A table of descriptors: the queue's, or an indirect one.
#[derive(Clone, Copy)]
struct Part {
    addr: u64,
    size: u32,
    is_indirect: bool,
}

impl Part {
    fn read(self, memory: &GuestMemoryMmap, index: u16) -> Result<Descriptor, ChainError> {
        if u32::from(index) >= self.size {
            return Err(ChainError::Index {
                index,
                size: self.size,
            });
        }
        let addr = self.addr.checked_add(u64::from(index) * DESC_BYTES);
        let addr = addr.ok_or(ChainError::Unreadable(self.addr))?;
        let mut bytes = [0; Descriptor::SIZE];
        memory
            .read_slice(&mut bytes, GuestAddress(addr))
            .map_err(|_| ChainError::Unreadable(addr))?;
        Ok(Descriptor::from_le_bytes(bytes))
    }
}
