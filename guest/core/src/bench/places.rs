//! Where a cell's requests go.

use super::Cell;
use crate::pattern::splitmix64;

/// The offsets of a cell's requests in bytes: multiples of the block.
pub struct Places {
    blocks: u64,
    block_bytes: u64,
    random: bool,
    state: u64,
}

impl Places {
    /// The places of `cell` on a disk of `disk_bytes`; None if not one block fits.
    pub fn new(cell: &Cell, disk_bytes: u64) -> Option<Places> {
        let block_bytes = cell.block_bytes as u64;
        let blocks = disk_bytes / block_bytes;
        // Where a sequential cell begins depends on the seed too.
        let state = splitmix64(cell.seed);
        (blocks > 0).then_some(Places {
            blocks,
            block_bytes,
            random: cell.random,
            state,
        })
    }

    /// The next one.
    #[inline(always)]
    pub fn next_offset(&mut self) -> u64 {
        self.state = if self.random {
            // Marsaglia's xorshift64, which never comes to 0 from another number.
            let x = self.state | u64::from(self.state == 0);
            let x = x ^ x << 13;
            let x = x ^ x >> 7;
            x ^ x << 17
        } else {
            self.state.wrapping_add(1)
        };
        // The upper half of the product spreads all states over the blocks without a division.
        let block = if self.random {
            ((u128::from(self.state) * u128::from(self.blocks)) >> 64) as u64
        } else {
            self.state % self.blocks
        };
        block * self.block_bytes
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use std::vec::Vec;

    #[test]
    fn places_are_blocks_of_the_disk_and_random_ones_reach_all_of_them() {
        let disk = 100 * 4096 + 512;
        for random in [true, false] {
            let rw = if random { "randread" } else { "read" };
            let line =
                std::format!("cell rw={rw} block=4096 depth=1 queues=1 wait=poll ms=1 seed=3");
            let cell = Cell::parse(&line).unwrap();
            let mut places = Places::new(&cell, disk).unwrap();
            let offsets: Vec<u64> = (0..2000).map(|_| places.next_offset()).collect();
            assert!(offsets.iter().all(|at| at % 4096 == 0 && at + 4096 <= disk));
            let mut distinct = offsets.clone();
            distinct.sort_unstable();
            distinct.dedup();
            assert_eq!(distinct.len(), 100);
            let in_order = offsets
                .windows(2)
                .all(|pair| pair[1] == pair[0] + 4096 || pair[1] == 0);
            assert_eq!(in_order, !random);
            assert!(Places::new(&cell, 4095).is_none());
        }
    }
}
