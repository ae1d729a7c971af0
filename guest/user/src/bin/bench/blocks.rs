//! The blocks that requests read into and write from: one for each request in flight, contiguous for
//! the device, and what their sectors begin with (guest/core, `bench`).

use alloc::vec::Vec;
use iolite_user::core_logic::bench::{Cell, holds, stamp_block};
use iolite_user::driver::Segment;
use iolite_user::{DmaMemory, DrivenDisk, Result};

/// How much memory is asked for at once: the most that the kernel gives in one piece.
const CHUNK_BYTES: usize = iolite_user::abi::MAX_DMA_BYTES as usize;

/// Memory for as many blocks as any cell so far has needed.
#[derive(Default)]
pub struct Blocks {
    chunks: Vec<DmaMemory>,
    /// For each block its chunk, and where in it.
    places: Vec<(usize, usize)>,
    block_bytes: usize,
}

impl Blocks {
    /// Makes room for the blocks of `cell`, and those to be written ready to be.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub fn prepare<Q>(&mut self, disk: &DrivenDisk<Q>, cell: &Cell) -> Result<()> {
        self.block_bytes = cell.block_bytes;
        let each = CHUNK_BYTES / cell.block_bytes;
        let needed = cell.depth.div_ceil(each);
        while self.chunks.len() < needed {
            self.chunks.push(disk.allocate(CHUNK_BYTES)?);
        }
        let place = |index| (index / each, index % each * cell.block_bytes);
        self.places = (0..cell.depth).map(place).collect();
        Ok(())
    }

    /// The block of number `index` as the device finds it.
    #[inline(always)]
    pub fn segment(&self, index: usize) -> Segment {
        let (chunk, at) = self.places[index];
        Segment {
            physical: self.chunks[chunk].physical() + at as u64,
            bytes: self.block_bytes as u32,
        }
    }

    /// Makes block `index` one to be written at `offset` by the cell with this seed.
    #[inline(always)]
    pub fn stamp(&mut self, index: usize, offset: u64, seed: u64) {
        let (chunk, at) = self.places[index];
        let block = &mut self.chunks[chunk][at..at + self.block_bytes];
        stamp_block(block, offset, seed);
    }

    /// Are the sectors in block `index` those of `offset`, and written by `seed` if that is given?
    #[inline(always)]
    pub fn holds(&self, index: usize, offset: u64, seed: Option<u64>) -> bool {
        let (chunk, at) = self.places[index];
        holds(&self.chunks[chunk][at..at + self.block_bytes], offset, seed)
    }

    /// Makes what block `index` holds the content of no place on the disk.
    pub fn spoil(&mut self, index: usize) {
        let (chunk, at) = self.places[index];
        self.chunks[chunk][at..at + self.block_bytes].fill(0);
    }
}
