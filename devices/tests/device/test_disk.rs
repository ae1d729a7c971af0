//! The disk of most tests.

use std::io;

use iolite_devices::block::backend::file::FileBackend;
use iolite_devices::block::backend::memory::MemoryBackend;
use iolite_devices::block::backend::{Backend, RawFile, Waits};
use iolite_devices::block::buffers::GuestBuffers;
use tempfile::NamedTempFile;

/// A disk whose contents can be looked at.
pub enum TestDisk {
    Memory(MemoryBackend),
    File(FileBackend, NamedTempFile),
}

impl TestDisk {
    pub fn memory(bytes: &[u8]) -> Self {
        TestDisk::Memory(MemoryBackend::writable(bytes).unwrap())
    }

    pub fn file(bytes: &[u8]) -> Self {
        let file = NamedTempFile::new().unwrap();
        std::fs::write(file.path(), bytes).unwrap();
        TestDisk::File(FileBackend::open(file.path(), false).unwrap(), file)
    }

    pub fn contents(&self) -> Vec<u8> {
        match self {
            TestDisk::Memory(memory) => memory.contents(),
            TestDisk::File(_, file) => std::fs::read(file.path()).unwrap(),
        }
    }

    fn backend(&self) -> &dyn Backend {
        match self {
            TestDisk::Memory(memory) => memory,
            TestDisk::File(file, _) => file,
        }
    }
}

impl Backend for TestDisk {
    fn capacity(&self) -> u64 {
        self.backend().capacity()
    }

    fn read_only(&self) -> bool {
        self.backend().read_only()
    }

    fn read(&self, offset: u64, buffers: &GuestBuffers) -> io::Result<()> {
        self.backend().read(offset, buffers)
    }

    fn write(&self, offset: u64, buffers: &GuestBuffers) -> io::Result<()> {
        self.backend().write(offset, buffers)
    }

    fn discard(&self, offset: u64, len: u64) -> io::Result<()> {
        self.backend().discard(offset, len)
    }

    fn write_zeroes(&self, offset: u64, len: u64, unmap: bool) -> io::Result<()> {
        self.backend().write_zeroes(offset, len, unmap)
    }

    fn flush(&self) -> io::Result<()> {
        self.backend().flush()
    }

    fn waits(&self) -> Waits {
        match self {
            TestDisk::Memory(_) => Waits::Never,
            // As if nothing of it were in the page cache.
            TestDisk::File(..) => Waits::Always,
        }
    }

    fn raw_file(&self) -> Option<RawFile<'_>> {
        self.backend().raw_file()
    }
}
