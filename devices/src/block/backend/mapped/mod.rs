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
//! a read the window is looked at again. A mapping shows the file as it is on this host: what is written
//! is seen at once, on file systems where that is [so](coherent); others are not mapped. What is discarded is not read from a mapping any more: on tmpfs that would allocate
//! it again. Pages that are cut off cannot be read; the rest of the file's last page could, so the size
//! of the file is asked for now and then.

mod coherent;
mod election;
mod window;

use std::fs::File;
use std::sync::{PoisonError, RwLock};
use std::time::Duration;

use super::end::End;
use super::now::is_small;
use crate::block::buffers::GuestBuffers;
use crate::bus_error::Copier;
use crate::ticks;
use election::Election;
use window::{WINDOW, Window};

#[cfg(test)]
pub(super) use window::mapped_bytes;

/// What takes longer may have waited for the disk.
const QUICK: u64 = ticks::roughly(Duration::from_micros(50));
/// As many slots as this, if they may be, leave some for a file that grows.
const FEWEST_SLOTS: u64 = 32;

/// The windows of a file.
pub(super) struct Mapped {
    copier: Copier,
    slots: Box<[Slot]>,
    end: End,
}

/// Where one window of many is mapped; away from others, which other threads lock.
#[derive(Default)]
#[repr(align(64))]
struct Slot {
    /// Readers hold the lock while they copy.
    window: RwLock<Option<Window>>,
    election: Election,
}

impl Mapped {
    /// For `file` of `bytes` bytes, of which `most` may be mapped at once. Nothing is mapped yet. None if
    /// nothing ever can be: the system refuses it, does not say what is in the page cache, a mapping may
    /// show old bytes, or `most` is less than a window.
    pub(super) fn new(file: &File, bytes: u64, most: u64) -> Option<Self> {
        let most = (most / WINDOW).checked_ilog2()?;
        if !coherent::is_coherent(file) || !window::page_cache_is_visible(file) {
            return None;
        }
        let slots = bytes.div_ceil(WINDOW).max(FEWEST_SLOTS);
        let slots = slots.next_power_of_two().min(1 << most);
        Some(Mapped {
            copier: Copier::new()?,
            slots: (0..slots).map(|_| Slot::default()).collect(),
            end: End::new(bytes),
        })
    }

    /// Fills all of `buffers` from byte `offset` of `file` on, if that lies in a window that is mapped,
    /// and is not much.
    #[inline]
    pub(super) fn read(&self, file: &File, offset: u64, buffers: &GuestBuffers) -> bool {
        let Some((number, at)) = place(offset, buffers) else {
            return false;
        };
        let slot = self.slot(number);
        // Who has it locked is about to map another window.
        let Ok(mapped) = slot.window.try_read() else {
            return false;
        };
        let Some(window) = mapped.as_ref().filter(|window| window.number() == number) else {
            return false;
        };
        let start = ticks::now();
        if offset + buffers.len() > self.end.size(file, start) {
            return false;
        }
        let done = window.copy(self.copier, at, buffers);
        drop(mapped);
        let end = if done { ticks::end() } else { ticks::now() };
        if done {
            slot.election.oppose();
        }
        if !done || end.saturating_sub(start) > QUICK {
            slot.look_again(file);
        }
        done
    }

    /// `buffers` have been read from byte `offset` of `file` on by a system call, out of the page cache.
    #[inline]
    pub(super) fn vote(&self, file: &File, offset: u64, buffers: &GuestBuffers) {
        let Some((number, _)) = place(offset, buffers) else {
            return;
        };
        let slot = self.slot(number);
        if slot.election.vote(number) {
            slot.map(file, number);
        }
    }

    /// The `len` bytes from `offset` on have been discarded: what is mapped of them is not any more. May
    /// wait for those who read it.
    pub(super) fn forget(&self, offset: u64, len: u64) {
        let Some(last) = len.checked_sub(1).map(|len| (offset + len) / WINDOW) else {
            return;
        };
        let forgotten = offset / WINDOW..=last;
        for slot in &self.slots {
            let mut mapped = slot.window.write().unwrap_or_else(PoisonError::into_inner);
            mapped.take_if(|window| forgotten.contains(&window.number()));
        }
    }

    fn slot(&self, number: u64) -> &Slot {
        // Their number is a power of two.
        &self.slots[number as usize & (self.slots.len() - 1)]
    }
}

/// The window that these bytes lie in, and where in it, if they do and are not too many to keep others
/// waiting.
#[inline]
fn place(offset: u64, buffers: &GuestBuffers) -> Option<(u64, u64)> {
    let (number, at) = (offset / WINDOW, offset % WINDOW);
    (is_small(buffers) && buffers.len() <= WINDOW - at).then_some((number, at))
}

impl Slot {
    #[cold]
    fn map(&self, file: &File, number: u64) {
        // While somebody reads, it is not worth waiting for. What cannot be mapped replaces nothing.
        if let Some(window) = Window::map(file, number)
            && let Ok(mut mapped) = self.window.try_write()
        {
            *mapped = Some(window);
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
        assert!(
            !mapped.read(&file, 0, &self::buffers(&[1 << 20]).1),
            "too much"
        );
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
    fn what_is_discarded_is_not_mapped_any_more() {
        let file = file();
        let mapped = Mapped::new(&file, SIZE, SIZE).unwrap();
        vote(&mapped, &file, 0);
        vote(&mapped, &file, WINDOW);
        let (_, buffers) = buffers(&[512]);
        mapped.forget(WINDOW, 0);
        assert!(mapped.read(&file, WINDOW, &buffers));
        mapped.forget(WINDOW - 1, 1);
        assert!(!mapped.read(&file, 0, &buffers));
        assert!(mapped.read(&file, WINDOW, &buffers));
        assert_eq!(mapped_bytes(&file), WINDOW);
        mapped.forget(0, SIZE);
        assert!(!mapped.read(&file, WINDOW, &buffers));
        assert_eq!(mapped_bytes(&file), 0);
    }

    #[test]
    fn who_cannot_be_mapped_replaces_nobody() {
        let file = file();
        let mapped = Mapped::new(&file, SIZE, WINDOW).unwrap();
        vote(&mapped, &file, 0);
        // A hole that nobody has looked at.
        file.set_len(3 * WINDOW).unwrap();
        let (_, buffers) = buffers(&[512]);
        for _ in 0..3000 {
            mapped.vote(&file, 2 * WINDOW, &buffers);
        }
        assert!(mapped.read(&file, 0, &buffers));
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
        assert_eq!(mapped_bytes(&file), WINDOW, "who was replaced is mapped");
        assert!(mapped.read(&file, WINDOW, &buffers));
        assert_eq!(
            memory.read_obj::<u8>(GuestAddress(1)).unwrap(),
            byte(WINDOW)
        );
    }

    #[test]
    fn what_is_not_all_there_any_more_is_let_go() {
        let file = file();
        let mapped = Mapped::new(&file, SIZE, SIZE).unwrap();
        vote(&mapped, &file, 0);
        vote(&mapped, &file, WINDOW);
        assert_eq!(mapped_bytes(&file), 2 * WINDOW);
        // Behind the back of the size that is remembered.
        file.set_len(4096).unwrap();
        mapped.slot(1).look_again(&file);
        assert_eq!(mapped_bytes(&file), WINDOW);
        drop(mapped);
        assert_eq!(mapped_bytes(&file), 0);
    }

    #[test]
    fn without_room_nothing_is_mapped() {
        let file = file();
        assert!(Mapped::new(&file, SIZE, 0).is_none());
        assert!(Mapped::new(&file, SIZE, WINDOW - 1).is_none());
    }
}
