//! A back end of your own: a mirror (RAID 1). Writes go to two back ends, reads are served by the first
//! that can.
//!
//! Everything a back end has to do is in `impl Backend for Mirror`; `main` shows that a mirror survives
//! the loss of one half. docs/backends.md says how a back end gets its place on the command line.

use std::io;
use std::sync::Arc;

use iolite_devices::block::backend::Backend;
use iolite_devices::block::backend::memory::MemoryBackend;
use iolite_devices::block::backend::null::NullBackend;
use iolite_devices::block::buffers::GuestBuffers;
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

struct Mirror([Box<dyn Backend>; 2]);

impl Mirror {
    /// Does the same to both halves; it has to work on both.
    fn both(&self, change: impl Fn(&dyn Backend) -> io::Result<()>) -> io::Result<()> {
        self.0.iter().try_for_each(|half| change(&**half))
    }
}

impl Backend for Mirror {
    fn capacity(&self) -> u64 {
        self.0[0].capacity().min(self.0[1].capacity())
    }

    fn read_only(&self) -> bool {
        self.0.iter().any(|half| half.read_only())
    }

    fn read(&self, offset: u64, buffers: &GuestBuffers) -> io::Result<()> {
        let [first, second] = &self.0;
        first
            .read(offset, buffers)
            .or_else(|_| second.read(offset, buffers))
    }

    fn write(&self, offset: u64, buffers: &GuestBuffers) -> io::Result<()> {
        self.both(|half| half.write(offset, buffers))
    }

    fn write_zeroes(&self, offset: u64, len: u64, unmap: bool) -> io::Result<()> {
        self.both(|half| half.write_zeroes(offset, len, unmap))
    }

    fn flush(&self) -> io::Result<()> {
        self.both(|half| half.flush())
    }
}

/// A disk that writes and cannot read.
struct Lost(NullBackend);

impl Backend for Lost {
    fn capacity(&self) -> u64 {
        self.0.capacity()
    }

    fn read_only(&self) -> bool {
        false
    }

    fn read(&self, _offset: u64, _buffers: &GuestBuffers) -> io::Result<()> {
        Err(io::Error::other("nothing was kept"))
    }

    fn write(&self, offset: u64, buffers: &GuestBuffers) -> io::Result<()> {
        self.0.write(offset, buffers)
    }

    fn write_zeroes(&self, offset: u64, len: u64, unmap: bool) -> io::Result<()> {
        self.0.write_zeroes(offset, len, unmap)
    }

    fn flush(&self) -> io::Result<()> {
        self.0.flush()
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let lost = Box::new(Lost(NullBackend::new(1 << 20)));
    let mirror = Mirror([lost, Box::new(MemoryBackend::zeroed(1 << 20)?)]);
    // A guest's memory, of which the first half is written and read back to the second.
    let memory = Arc::new(GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 8192)])?);
    memory.write_slice(&[7; 4096], GuestAddress(0))?;
    let mut halves = [0, 4096].map(|at| (GuestAddress(at), GuestBuffers::new(memory.clone())));
    for (at, buffers) in &mut halves {
        buffers.push(*at, 4096)?;
    }
    mirror.write(8192, &halves[0].1)?;
    mirror.read(8192, &halves[1].1)?;
    let mut read = [0; 4096];
    memory.read_slice(&mut read, GuestAddress(4096))?;
    if read != [7; 4096] {
        return Err("the mirror lost what was written".into());
    }
    println!("{} bytes came back", read.len());
    Ok(())
}

#[test]
fn a_lost_half_loses_nothing() {
    main().unwrap();
}
