//! A disk beside the one that is measured: as many random reads of 4 KiB in flight as make it busy, and
//! the next one as soon as one completes. What it brings is looked at, and when is nobody's business.

use crate::blocks::Blocks;
use crate::failure::{Failure, Result};
use iolite_user::core_logic::bench::{Cell, Places, SECTOR_BYTES};
use iolite_user::driver::{Done, Operation, Outcome};
use iolite_user::{DrivenDisk, Errno, Pollable};

/// Requests in flight.
const DEPTH: usize = 32;
const BLOCK_BYTES: usize = 4096;
const CELL: Cell = Cell {
    random: true,
    write: false,
    block_bytes: BLOCK_BYTES,
    depth: DEPTH,
    queues: 1,
    interrupt: false,
    ms: 0,
    seed: 0,
};

/// The disk, and what is in flight.
pub struct Neighbour {
    disk: DrivenDisk,
    blocks: Blocks,
    places: Places,
    offsets: [u64; DEPTH],
    /// Requests have been submitted for the first time.
    busy: bool,
    completed: u64,
}

impl Neighbour {
    /// Makes `disk` a neighbour; nothing is in flight before [`Neighbour::start`].
    ///
    /// # Errors
    ///
    /// The disk is too small or too slow, or there is no memory.
    pub fn new(disk: DrivenDisk) -> Result<Neighbour> {
        let info = disk.driver.info();
        let bytes = info.sectors * SECTOR_BYTES as u64;
        let places = Places::new(&CELL, bytes).ok_or(Errno::EINVAL)?;
        if usize::from(info.max_in_flight) < DEPTH {
            return Err(Errno::EINVAL.into());
        }
        let mut blocks = Blocks::default();
        blocks.prepare(&disk, &CELL)?;
        Ok(Neighbour {
            disk,
            blocks,
            places,
            offsets: [0; DEPTH],
            busy: false,
            completed: 0,
        })
    }

    /// Keeps it busy from now on, and counts anew: [`Neighbour::turn`] is called now and then, and,
    /// if interrupts are wanted, [`Neighbour::woken`] after each wait.
    ///
    /// # Errors
    ///
    /// As [`Neighbour::turn`].
    pub fn start(&mut self, interrupt: bool) -> Result<()> {
        self.completed = 0;
        self.disk.driver.queue(0).set_interrupts(interrupt);
        if !self.busy {
            for index in 0..DEPTH {
                self.submit(index)?;
            }
            self.busy = true;
        }
        self.disk.driver.notify();
        self.turn()
    }

    /// How many requests have completed since then.
    pub fn completed(&self) -> u64 {
        self.completed
    }

    /// What to wait for.
    pub fn pollable(&self) -> &dyn Pollable {
        &self.disk
    }

    /// Replaces what has completed.
    ///
    /// # Errors
    ///
    /// [`Failure`] if it is not as it should be.
    #[inline(always)]
    pub fn turn(&mut self) -> Result<()> {
        match self.disk.driver.queue(0).poll() {
            None => Ok(()),
            Some(done) => self.replace(done),
        }
    }

    /// The same after a wait for interrupts, of which one may have been this disk's; asks for the next.
    ///
    /// # Errors
    ///
    /// As [`Neighbour::turn`].
    pub fn woken(&mut self, interrupted: bool) -> Result<()> {
        if interrupted {
            self.disk.driver.acknowledge();
        }
        while let Some(done) = self.disk.driver.harvest() {
            self.replace(done)?;
        }
        Ok(())
    }

    #[cold]
    fn replace(&mut self, first: Done) -> Result<()> {
        let mut next = Some(first);
        while let Some(done) = next {
            let index = done.cookie as usize;
            let offset = self.offsets[index];
            if done.outcome != Outcome::Ok {
                return Err(Failure::Request(offset));
            }
            if !self.blocks.holds(index, offset, None) {
                return Err(Failure::Content(offset));
            }
            self.completed += 1;
            self.submit(index)?;
            next = self.disk.driver.queue(0).poll();
        }
        self.disk.driver.notify();
        Ok(())
    }

    fn submit(&mut self, index: usize) -> Result<()> {
        let offset = self.places.next_offset();
        self.offsets[index] = offset;
        let sector = offset / SECTOR_BYTES as u64;
        let segment = self.blocks.segment(index);
        let read = Operation::Read { sector };
        let submitted = self.disk.driver.submit(read, &[segment], index as u32);
        // There is room: the queue holds as many.
        submitted.map_err(|_| Failure::Refused(Errno::EAGAIN))
    }
}
