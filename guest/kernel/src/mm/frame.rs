//! Frames: physical memory, a page at a time, counted by how many hold it.
//!
//! A frame is held by the page table or page cache that uses it, and once more for each request
//! that reads or writes it: what is in flight cannot be freed. Frames that were never used come
//! from a mark that only moves up, in one run of memory after the other, and are zero as the machine
//! promises (docs/machine.md); those given back form a stack threaded through the frames themselves.
//! Nothing is set up for each frame in advance: memory may be large, and ring 0 slow.

#![allow(unsafe_code)]

use super::layout::{PAGE, PAGE_SHIFT, direct};
use crate::arch::user_access;
use crate::boot::MAX_MEMORY_RUNS;
use crate::sync::CpuCell;
use arrayvec::ArrayVec;
use core::ops::Range;
use core::ptr::{self, NonNull};
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
    /// First frame that was never used, and the end of the run of memory that it lies in.
    unused: u32,
    end: u32,
    /// What was never used of the other runs.
    other: ArrayVec<Range<u32>, MAX_MEMORY_RUNS>,
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
    other: ArrayVec::new_const(),
    returned: 0,
    free: 0,
    runs: ArrayVec::new_const(),
});

/// Takes over the runs of RAM in `memory`, physical addresses, of which the kernel's image and
/// anything else in use lie below `image_end`. All of it must be mapped at the direct map by the time
/// a frame is asked for; [`early`] works before.
pub fn init(image_end: u64, memory: &[Range<u64>]) {
    let mut frames = FRAMES.borrow_mut();
    for run in memory {
        let (start, end) = (run.start.div_ceil(PAGE) as u32, (run.end / PAGE) as u32);
        if run.contains(&image_end) {
            frames.unused = image_end.div_ceil(PAGE) as u32;
            frames.end = end;
        } else if start < end {
            frames.other.push(start..end);
        }
    }
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

/// Sets the counts up, once the direct map exists.
pub fn start_counting() {
    let end = {
        let mut frames = FRAMES.borrow_mut();
        let (mut free, mut end) = (frames.end - frames.unused, frames.end);
        for run in &frames.other {
            free += run.end - run.start;
            end = end.max(run.end);
        }
        frames.free = free;
        end
    };
    let Some(table) = reserve::<u16>(end as usize) else {
        panic!("no memory to count who holds which frame");
    };
    COUNT.store(end, Ordering::Relaxed);
    HOLDERS.store(table.as_ptr(), Ordering::Relaxed);
    // Highest memory first: addresses of more than 32 bits are the rule where there are any.
    FRAMES.borrow_mut().turn_to(1);
}

/// Zeroed memory for `count` values, made of frames that are not counted and never given back: for
/// what is made once and has a size that depends on memory's.
pub fn reserve<T>(count: usize) -> Option<NonNull<T>> {
    const { assert!(align_of::<T>() <= PAGE as usize) };
    let pages = (count as u64)
        .checked_mul(size_of::<T>() as u64)?
        .div_ceil(PAGE);
    let mut frames = FRAMES.borrow_mut();
    let first = frames.take_unused(u32::try_from(pages).ok()?)?;
    NonNull::new(first.address() as *mut T)
}

/// A frame with anything in it, held once.
#[inline]
pub fn alloc() -> Option<Frame> {
    let mut frames = FRAMES.borrow_mut();
    if frames.returned == 0 && frames.unused == frames.end {
        frames.refill();
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
    let first = frames.take_unused(count)?;
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
    /// Adjacent frames that were never used.
    #[inline(always)]
    fn take_unused(&mut self, count: u32) -> Option<Frame> {
        if self.end - self.unused < count {
            self.turn_to(count)?;
        }
        let first = Frame(self.unused);
        self.unused += count;
        self.free -= count;
        Some(first)
    }

    /// Goes on in a run of memory where `count` frames were never used.
    #[cold]
    fn turn_to(&mut self, count: u32) -> Option<()> {
        let has_room = |run: &Range<u32>| run.end - run.start >= count;
        let place = self.other.iter().position(has_room)?;
        let run = core::mem::replace(&mut self.other[place], self.unused..self.end);
        (self.unused, self.end) = (run.start, run.end);
        Some(())
    }

    /// Finds frames for the stack or the mark, which have none left.
    #[cold]
    fn refill(&mut self) {
        if self.turn_to(1).is_none()
            && let Some((first, count)) = self.runs.pop()
        {
            self.break_up(first, count);
        }
    }

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
