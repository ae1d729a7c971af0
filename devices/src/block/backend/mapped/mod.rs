//! Reading what is in the page cache without a system call: parts of the file are mapped, and a read is
//! a copy of memory, in a third of the time.
//!
//! A file is divided into [windows](window) of 2 MiB. A limited number of them is mapped at once,
//! however large the file is: window n has its place in slot n modulo that number, as in a cache of one
//! way. Which window gets a slot is decided by an [`election`]: reads vote, so what mapping costs stays
//! small against the reads that led to it.
//!
//! To touch a page that is not in the page cache is to wait for the disk, so a window is mapped only
//! while all of it is there. A page that the kernel takes away later keeps one reader waiting; after such
//! a read the window is looked at again. A mapping shows the file as it is: what is written or discarded
//! is seen at once, whoever does it. Pages that are cut off cannot be read; the rest of the file's last
//! page could, so the size of the file is asked for now and then.

mod copy;
mod election;
mod window;

use std::fs::File;
use std::sync::RwLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::image;
use crate::block::buffers::GuestBuffers;
use crate::ticks;
use copy::Copier;
use election::Election;
use window::{WINDOW, Window};

/// What takes longer may have waited for the disk.
const QUICK: u64 = ticks::roughly(Duration::from_micros(50));
/// For how long the file is taken to be as large as it was.
const FRESH: u64 = ticks::roughly(Duration::from_micros(50));

/// The windows of a file.
pub(super) struct Mapped {
    copier: Copier,
    slots: Box<[Slot]>,
    /// The file's size in bytes.
    size: AtomicU64,
    /// When that was asked for, in ticks.
    asked: AtomicU64,
}

/// Where one window of many is mapped.
#[derive(Default)]
struct Slot {
    /// Readers hold the lock while they copy.
    window: RwLock<Option<Window>>,
    election: Election,
}

impl Mapped {
    /// For `file` of `bytes` bytes, of which `most` may be mapped at once. Nothing is mapped yet. None if
    /// nothing ever can be: the system refuses it, does not say what is in the page cache, or `most` is
    /// less than a window.
    pub(super) fn new(file: &File, bytes: u64, most: u64) -> Option<Self> {
        let slots = bytes.div_ceil(WINDOW).min(most / WINDOW);
        if slots == 0 || !window::page_cache_is_visible(file) {
            return None;
        }
        Some(Mapped {
            copier: Copier::new()?,
            slots: (0..slots).map(|_| Slot::default()).collect(),
            size: AtomicU64::new(bytes),
            asked: AtomicU64::new(0),
        })
    }

    /// Fills all of `buffers` from byte `offset` of `file` on, if that lies in a window that is mapped.
    #[inline]
    pub(super) fn read(&self, file: &File, offset: u64, buffers: &GuestBuffers) -> bool {
        let (number, at) = (offset / WINDOW, offset % WINDOW);
        let slot = self.slot(number);
        // Who has it locked is about to map another window.
        let Ok(mapped) = slot.window.try_read() else {
            return false;
        };
        let window = mapped.as_ref().filter(|window| window.number() == number);
        let Some(window) = window.filter(|_| buffers.len() <= WINDOW - at) else {
            return false;
        };
        let start = ticks::now();
        if offset + buffers.len() > self.size(file, start) {
            return false;
        }
        let done = window.copy(self.copier, at, buffers);
        let long = ticks::end().saturating_sub(start) > QUICK;
        drop(mapped);
        if long || !done {
            slot.look_again(file);
        }
        done
    }

    /// `buffers` have been read from byte `offset` of `file` on by a system call, out of the page cache.
    #[inline]
    pub(super) fn vote(&self, file: &File, offset: u64, buffers: &GuestBuffers) {
        let (number, at) = (offset / WINDOW, offset % WINDOW);
        let slot = self.slot(number);
        if buffers.len() <= WINDOW - at && slot.election.vote(number) {
            slot.map(file, number);
        }
    }

    /// The file's size in bytes, as it was a moment ago.
    #[inline]
    fn size(&self, file: &File, now: u64) -> u64 {
        if now.saturating_sub(self.asked.load(Ordering::Relaxed)) > FRESH {
            self.size
                .store(image::size(file).unwrap_or(0), Ordering::Relaxed);
            self.asked.store(now, Ordering::Relaxed);
        }
        self.size.load(Ordering::Relaxed)
    }

    fn slot(&self, number: u64) -> &Slot {
        &self.slots[(number % self.slots.len() as u64) as usize]
    }
}

impl Slot {
    #[cold]
    fn map(&self, file: &File, number: u64) {
        // While somebody reads, it is not worth waiting for.
        if let Ok(mut mapped) = self.window.try_write() {
            *mapped = Window::map(file, number);
        }
    }

    /// A read failed, or took long: is the window still all there?
    #[cold]
    fn look_again(&self, file: &File) {
        if let Ok(mut mapped) = self.window.try_write() {
            mapped.take_if(|window| !window.is_all_there(file));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::FileExt;
    use std::sync::Arc;

    use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

    const SIZE: u64 = 2 * WINDOW + 8192;

    /// A file whose bytes tell where they are.
    fn file() -> File {
        let file = tempfile::tempfile().unwrap();
        let content: Vec<u8> = (0..SIZE).map(byte).collect();
        file.write_all_at(&content, 0).unwrap();
        file
    }

    fn byte(at: u64) -> u8 {
        (at % 251) as u8
    }

    /// Buffers of these lengths, one after the other with a byte between.
    fn buffers(lengths: &[u32]) -> (Arc<GuestMemoryMmap>, GuestBuffers) {
        let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 4 << 20)]).unwrap();
        let memory = Arc::new(memory);
        let mut buffers = GuestBuffers::new(Arc::clone(&memory));
        let mut at = 1;
        for &length in lengths {
            buffers.push(GuestAddress(at), length).unwrap();
            at += u64::from(length) + 1;
        }
        (memory, buffers)
    }

    /// Votes for the window at `offset` until it is mapped or has lost its first election.
    fn vote(mapped: &Mapped, file: &File, offset: u64) {
        let (_, buffers) = buffers(&[512]);
        for _ in 0..16 {
            assert!(!mapped.read(file, offset, &buffers));
            mapped.vote(file, offset, &buffers);
        }
    }

    #[test]
    fn what_is_mapped_is_read_to_the_byte() {
        let file = file();
        let mapped = Mapped::new(&file, SIZE, SIZE).unwrap();
        vote(&mapped, &file, WINDOW);
        let lengths = [512, 3, 4096, 1, 77, 8];
        let (memory, buffers) = buffers(&lengths);
        let offset = WINDOW + 1029;
        assert!(mapped.read(&file, offset, &buffers));
        let mut got = vec![0; 1 + lengths.len() + buffers.len() as usize];
        memory.read_slice(&mut got, GuestAddress(0)).unwrap();
        let mut wanted = vec![0];
        let mut at = offset;
        for length in lengths.map(u64::from) {
            wanted.extend((at..at + length).map(byte));
            wanted.push(0);
            at += length;
        }
        assert_eq!(got, wanted);
    }

    #[test]
    fn a_window_ends_where_it_ends() {
        let file = file();
        let mapped = Mapped::new(&file, SIZE, SIZE).unwrap();
        vote(&mapped, &file, 0);
        let (_, buffers) = buffers(&[4096]);
        assert!(mapped.read(&file, WINDOW - 4096, &buffers));
        assert!(!mapped.read(&file, WINDOW - 4095, &buffers));
        assert!(!mapped.read(&file, WINDOW, &buffers), "not mapped");
    }

    #[test]
    fn a_write_is_seen_at_once() {
        let file = file();
        let mapped = Mapped::new(&file, SIZE, SIZE).unwrap();
        vote(&mapped, &file, 2 * WINDOW);
        let (memory, buffers) = buffers(&[512]);
        for value in [7, 8, 9] {
            file.write_all_at(&[value; 512], 2 * WINDOW).unwrap();
            assert!(mapped.read(&file, 2 * WINDOW, &buffers));
            let mut read = [0; 512];
            memory.read_slice(&mut read, GuestAddress(1)).unwrap();
            assert_eq!(read, [value; 512]);
        }
    }

    #[test]
    fn what_the_file_has_lost_is_not_read() {
        let file = file();
        let mapped = Mapped::new(&file, SIZE, SIZE).unwrap();
        vote(&mapped, &file, WINDOW);
        let (_, buffers) = buffers(&[4096]);
        let cut = |size| {
            file.set_len(size).unwrap();
            // The size is not asked for at once.
            std::thread::sleep(Duration::from_millis(1));
        };
        cut(WINDOW + 4096);
        assert!(mapped.read(&file, WINDOW, &buffers));
        assert!(!mapped.read(&file, WINDOW + 4096, &buffers));
        cut(WINDOW + 4095);
        assert!(
            !mapped.read(&file, WINDOW, &buffers),
            "the last byte is missing"
        );
        cut(4096);
        assert!(!mapped.read(&file, WINDOW, &buffers));
    }

    #[test]
    fn to_touch_what_the_file_has_lost_is_not_the_end() {
        let file = file();
        let window = Window::map(&file, 0).unwrap();
        let copier = Copier::new().unwrap();
        let [first, both, bytes] = [&[4096][..], &[4096, 4096], &[7]].map(|lens| buffers(lens).1);
        file.set_len(4096).unwrap();
        for _ in 0..3 {
            assert!(window.copy(copier, 0, &first));
            assert!(!window.copy(copier, 0, &both));
            assert!(!window.copy(copier, 4096, &bytes));
        }
    }

    #[test]
    fn what_is_not_all_in_the_page_cache_is_not_mapped() {
        // A hole that nobody has looked at is nowhere.
        let file = tempfile::tempfile().unwrap();
        file.set_len(WINDOW).unwrap();
        let mapped = Mapped::new(&file, WINDOW, WINDOW).unwrap();
        vote(&mapped, &file, 0);
        assert!(!mapped.read(&file, 0, &buffers(&[512]).1));
        file.write_all_at(&vec![7; WINDOW as usize], 0).unwrap();
        assert!(Window::map(&file, 0).is_some());
    }

    #[test]
    fn two_windows_of_a_slot_are_told_apart() {
        let file = file();
        let mapped = Mapped::new(&file, SIZE, WINDOW).unwrap();
        assert_eq!(mapped.slots.len(), 1);
        vote(&mapped, &file, 0);
        let (memory, buffers) = buffers(&[512]);
        for _ in 0..1024 {
            assert!(!mapped.read(&file, WINDOW, &buffers));
            mapped.vote(&file, WINDOW, &buffers);
        }
        assert!(!mapped.read(&file, 0, &buffers), "replaced");
        assert!(mapped.read(&file, WINDOW, &buffers));
        assert_eq!(
            memory.read_obj::<u8>(GuestAddress(1)).unwrap(),
            byte(WINDOW)
        );
    }

    #[test]
    fn without_room_nothing_is_mapped() {
        let file = file();
        assert!(Mapped::new(&file, SIZE, 0).is_none());
        assert!(Mapped::new(&file, SIZE, WINDOW - 1).is_none());
    }
}
