//! The protocol of the program `bench`, spoken over the console: one line for each cell of the
//! matrix that is to be measured, and one line for its result.
//!
//! ```text
//! guest: bench: ready sectors=N queues=N queue_depth=N
//! host:  cell rw=read|write|randread|randwrite block=BYTES depth=N queues=N wait=poll|interrupt
//!        ms=N seed=N   (one line)
//! guest: bench: result requests=N ns=N p50_ns=N p99_ns=N p999_ns=N max_ns=N all=N notifications=N
//!        interrupts=N verified=N neighbour=N   (one line)
//! guest: bench: failed error=TEXT...
//! ```
//!
//! `requests` are those that completed within `ns`, of which the percentiles are too; `all`,
//! `notifications` and `interrupts` count from the first request of the cell to its last, warm-up and
//! drain included. The end of the input ends the program.
//!
//! **What the disk holds.** Each sector of 512 bytes begins with two little-endian words: [`stamp`] of
//! its number, which says that it is the sector it should be, and the seed of the cell that wrote it
//! last. The host fills the disk so, with 0 as the seed; the rest of a sector is not looked at.

mod cell;
mod measured;
mod places;
mod ready;

use crate::pattern::splitmix64;
pub use cell::Cell;
pub use measured::Measured;
pub use places::Places;
pub use ready::Ready;

/// Bytes in a sector.
pub const SECTOR_BYTES: usize = 512;
/// Most requests in flight.
pub const MAX_DEPTH: usize = 128;
/// Most queues.
pub const MAX_QUEUES: usize = 16;
/// A cell is measured until its time is over and so many requests have completed in it, however slow
/// the disk or busy the host.
pub const MIN_REQUESTS: u64 = 16;
/// Largest block in bytes.
pub const MAX_BLOCK_BYTES: usize = 256 << 10;

/// The first word of a sector.
pub const fn stamp(sector: u64) -> u64 {
    splitmix64(sector ^ 0x696f_6c69_7465_0000)
}

/// Writes what sectors begin with that a cell of this seed writes at byte `offset`.
#[inline(always)]
pub fn stamp_block(block: &mut [u8], offset: u64, seed: u64) {
    let first = offset / SECTOR_BYTES as u64;
    for (sector, bytes) in (first..).zip(block.chunks_exact_mut(SECTOR_BYTES)) {
        bytes[..8].copy_from_slice(&stamp(sector).to_le_bytes());
        bytes[8..16].copy_from_slice(&seed.to_le_bytes());
    }
}

/// Does `block` hold the sectors at byte `offset`, written by a cell of `seed` if that is given?
#[inline(always)]
pub fn holds(block: &[u8], offset: u64, seed: Option<u64>) -> bool {
    let first = offset / SECTOR_BYTES as u64;
    (first..)
        .zip(block.chunks_exact(SECTOR_BYTES))
        .all(|(sector, bytes)| {
            bytes[..8] == stamp(sector).to_le_bytes()
                && seed.is_none_or(|seed| bytes[8..16] == seed.to_le_bytes())
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_is_known_by_its_place_and_its_writer() {
        let mut block = [0; 4096];
        stamp_block(&mut block, 8192, 7);
        assert!(holds(&block, 8192, Some(7)) && holds(&block, 8192, None));
        assert!(!holds(&block, 8192, Some(8)) && !holds(&block, 4096, None));
        block[7 * SECTOR_BYTES] ^= 1;
        assert!(!holds(&block, 8192, None));
    }
}
