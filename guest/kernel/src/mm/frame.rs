//! Frames: physical memory, a page at a time, counted by how many hold it.
//!
//! A frame is held by the page table or page cache that uses it, and once more for each request
//! that reads or writes it: what is in flight cannot be freed. Frames that were never used come
//! from a mark that only moves up, and are zero as the machine promises (docs/machine.md); those
//! given back form a stack threaded through the frames themselves. Nothing is set up for each
//! frame in advance.

#![allow(unsafe_code)]

use super::layout::{PAGE, PAGE_SHIFT, direct};
use crate::arch::user_access;
use crate::sync::CpuCell;
use arrayvec::ArrayVec;
use core::ops::Range;
use core::ptr;
use core::sync::atomic::{AtomicPtr, AtomicU32, Ordering};
use iolite_guest_abi::Errno;

/// A frame that its holder has counted. Copying the number does not count it again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame(u32);

impl Frame {
    /// The frame that a physical address lies in.
    #[inline(always)]
    pub const fn containing(physical: u64) -> Frame {
        Frame((physical >> PAGE_SHIFT) as u32)
    }

    /// Its physical address.
    #[inline(always)]
    pub const fn physical(self) -> u64 {
        (self.0 as u64) << PAGE_SHIFT
    }

    /// Where it is mapped for the kernel.
    #[inline(always)]
    pub const fn address(self) -> u64 {
        direct(self.physical())
    }
}

struct Frames {
    /// First frame that was never used, and the end of memory.
    unused: u32,
    end: u32,
    /// Top of the stack of frames given back; 0 when it is empty.
    returned: u32,
    free: u32,
    /// Adjacent frames that were given back together: the first, and how many.
    runs: ArrayVec<(u32, u32), MAX_RUNS>,
}

/// How many runs of adjacent frames are kept together; others join the stack frame by frame.
const MAX_RUNS: usize = 16;

// How many hold each frame, by its number: a table in the first frames of memory.
static HOLDERS: AtomicPtr<u16> = AtomicPtr::new(ptr::null_mut());
static COUNT: AtomicU32 = AtomicU32::new(0);

static FRAMES: CpuCell<Frames> = CpuCell::new(Frames {
    unused: 0,
    end: 0,
    returned: 0,
    free: 0,
    runs: ArrayVec::new_const(),
});

/// Takes over the RAM in `[start, end)`, physical addresses of which the kernel's image and
/// anything else in use lie below `start`. All of it must be mapped at the direct map by the time a
/// frame is asked for; [`early`] works before.
pub fn init(start: u64, end: u64) {
    let mut frames = FRAMES.borrow_mut();
    frames.unused = start.div_ceil(PAGE) as u32;
    frames.end = (end / PAGE) as u32;
}

/// A zeroed frame before the direct map exists, for the tables that make it. Never given back.
pub fn early() -> Frame {
    let mut frames = FRAMES.borrow_mut();
    let frame = Frame(frames.unused);
    assert!(
        frames.unused < frames.end,
        "no memory for the kernel's page tables"
    );
    frames.unused += 1;
    frame
}

/// Where the memory ends that [`init`] was given.
pub fn end_of_memory() -> u64 {
    u64::from(FRAMES.borrow().end) << PAGE_SHIFT
}

/// Sets the counts up, once the direct map exists.
pub fn start_counting() {
    let mut frames = FRAMES.borrow_mut();
    let table = Frame(frames.unused);
    let bytes = u64::from(frames.end) * size_of::<u16>() as u64;
    frames.unused += bytes.div_ceil(PAGE) as u32;
    frames.free = frames.end - frames.unused;
    COUNT.store(frames.end, Ordering::Relaxed);
    HOLDERS.store(table.address() as *mut u16, Ordering::Relaxed);
}

/// A frame with anything in it, held once.
#[inline]
pub fn alloc() -> Option<Frame> {
    let mut frames = FRAMES.borrow_mut();
    if frames.returned == 0
        && frames.unused == frames.end
        && let Some((first, count)) = frames.runs.pop()
    {
        frames.break_up(first, count);
    }
    let frame = if frames.returned != 0 {
        let frame = Frame(frames.returned);
        // SAFETY: a returned frame holds the number of the next one, and nobody else uses it.
        frames.returned = unsafe { *(frame.address() as *const u32) };
        frame
    } else {
        if frames.unused == frames.end {
            return None;
        }
        let frame = Frame(frames.unused);
        frames.unused += 1;
        frame
    };
    frames.free -= 1;
    *holders(frame) = 1;
    Some(frame)
}

/// A frame of zeroes, held once.
pub fn alloc_zeroed() -> Option<Frame> {
    let fresh = {
        let frames = FRAMES.borrow();
        frames.unused != frames.end
    };
    if fresh {
        return alloc_contiguous(1);
    }
    let frame = alloc()?;
    zero(frame, 0);
    Some(frame)
}

/// `count` adjacent frames of zeroes, each held once: a run that was given back, or memory that was
/// never used.
pub fn alloc_contiguous(count: u32) -> Option<Frame> {
    let mut frames = FRAMES.borrow_mut();
    if let Some(place) = frames.runs.iter().position(|run| run.1 == count) {
        let first = Frame(frames.runs.swap_remove(place).0);
        frames.free -= count;
        for i in 0..count {
            let frame = Frame(first.0 + i);
            zero(frame, 0);
            *holders(frame) = 1;
        }
        return Some(first);
    }
    if frames.end - frames.unused < count {
        return None;
    }
    let first = Frame(frames.unused);
    frames.unused += count;
    frames.free -= count;
    for i in 0..count {
        *holders(Frame(first.0 + i)) = 1;
    }
    Some(first)
}

/// Holds a frame once more.
#[inline(always)]
pub fn hold(frame: Frame) {
    *holders(frame) += 1;
}

/// Lets go of a frame; the last holder gives it back.
#[inline(always)]
pub fn release(frame: Frame) {
    let holders = holders(frame);
    *holders -= 1;
    if *holders == 0 {
        give_back(frame);
    }
}

/// Lets go of adjacent frames from [`alloc_contiguous`]: they stay together if nobody else holds one
/// of them.
pub fn release_contiguous(first: Frame, count: u32) {
    let each = || (first.0..first.0 + count).map(Frame);
    let together = each().all(|frame| *holders(frame) == 1);
    let mut frames = FRAMES.borrow_mut();
    if !together || frames.runs.is_full() {
        drop(frames);
        return each().for_each(release);
    }
    each().for_each(|frame| *holders(frame) = 0);
    frames.runs.push((first.0, count));
    frames.free += count;
}

fn give_back(frame: Frame) {
    let mut frames = FRAMES.borrow_mut();
    frames.stack(frame);
    frames.free += 1;
}

impl Frames {
    fn stack(&mut self, frame: Frame) {
        // SAFETY: nobody holds the frame any more.
        unsafe { *(frame.address() as *mut u32) = self.returned };
        self.returned = frame.0;
    }

    fn break_up(&mut self, first: u32, count: u32) {
        for number in first..first + count {
            self.stack(Frame(number));
        }
    }
}

/// How many hold a frame. The reference is used at once and not kept.
#[inline(always)]
fn holders<'a>(frame: Frame) -> &'a mut u16 {
    assert!(
        frame.0 < COUNT.load(Ordering::Relaxed),
        "not a frame that can be held"
    );
    // SAFETY: the table has an entry for each of the COUNT frames, only this module reaches it, and
    // each use of the reference ends before the next begins.
    unsafe { &mut *HOLDERS.load(Ordering::Relaxed).add(frame.0 as usize) }
}

/// Zeroes a frame from byte `from` on.
pub fn zero(frame: Frame, from: usize) {
    // SAFETY: the direct map covers the frame, and its holder asks for it.
    unsafe { ((frame.address() as usize + from) as *mut u8).write_bytes(0, PAGE as usize - from) };
}

/// Copies a frame.
pub fn copy(to: Frame, from: Frame) {
    // SAFETY: the direct map covers both, and they are different frames.
    unsafe {
        ptr::copy_nonoverlapping(
            from.address() as *const u64,
            to.address() as *mut u64,
            PAGE as usize / 8,
        );
    }
}

/// Copies `bytes` into a frame from byte `at` on.
pub fn write(frame: Frame, at: usize, bytes: &[u8]) {
    assert!(at + bytes.len() <= PAGE as usize);
    // SAFETY: the direct map covers the frame, its holder asks for it, and the range lies inside.
    unsafe {
        let to = (frame.address() as usize + at) as *mut u8;
        ptr::copy_nonoverlapping(bytes.as_ptr(), to, bytes.len());
    }
}

/// Copies the process's bytes at `from` into `range` of a frame.
pub fn write_from_user(frame: Frame, range: Range<usize>, from: u64) -> Result<(), Errno> {
    assert!(range.start <= range.end && range.end <= PAGE as usize);
    // SAFETY: the direct map covers the frame, its holder asks for it, and the range lies inside.
    let to = unsafe {
        let start = (frame.address() as usize + range.start) as *mut u8;
        core::slice::from_raw_parts_mut(start, range.len())
    };
    user_access::read(to, from)
}

/// The first `N` bytes of a frame, as they are now.
pub fn read<const N: usize>(frame: Frame) -> [u8; N] {
    const { assert!(N <= PAGE as usize) };
    // SAFETY: the direct map covers the frame, and bytes are copied out of it.
    unsafe { (frame.address() as *const [u8; N]).read_volatile() }
}

/// The bytes of a frame.
///
/// # Safety
/// The frame stays held, and nobody writes to it, while the slice lives.
pub unsafe fn bytes<'a>(frame: Frame) -> &'a [u8] {
    // SAFETY: the direct map covers the frame.
    unsafe { core::slice::from_raw_parts(frame.address() as *const u8, PAGE as usize) }
}

/// How many frames are free.
pub fn free_count() -> u64 {
    u64::from(FRAMES.borrow().free)
}
