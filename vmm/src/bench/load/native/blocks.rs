//! Memory for the blocks of a cell, aligned as O_DIRECT wants it.

use iolite_guest_core::bench::Cell;

/// What every file system and device is content with.
const ALIGN: usize = 4096;

/// As many blocks as a cell has requests in flight.
pub struct Blocks {
    memory: Vec<u8>,
    start: usize,
    /// From one block to the next: a multiple of the alignment.
    stride: usize,
    bytes: usize,
}

impl Blocks {
    /// Zeroed blocks for `count` requests of `cell`.
    pub fn new(cell: &Cell, count: usize) -> Blocks {
        let stride = cell.block_bytes.next_multiple_of(ALIGN);
        // Written once, so that it is there before anything is measured.
        let memory = vec![1; stride * count + ALIGN];
        let start = memory.as_ptr().align_offset(ALIGN);
        Blocks {
            memory,
            start,
            stride,
            bytes: cell.block_bytes,
        }
    }

    /// Block number `index`.
    pub fn get(&mut self, index: usize) -> &mut [u8] {
        let at = self.start + index * self.stride;
        &mut self.memory[at..at + self.bytes]
    }
}
