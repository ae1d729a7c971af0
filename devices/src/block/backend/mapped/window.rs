//! A window of a file: 2 MiB of it, in memory.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::ptr::{self, NonNull};

use crate::block::backend::image;
use crate::block::buffers::GuestBuffers;
use crate::bus_error::Copier;

/// Bytes of a window.
pub(super) const WINDOW: u64 = 2 << 20;
/// Bytes of a page.
const PAGE: usize = 4096;

/// A mapped window of a file. What lies behind the file's end is mapped too, and cannot be read.
pub(super) struct Window {
    number: u64,
    mapping: Mapping,
}

impl Window {
    /// Maps window `number` of `file`, if all of it is in the page cache.
    pub(super) fn map(file: &File, number: u64) -> Option<Window> {
        let mapping = Mapping::new(file, number * WINDOW, WINDOW as usize).ok()?;
        let window = Window { number, mapping };
        window.is_all_there(file).then(|| {
            window.mapping.populate();
            window
        })
    }

    /// Which one it is: this times [`WINDOW`] is its first byte.
    pub(super) fn number(&self) -> u64 {
        self.number
    }

    /// Whether all of it is in the page cache.
    pub(super) fn is_all_there(&self, file: &File) -> bool {
        let size = image::known_size(file).unwrap_or(u64::MAX);
        let bytes = size.saturating_sub(self.number * WINDOW).min(WINDOW) as usize;
        let mut pages = [false; WINDOW as usize / PAGE];
        let known = self.mapping.page_cache(&mut pages).is_ok();
        let there = &pages[..bytes.div_ceil(PAGE)];
        known && !there.is_empty() && there.iter().all(|there| *there)
    }

    /// Fills `buffers` from byte `at` of the window on. False if not every byte could be read.
    #[inline]
    pub(super) fn copy(&self, copier: Copier, at: u64, buffers: &GuestBuffers) -> bool {
        let mut at = at;
        buffers.slices().all(|slice| {
            let end = at + slice.len() as u64;
            // SAFETY: inside the mapping.
            let done = end <= WINDOW
                && unsafe { copier.copy(&slice, self.mapping.start.as_ptr().add(at as usize)) };
            at = end;
            done
        })
    }
}

/// Whether the system says what of `file` is in the page cache. It does not to those who may neither
/// write to the file nor own it: for them, all of any file is, even what lies far behind its end.
pub(super) fn page_cache_is_visible(file: &File) -> bool {
    let behind = || {
        const FAR: u64 = 1 << 30;
        let far = image::size(file)?.next_multiple_of(FAR) + FAR;
        let mut pages = [true];
        Mapping::new(file, far, PAGE)?.page_cache(&mut pages)?;
        io::Result::Ok(pages[0])
    };
    matches!(behind(), Ok(false))
}

/// How many bytes of `file` are mapped in this process.
#[cfg(test)]
pub(in crate::block::backend) fn mapped_bytes(file: &File) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let number = file.metadata().unwrap().ino().to_string();
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let bytes = |line: &str| {
        let mut fields = line.split_whitespace();
        let (start, end) = fields.next()?.split_once('-')?;
        let address = |digits| u64::from_str_radix(digits, 16).ok();
        (fields.nth(3)? == number).then_some(address(end)? - address(start)?)
    };
    maps.lines().filter_map(bytes).sum()
}

/// A part of a file in memory, to be read.
struct Mapping {
    start: NonNull<u8>,
    bytes: usize,
}

// SAFETY: memory that nobody writes to through this is the same for all threads.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Mapping {
    fn new(file: &File, offset: u64, bytes: usize) -> io::Result<Mapping> {
        let offset = libc::off_t::try_from(offset).map_err(|_| io::ErrorKind::InvalidInput)?;
        let (fd, read, shared) = (file.as_raw_fd(), libc::PROT_READ, libc::MAP_SHARED);
        // SAFETY: a new mapping, at addresses that nobody uses.
        let start = unsafe { libc::mmap(ptr::null_mut(), bytes, read, shared, fd, offset) };
        match NonNull::new(start.cast()) {
            Some(mapped) if start != libc::MAP_FAILED => Ok(Mapping {
                start: mapped,
                bytes,
            }),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// Finds all pages now, not when each is touched for the first time.
    fn populate(&self) {
        // Kernels before 5.14 refuse it; then each is found when it is touched.
        // SAFETY: it changes the page tables of this mapping and nothing else.
        unsafe {
            libc::madvise(
                self.start.as_ptr().cast(),
                self.bytes,
                libc::MADV_POPULATE_READ,
            )
        };
    }

    /// Which of the pages are in the page cache.
    fn page_cache(&self, pages: &mut [bool]) -> io::Result<()> {
        let mut there = vec![0; self.bytes.div_ceil(PAGE)];
        // SAFETY: there is a byte for each page of the mapping.
        let done =
            unsafe { libc::mincore(self.start.as_ptr().cast(), self.bytes, there.as_mut_ptr()) };
        if done != 0 {
            return Err(io::Error::last_os_error());
        }
        for (page, there) in pages.iter_mut().zip(there) {
            *page = there & 1 != 0;
        }
        Ok(())
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: it is ours, and nobody reads from it any more.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.bytes) };
    }
}
