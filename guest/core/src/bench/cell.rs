//! What to measure: one cell of the matrix.

use super::{MAX_BLOCK_BYTES, MAX_DEPTH, MAX_QUEUES, SECTOR_BYTES};
use crate::fields::Fields;
use core::fmt::{Display, Formatter, Result};

/// What a cell of the matrix asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cell {
    /// At random places, not one after the other.
    pub random: bool,
    /// Writes, not reads.
    pub write: bool,
    /// Bytes in each request: a multiple of [`SECTOR_BYTES`] up to [`MAX_BLOCK_BYTES`].
    pub block_bytes: usize,
    /// Requests in flight: 1 to [`MAX_DEPTH`].
    pub depth: usize,
    /// Queues that the requests are spread over, in turn: 1 to [`MAX_QUEUES`], or as many of them as
    /// the disk has.
    pub queues: usize,
    /// Wait for interrupts instead of polling the used ring.
    pub interrupt: bool,
    /// How long to measure, in milliseconds.
    pub ms: u64,
    /// What random places and written sectors depend on.
    pub seed: u64,
}

impl Cell {
    /// Reads a line of the host's; None if it is not one.
    pub fn parse(line: &str) -> Option<Cell> {
        let mut fields = Fields::of(line, "cell ")?;
        let (random, write) = match fields.text("rw")? {
            "read" => (false, false),
            "write" => (false, true),
            "randread" => (true, false),
            "randwrite" => (true, true),
            _ => return None,
        };
        let cell = Cell {
            random,
            write,
            block_bytes: fields.number("block")?.try_into().ok()?,
            depth: fields.number("depth")?.try_into().ok()?,
            queues: fields.number("queues")?.try_into().ok()?,
            interrupt: match fields.text("wait")? {
                "poll" => false,
                "interrupt" => true,
                _ => return None,
            },
            ms: fields.number("ms")?,
            seed: fields.number("seed")?,
        };
        fields.end()?;
        cell.is_possible().then_some(cell)
    }

    /// Are block, depth and queues within their limits?
    pub fn is_possible(&self) -> bool {
        self.block_bytes.is_multiple_of(SECTOR_BYTES)
            && (SECTOR_BYTES..=MAX_BLOCK_BYTES).contains(&self.block_bytes)
            && (1..=MAX_DEPTH).contains(&self.depth)
            && (1..=MAX_QUEUES).contains(&self.queues)
    }

    /// What it does, in fio's word: `randread`.
    pub fn rw(&self) -> &'static str {
        match (self.random, self.write) {
            (false, false) => "read",
            (false, true) => "write",
            (true, false) => "randread",
            (true, true) => "randwrite",
        }
    }

    /// How it waits: `poll` or `interrupt`.
    pub fn wait(&self) -> &'static str {
        if self.interrupt { "interrupt" } else { "poll" }
    }
}

/// The line that [`Cell::parse`] reads.
impl Display for Cell {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        let (rw, wait) = (self.rw(), self.wait());
        let Cell {
            block_bytes,
            depth,
            queues,
            ms,
            seed,
            ..
        } = self;
        write!(
            f,
            "cell rw={rw} block={block_bytes} depth={depth} queues={queues} wait={wait} ms={ms} \
             seed={seed}"
        )
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use std::string::ToString;

    const LINE: &str = "cell rw=randwrite block=4096 depth=32 queues=2 wait=poll ms=500 seed=7";

    #[test]
    fn a_cell_is_read_as_it_is_written() {
        let cell = Cell::parse(LINE).unwrap();
        assert!(cell.random && cell.write && !cell.interrupt);
        assert_eq!((cell.block_bytes, cell.depth, cell.queues), (4096, 32, 2));
        assert_eq!((cell.ms, cell.seed), (500, 7));
        assert_eq!(cell.to_string(), LINE);
        for rw in ["read", "write", "randread"] {
            let line = LINE.replace("randwrite", rw).replace("poll", "interrupt");
            assert_eq!(Cell::parse(&line).unwrap().to_string(), line);
        }
    }

    #[test]
    fn what_is_no_cell_is_not_read() {
        for (right, wrong) in [
            ("cell ", ""),
            ("randwrite", "trim"),
            ("4096", "4097"),
            ("4096", "0"),
            ("4096", "524288"),
            ("32", "0"),
            ("32", "129"),
            ("queues=2", "queues=0"),
            ("queues=2", "queues=17"),
            ("poll", "hope"),
            (" seed=7", ""),
            ("ms=500 seed=7", "seed=7 ms=500"),
            ("seed=7", "seed=7 more=1"),
        ] {
            assert_eq!(
                Cell::parse(&LINE.replacen(right, wrong, 1)),
                None,
                "{wrong}"
            );
        }
    }
}
