//! The ranges of a DISCARD or WRITE_ZEROES request (virtio 1.2, sections 5.2.6 and 5.2.6.2): its
//! data is one `struct virtio_blk_discard_write_zeroes` or more, each of which names sectors.

use std::ops::Range;

use iolite_devices_abi::blk::{DiscardWriteZeroes, FLAG_UNMAP, SECTOR_SIZE};
use vm_memory::{Bytes, GuestMemoryMmap};

use super::chain::Buffer;
use super::refusal::Refusal;
use super::request::{Data, Limits, check_range};

/// How much one request may ask for; the configuration space says so to the driver.
#[derive(Clone, Copy, Debug)]
pub(super) struct RangeLimits {
    /// How many ranges.
    pub(super) ranges: u32,
    /// How many sectors in each.
    pub(super) sectors: u32,
    /// [`FLAG_UNMAP`], if that means something here.
    pub(super) flags: u32,
}

/// A discard is done by the file system, which is fast even for a GiB.
pub(super) const DISCARD: RangeLimits = RangeLimits {
    ranges: 32,
    sectors: 1 << 21,
    flags: 0,
};
/// Where the file system has no zeros to give, they have to be written: half a GiB at most.
pub(super) const WRITE_ZEROES: RangeLimits = RangeLimits {
    ranges: 8,
    sectors: 1 << 17,
    flags: FLAG_UNMAP,
};

/// What the ranges ask for.
pub(super) struct Ranges {
    /// Bytes on the disk, none of them empty.
    pub(super) ranges: Vec<Range<u64>>,
    /// All of them may be deallocated.
    pub(super) unmap: bool,
}

/// Parses a request's data, of which `most` is allowed.
///
/// # Errors
/// [`Refusal`] for the first range that is not possible; then nothing of the request is done.
pub(super) fn parse(
    memory: &GuestMemoryMmap,
    data: &Data<'_>,
    most: RangeLimits,
    limits: Limits,
) -> Result<Ranges, Refusal> {
    const SIZE: usize = DiscardWriteZeroes::SIZE;
    let longest = u64::from(most.ranges) * SIZE as u64;
    if data.bytes == 0 || data.bytes > longest || !data.bytes.is_multiple_of(SIZE as u64) {
        return Err(Refusal::Length);
    }
    let payload = copy(memory, data)?;
    let (wire_ranges, _) = payload.as_chunks::<SIZE>();
    let mut ranges = Vec::with_capacity(wire_ranges.len());
    let mut unmap = true;
    for &wire in wire_ranges {
        let wire = DiscardWriteZeroes::from_le_bytes(wire);
        if wire.flags & !most.flags != 0 {
            return Err(Refusal::Flags(wire.flags));
        }
        if wire.num_sectors > most.sectors {
            return Err(Refusal::Length);
        }
        let len = u64::from(wire.num_sectors) * SECTOR_SIZE;
        let start = check_range(wire.sector, len, limits)?;
        unmap &= wire.flags & FLAG_UNMAP != 0;
        if len > 0 {
            ranges.push(start..start + len);
        }
    }
    Ok(Ranges { ranges, unmap })
}

/// Copies the payload once: what it says is decided on the copy.
fn copy(memory: &GuestMemoryMmap, data: &Data<'_>) -> Result<Vec<u8>, Refusal> {
    let mut payload = vec![0; data.bytes as usize];
    let mut rest = payload.as_mut_slice();
    for Buffer { addr, len, .. } in data.pieces() {
        let (piece, behind) = rest.split_at_mut(rest.len().min(len as usize));
        memory
            .read_slice(piece, addr)
            .map_err(|_| Refusal::Memory)?;
        rest = behind;
    }
    Ok(payload)
}
