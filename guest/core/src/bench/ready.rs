//! What the disk is that is going to be measured.

use super::Cell;
use crate::fields::Fields;
use core::fmt::{Display, Formatter, Result};

/// What the guest has found, when it is ready to measure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ready {
    /// The disk's capacity.
    pub sectors: u64,
    /// Queues that are set up.
    pub queues: usize,
    /// Requests that fit in each.
    pub queue_depth: usize,
}

impl Ready {
    /// Reads a line of the guest's; None if it is not one.
    pub fn parse(line: &str) -> Option<Ready> {
        let mut fields = Fields::of(line, "bench: ready ")?;
        let ready = Ready {
            sectors: fields.number("sectors")?,
            queues: fields.number("queues")?.try_into().ok()?,
            queue_depth: fields.number("queue_depth")?.try_into().ok()?,
        };
        fields.end()?;
        Some(ready)
    }

    /// Is there room for all requests that a cell keeps in flight?
    pub fn has_room_for(&self, cell: &Cell) -> bool {
        cell.depth
            <= self
                .queue_depth
                .saturating_mul(cell.queues.min(self.queues))
    }
}

/// The line that [`Ready::parse`] reads.
impl Display for Ready {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        let Ready {
            sectors,
            queues,
            queue_depth,
        } = self;
        write!(
            f,
            "bench: ready sectors={sectors} queues={queues} queue_depth={queue_depth}"
        )
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use std::string::ToString;

    const LINE: &str = "bench: ready sectors=100 queues=2 queue_depth=16";

    #[test]
    fn it_is_read_as_it_is_written() {
        let ready = Ready::parse(LINE).unwrap();
        assert_eq!((ready.queues, ready.queue_depth), (2, 16));
        assert_eq!(ready.to_string(), LINE);
        for (right, wrong) in [
            ("bench: ", ""),
            ("queues=2 ", ""),
            ("=16", ""),
            ("=16", "=16 a=1"),
        ] {
            assert_eq!(Ready::parse(&LINE.replace(right, wrong)), None, "{wrong}");
        }
    }

    #[test]
    fn queues_that_are_not_there_have_no_room() {
        let ready = Ready::parse(LINE).unwrap();
        for (depth, queues, fits) in [(16, 1, true), (17, 1, false), (32, 2, true), (33, 4, false)]
        {
            let line = std::format!(
                "cell rw=read block=512 depth={depth} queues={queues} wait=poll ms=1 seed=1"
            );
            let cell = Cell::parse(&line).unwrap();
            assert_eq!(ready.has_room_for(&cell), fits, "{depth} by {queues}");
        }
    }
}
