//! What is measured: cells, each a pattern, a block size, a depth, a number of queues and a way to
//! wait.

use std::fmt;
use std::time::Duration;

use clap::ValueEnum;
use iolite_guest_core::bench::Cell;

/// The order and direction of requests, in fio's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Access {
    /// One block after the other, reads.
    Read,
    /// The same, writes.
    Write,
    /// Random blocks, reads.
    Randread,
    /// The same, writes.
    Randwrite,
}

/// How the guest waits for completions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Wait {
    /// It looks at the used ring until there is one.
    Poll,
    /// It sleeps until an interrupt comes.
    Interrupt,
}

/// The cells to measure: all combinations, or a table of its own if nothing was chosen.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Matrix {
    /// Patterns.
    pub access: Vec<Access>,
    /// Block sizes in bytes.
    pub block_bytes: Vec<u64>,
    /// Requests in flight.
    pub depth: Vec<u64>,
    /// Queues.
    pub queues: Vec<u64>,
    /// Ways to wait.
    pub wait: Vec<Wait>,
}

/// A cell without what changes from round to round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape(Cell);

impl Matrix {
    /// The cells, in the order in which they are measured and shown.
    pub fn cells(&self) -> Vec<Shape> {
        let mut shapes = Vec::new();
        for wait in or(&self.wait, Wait::Poll) {
            for queues in or(&self.queues, 1) {
                shapes.extend(self.requests().map(|shape| shape.by(queues, wait)));
            }
        }
        shapes
    }

    /// The most queues of any cell.
    pub fn most_queues(&self) -> u64 {
        self.queues.iter().copied().max().unwrap_or(1)
    }

    /// The cells of one queue, polled.
    fn requests(&self) -> impl Iterator<Item = Shape> + use<> {
        let chosen = self.access.len() + self.block_bytes.len() + self.depth.len() > 0;
        let mut shapes = Vec::new();
        if !chosen {
            shapes.extend(usual());
            return shapes.into_iter();
        }
        for access in or(&self.access, Access::Randread) {
            for bytes in or(&self.block_bytes, 4096) {
                for depth in or(&self.depth, 1) {
                    shapes.push(Shape::new(access, bytes, depth));
                }
            }
        }
        shapes.into_iter()
    }
}

fn or<T: Copy>(chosen: &[T], usual: T) -> Vec<T> {
    if chosen.is_empty() {
        vec![usual]
    } else {
        chosen.to_vec()
    }
}

/// What shows most of a device in little time.
fn usual() -> impl Iterator<Item = Shape> {
    let random = |access, depth| Shape::new(access, 4096, depth);
    let reads = [1, 4, 32, 64].map(|depth| random(Access::Randread, depth));
    let writes = [1, 32].map(|depth| random(Access::Randwrite, depth));
    let large = Shape::new(Access::Read, 64 << 10, 8);
    reads.into_iter().chain(writes).chain([large])
}

impl Shape {
    /// The caller has checked that block and depth are possible.
    fn new(access: Access, block_bytes: u64, depth: u64) -> Shape {
        Shape(Cell {
            random: matches!(access, Access::Randread | Access::Randwrite),
            write: matches!(access, Access::Write | Access::Randwrite),
            block_bytes: block_bytes as usize,
            depth: depth as usize,
            queues: 1,
            interrupt: false,
            ms: 0,
            seed: 0,
        })
    }

    fn by(self, queues: u64, wait: Wait) -> Shape {
        Shape(Cell {
            queues: queues as usize,
            interrupt: wait == Wait::Interrupt,
            ..self.0
        })
    }

    /// The cell, to be measured for `time`, with a seed.
    pub fn of(self, time: Duration, seed: u64) -> Cell {
        let ms = time.as_millis().try_into().unwrap_or(u64::MAX);
        Cell { ms, seed, ..self.0 }
    }

    /// The cell, for its names.
    pub fn cell(&self) -> &Cell {
        &self.0
    }

    /// The block size as people write it: `4K`.
    pub fn block(&self) -> String {
        match self.0.block_bytes {
            bytes if bytes % 1024 == 0 => format!("{}K", bytes / 1024),
            bytes => bytes.to_string(),
        }
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (rw, block) = (self.0.rw(), self.block());
        let Cell { depth, queues, .. } = self.0;
        let wait = self.0.wait();
        write!(
            f,
            "{rw} of {block}, {depth} in flight, {queues} queues, {wait}"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(matrix: &Matrix) -> Vec<String> {
        matrix.cells().iter().map(Shape::to_string).collect()
    }

    #[test]
    fn without_a_choice_there_is_a_table_for_each_way_to_wait() {
        let usual = names(&Matrix::default());
        assert_eq!(usual.len(), 7);
        assert_eq!(usual[0], "randread of 4K, 1 in flight, 1 queues, poll");
        assert_eq!(usual[6], "read of 64K, 8 in flight, 1 queues, poll");
        let both = names(&Matrix {
            wait: vec![Wait::Poll, Wait::Interrupt],
            ..Matrix::default()
        });
        assert_eq!(both.len(), 14);
        assert_eq!(both[13], "read of 64K, 8 in flight, 1 queues, interrupt");
    }

    #[test]
    fn choices_are_combined() {
        let matrix = Matrix {
            access: vec![Access::Write],
            block_bytes: vec![512, 8192],
            depth: vec![128],
            queues: vec![1, 4],
            wait: Vec::new(),
        };
        let wanted = [
            "write of 512, 128 in flight, 1 queues, poll",
            "write of 8K, 128 in flight, 1 queues, poll",
            "write of 512, 128 in flight, 4 queues, poll",
            "write of 8K, 128 in flight, 4 queues, poll",
        ];
        assert_eq!(names(&matrix), wanted);
        assert_eq!(matrix.most_queues(), 4);
        assert!(
            matrix
                .cells()
                .iter()
                .all(|shape| shape.cell().is_possible())
        );
    }
}
