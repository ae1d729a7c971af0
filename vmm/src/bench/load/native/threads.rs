//! Threads that do one request after the other: by preadv and pwritev, as many as there are requests in
//! flight; or by copying from and to a mapping of the image, one of them.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::thread;
use std::time::Instant;

use iolite_guest_core::bench::{Cell, Places, holds, stamp_block};
use vm_memory::{FileOffset, MmapRegion, VolatileMemory, VolatileSlice};

use super::blocks::Blocks;
use super::stopwatch::Stopwatch;
use super::{open, own_cpu_ns, wrong_content};
use crate::bench::load::subject::{Load, Sample};
use crate::error::Error;

/// Of how many reads one is looked at.
const LOOK_EVERY: u64 = 16;

/// The image, to be read and written by threads.
pub struct Threads {
    image: Image,
    bytes: u64,
}

/// How they get at it.
enum Image {
    File(File),
    Mapping(MmapRegion),
}

impl Threads {
    /// A thread for each request in flight.
    ///
    /// # Errors
    /// [`Error::Host`].
    pub fn calling(path: &Path, bytes: u64, direct: bool) -> Result<Self, Error> {
        let image = Image::File(open(path, direct)?);
        Ok(Threads { image, bytes })
    }

    /// One thread, and a mapping.
    ///
    /// # Errors
    /// [`Error::Host`].
    pub fn copying(path: &Path, bytes: u64) -> Result<Self, Error> {
        let file = FileOffset::new(open(path, false)?, 0);
        let mapping = MmapRegion::from_file(file, bytes as usize)
            .map_err(|error| Error::host("cannot map the disk")(io::Error::other(error)))?;
        let image = Image::Mapping(mapping);
        Ok(Threads { image, bytes })
    }

    /// What one thread does; gives what it measured, and how many requests it has looked at.
    fn work(&self, cell: &Cell, number: u64) -> Result<(Stopwatch, u64), Error> {
        let cell = &Cell {
            seed: cell.seed ^ number << 32,
            ..*cell
        };
        let too_small = || Error::Bench("host: not one block fits".into());
        let mut places = Places::new(cell, self.bytes).ok_or_else(too_small)?;
        let mut blocks = Blocks::new(cell, 1);
        let block = blocks.get(0);
        let mut stopwatch = Stopwatch::start(cell)?;
        let mut verified = 0;
        loop {
            let offset = places.next_offset();
            if cell.write {
                stamp_block(block, offset, cell.seed);
            }
            let asked = Instant::now();
            let done = match cell.write {
                true => self.image.write(block, offset),
                false => self.image.read(block, offset),
            };
            done.map_err(Error::host("host: a request failed"))?;
            let go_on = stopwatch.completed(asked);
            if !cell.write && stopwatch.completed.is_multiple_of(LOOK_EVERY) || !go_on {
                if cell.write {
                    block.fill(0);
                    self.image
                        .read(block, offset)
                        .map_err(Error::host("host: a request failed"))?;
                }
                // What another thread wrote to the same place may have come after it.
                if !holds(block, offset, None) {
                    return Err(wrong_content(offset));
                }
                verified += 1;
            }
            if !go_on {
                return Ok((stopwatch, verified));
            }
        }
    }

    fn threads(&self, cell: &Cell) -> u64 {
        match self.image {
            Image::File(_) => cell.depth as u64,
            Image::Mapping(_) => 1,
        }
    }
}

impl Image {
    fn read(&self, block: &mut [u8], offset: u64) -> io::Result<()> {
        match self {
            Image::File(file) => file.read_exact_at(block, offset),
            Image::Mapping(mapping) => {
                part(mapping, offset, block.len())?.copy_to(block);
                Ok(())
            }
        }
    }

    fn write(&self, block: &[u8], offset: u64) -> io::Result<()> {
        match self {
            Image::File(file) => file.write_all_at(block, offset),
            Image::Mapping(mapping) => {
                part(mapping, offset, block.len())?.copy_from(block);
                Ok(())
            }
        }
    }
}

fn part(mapping: &MmapRegion, offset: u64, bytes: usize) -> io::Result<VolatileSlice<'_>> {
    let part = mapping.get_slice(offset as usize, bytes);
    part.map_err(io::Error::other)
}

impl Load for Threads {
    fn measure(&mut self, cell: &Cell) -> Result<Sample, Error> {
        let before = own_cpu_ns();
        let this = &*self;
        let results: Vec<_> = thread::scope(|scope| {
            let threads: Vec<_> = (0..this.threads(cell))
                .map(|number| scope.spawn(move || this.work(cell, number)))
                .collect();
            threads.into_iter().map(|thread| thread.join()).collect()
        });
        let cpu_ns = own_cpu_ns() - before;
        let mut all: Option<(Stopwatch, u64)> = None;
        for result in results {
            let panicked = || Error::Bench("host: a thread panicked".into());
            let (stopwatch, verified) = result.map_err(|_| panicked())??;
            match &mut all {
                Some((sum, looked)) => {
                    sum.add(&stopwatch);
                    *looked += verified;
                }
                None => all = Some((stopwatch, verified)),
            }
        }
        let nothing = || Error::Bench("host: nothing was measured".into());
        let (sum, verified) = all.ok_or_else(nothing)?;
        Ok(Sample {
            measured: sum.result(verified),
            cpu_ns,
        })
    }

    fn finish(self: Box<Self>) -> Result<(), Error> {
        Ok(())
    }
}
