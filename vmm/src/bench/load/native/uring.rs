//! io_uring: one thread that keeps all requests of a cell in flight, in one ring.

#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::time::Instant;

use io_uring::{IoUring, opcode, types};
use iolite_guest_core::bench::{Cell, MAX_DEPTH, Places, holds, stamp_block};

use super::blocks::Blocks;
use super::stopwatch::Stopwatch;
use super::{open, own_cpu_ns, wrong_content};
use crate::bench::load::subject::{Load, Sample};
use crate::error::Error;

/// Of how many reads one is looked at.
const LOOK_EVERY: u64 = 16;

/// The image and a ring.
pub struct Uring {
    file: File,
    bytes: u64,
    ring: IoUring,
}

/// A request in flight.
#[derive(Clone, Copy)]
struct Request {
    offset: u64,
    asked: Instant,
}

impl Uring {
    /// Opens the image, and makes a ring.
    ///
    /// # Errors
    /// [`Error::Host`].
    pub fn new(path: &Path, bytes: u64, direct: bool) -> Result<Self, Error> {
        let what = "cannot use io_uring (is kernel.io_uring_disabled set?)";
        Ok(Uring {
            file: open(path, direct)?,
            bytes,
            ring: IoUring::new(MAX_DEPTH as u32).map_err(Error::host(what))?,
        })
    }

    fn run(&mut self, cell: &Cell) -> Result<(Stopwatch, u64), Error> {
        let too_small = || Error::Bench("host: not one block fits".into());
        let mut places = Places::new(cell, self.bytes).ok_or_else(too_small)?;
        let mut blocks = Blocks::new(cell, cell.depth);
        let mut requests = Vec::with_capacity(cell.depth);
        let mut stopwatch = Stopwatch::start(cell)?;
        let mut verified = 0;
        let mut done = Vec::with_capacity(cell.depth);
        // An error ends this only when nothing is in flight that uses the blocks.
        let (mut in_flight, mut failed) = (0, None);
        for index in 0..cell.depth {
            match self.submit(cell, &mut blocks, index, places.next_offset()) {
                Ok(request) => requests.push(request),
                Err(error) => {
                    failed = Some(error);
                    break;
                }
            }
            in_flight += 1;
        }
        while in_flight > 0 {
            match self.ring.submit_and_wait(1) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                // Without a ring there is no way to know when the blocks are free again.
                Err(error) => {
                    std::mem::forget(blocks);
                    return Err(Error::host("host: io_uring_enter failed")(error));
                }
            }
            done.extend(
                self.ring
                    .completion()
                    .map(|it| (it.user_data(), it.result())),
            );
            for (index, result) in done.drain(..) {
                let index = index as usize;
                let Request { offset, asked } = requests[index];
                let go_on = stopwatch.completed(asked);
                in_flight -= 1;
                if result != cell.block_bytes as i32 {
                    let error = io::Error::from_raw_os_error(-result.min(0));
                    failed = Some(Error::host("host: a request failed")(error));
                } else if !cell.write && stopwatch.completed.is_multiple_of(LOOK_EVERY) {
                    verified += 1;
                    if !holds(blocks.get(index), offset, None) {
                        failed = Some(wrong_content(offset));
                    }
                }
                if go_on && failed.is_none() {
                    let offset = places.next_offset();
                    match self.submit(cell, &mut blocks, index, offset) {
                        Ok(request) => {
                            requests[index] = request;
                            in_flight += 1;
                        }
                        Err(error) => failed = Some(error),
                    }
                }
            }
        }
        match failed {
            Some(error) => Err(error),
            None if cell.write => {
                let verified = self.read_back(cell, &mut blocks, &requests)?;
                Ok((stopwatch, verified))
            }
            None => Ok((stopwatch, verified)),
        }
    }

    fn submit(
        &mut self,
        cell: &Cell,
        blocks: &mut Blocks,
        index: usize,
        offset: u64,
    ) -> Result<Request, Error> {
        let block = blocks.get(index);
        if cell.write {
            stamp_block(block, offset, cell.seed);
        }
        let fd = types::Fd(self.file.as_raw_fd());
        let (pointer, len) = (block.as_mut_ptr(), block.len() as u32);
        let entry = if cell.write {
            opcode::Write::new(fd, pointer, len).offset(offset).build()
        } else {
            opcode::Read::new(fd, pointer, len).offset(offset).build()
        };
        // SAFETY: the file is open as long as the ring, and `run` keeps the block alive and alone
        // until this request has completed.
        let pushed = unsafe { self.ring.submission().push(&entry.user_data(index as u64)) };
        pushed.map_err(|error| Error::Bench(format!("host: {error}")))?;
        Ok(Request {
            offset,
            asked: Instant::now(),
        })
    }

    /// Looks at what each place has written last; gives how many there are.
    fn read_back(
        &self,
        cell: &Cell,
        blocks: &mut Blocks,
        requests: &[Request],
    ) -> Result<u64, Error> {
        use std::os::unix::fs::FileExt;
        for (index, request) in requests.iter().enumerate() {
            let block = blocks.get(index);
            block.fill(0);
            self.file
                .read_exact_at(block, request.offset)
                .map_err(Error::host("host: a request failed"))?;
            if !holds(block, request.offset, Some(cell.seed)) {
                return Err(wrong_content(request.offset));
            }
        }
        Ok(requests.len() as u64)
    }
}

impl Load for Uring {
    fn measure(&mut self, cell: &Cell) -> Result<Sample, Error> {
        let before = own_cpu_ns();
        let (stopwatch, verified) = self.run(cell)?;
        Ok(Sample {
            measured: stopwatch.result(verified),
            cpu_ns: own_cpu_ns() - before,
        })
    }

    fn finish(self: Box<Self>) -> Result<(), Error> {
        Ok(())
    }
}
