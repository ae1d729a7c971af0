//! Page tables: four levels (Intel SDM volume 3, section 4.5), reached through the direct map.
//!
//! The kernel's half is made once: every address space shares its lower tables, so a mapping made
//! there is seen by all.

#![allow(unsafe_code)]

use super::frame::{self, Frame};
use super::layout::{
    DEVICE_REGISTERS, DIRECT_MAP, KERNEL_BASE, KERNEL_STACKS, PAGE, PAGE_SHIFT, direct,
    kernel_to_physical,
};
use crate::arch::cpu;
use core::ops::Range;
use core::sync::atomic::{AtomicU64, Ordering};

/// The page is there.
pub const PRESENT: u64 = 1;
/// It can be written.
pub const WRITABLE: u64 = 1 << 1;
/// Ring 3 can reach it.
pub const USER: u64 = 1 << 2;
/// It is not cached: device registers.
pub const UNCACHED: u64 = 3 << 3;
/// What is there is no frame: registers, or memory that the VMM reads. A bit for software.
pub const FOREIGN: u64 = 1 << 9;
/// It has been used.
pub const ACCESSED: u64 = 1 << 5;
const HUGE: u64 = 1 << 7;
/// It cannot be executed.
pub const NO_EXECUTE: u64 = 1 << 63;

/// The bits of an entry that are an address.
pub const ADDRESS: u64 = 0x000f_ffff_ffff_f000;
const ENTRIES: usize = 512;
const HUGE_PAGE: u64 = 2 << 20;

static KERNEL_ROOT: AtomicU64 = AtomicU64::new(0);

/// The last walk's [`Root::walk_key`] and the table it led to. Tables go away only in
/// [`Root::free`].
static LAST_WALK: AtomicU64 = AtomicU64::new(0);
static LAST_TABLE: AtomicU64 = AtomicU64::new(0);

/// A page table entry in place.
#[derive(Clone, Copy)]
pub struct Entry(*mut u64);

impl Entry {
    /// Its value.
    #[inline(always)]
    pub fn get(self) -> u64 {
        // SAFETY: an `Entry` is made only for an entry of a table that is alive.
        unsafe { self.0.read_volatile() }
    }

    /// Changes it. The caller forgets the old translation if there was one.
    #[inline(always)]
    pub fn set(self, value: u64) {
        // SAFETY: as above; a user mapping cannot reach kernel memory unless `value` names it,
        // which callers rule out.
        unsafe { self.0.write_volatile(value) };
    }

    /// How many entries follow that of the page at `address`, which is this one, in its table.
    #[inline(always)]
    pub fn after(address: u64) -> u64 {
        (HUGE_PAGE - 1 - address % HUGE_PAGE) / PAGE
    }

    /// The entry of the next page, which the same table holds.
    #[inline(always)]
    pub fn following(self) -> Entry {
        Entry(self.0.wrapping_add(1))
    }

    /// The entry of the page after this one's, at `address`, if the same table holds it.
    #[inline(always)]
    pub fn next(self, address: u64) -> Option<Entry> {
        (!address.is_multiple_of(HUGE_PAGE)).then(|| Entry(self.0.wrapping_add(1)))
    }

    /// The frame it maps, if any.
    #[inline(always)]
    pub fn frame(self) -> Option<Frame> {
        let value = self.get();
        (value & PRESENT != 0).then(|| Frame::containing(value & ADDRESS))
    }
}

/// The root of an address space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Root(Frame);

impl Root {
    /// An address space whose user half is empty.
    pub fn new() -> Option<Root> {
        let root = frame::alloc_zeroed()?;
        let kernel = direct(KERNEL_ROOT.load(Ordering::Relaxed));
        // Only these slots of the kernel's half are used; copying all 256 would cost more.
        for address in [DIRECT_MAP, KERNEL_STACKS, DEVICE_REGISTERS, KERNEL_BASE] {
            let slot = index(address, 3);
            // SAFETY: both tables are alive, and the index is below 512.
            unsafe {
                let entry = *(kernel as *const u64).add(slot);
                *(root.address() as *mut u64).add(slot) = entry;
            }
        }
        Some(Root(root))
    }

    /// Its physical address.
    #[inline(always)]
    pub fn physical(self) -> u64 {
        self.0.physical()
    }

    /// Makes it the current address space.
    #[inline(always)]
    pub fn load(self) {
        // SAFETY: every root has the kernel's half.
        unsafe { cpu::set_page_tables(self.physical()) };
    }

    /// The entry for `address`, if its table exists.
    #[inline(always)]
    pub fn find(self, address: u64) -> Option<Entry> {
        let key = self.walk_key(address);
        if LAST_WALK.load(Ordering::Relaxed) == key {
            return Some(entry_of(LAST_TABLE.load(Ordering::Relaxed), address, 0));
        }
        let table = self.walk(address)?;
        LAST_TABLE.store(table, Ordering::Relaxed);
        LAST_WALK.store(key, Ordering::Relaxed);
        Some(entry_of(table, address, 0))
    }

    /// The last level's table for `address`.
    #[cold]
    #[inline(never)]
    fn walk(self, address: u64) -> Option<u64> {
        let mut table = self.0.physical();
        for level in [3, 2, 1] {
            let entry = entry_of(table, address, level).get();
            if entry & PRESENT == 0 || entry & HUGE != 0 {
                return None;
            }
            table = entry & ADDRESS;
        }
        Some(table)
    }

    /// Which table `address` is looked up in, as one number: never 0.
    #[inline(always)]
    fn walk_key(self, address: u64) -> u64 {
        (self.0.physical() >> PAGE_SHIFT) << 36 | (address << 16 >> 37)
    }

    /// The entry for `address`, making the tables it needs; `None` when memory has run out.
    #[inline]
    pub fn find_or_make(self, address: u64) -> Option<Entry> {
        self.find(address).or_else(|| self.make(address))
    }

    #[cold]
    fn make(self, address: u64) -> Option<Entry> {
        let mut table = self.0.physical();
        for level in [3, 2, 1] {
            let entry = entry_of(table, address, level);
            if entry.get() & PRESENT == 0 {
                let below = frame::alloc_zeroed()?;
                entry.set(below.physical() | PRESENT | WRITABLE | USER);
            }
            table = entry.get() & ADDRESS;
        }
        Some(entry_of(table, address, 0))
    }

    /// Calls `found` with every mapped page of `[start, end)` and its entry, skipping what has no
    /// tables.
    pub fn for_each(self, start: u64, end: u64, mut found: impl FnMut(u64, Entry)) {
        let mut address = start;
        while address < end {
            let Some(mut entry) = self.find(address) else {
                address = (address | (HUGE_PAGE - 1)) + 1;
                continue;
            };
            loop {
                if entry.get() & PRESENT != 0 {
                    found(address, entry);
                }
                address += PAGE;
                match entry.next(address) {
                    Some(next) if address < end => entry = next,
                    _ => break,
                }
            }
        }
    }

    /// Gives the tables of the user half back, and the root. Nothing may be mapped there any more.
    pub fn free(self) {
        LAST_WALK.store(0, Ordering::Relaxed);
        free_tables(self.0.physical(), 3, ENTRIES / 2);
        frame::release(self.0);
    }
}

fn free_tables(table: u64, level: u32, entries: usize) {
    // SAFETY: the table is alive, and nobody changes it: its address space is not loaded.
    let mut rest = unsafe { core::slice::from_raw_parts(direct(table) as *const u64, entries) };
    while let Some(place) = cpu::first_not_zero(rest) {
        let below = rest[place] & ADDRESS;
        if level > 1 {
            free_tables(below, level - 1, ENTRIES);
        }
        frame::release(Frame::containing(below));
        rest = &rest[place + 1..];
    }
}

#[inline(always)]
const fn index(address: u64, level: u32) -> usize {
    (address >> (12 + 9 * level)) as usize % ENTRIES
}

#[inline(always)]
fn entry_of(table: u64, address: u64, level: u32) -> Entry {
    entry_at(table, index(address, level))
}

#[inline(always)]
fn entry_at(table: u64, index: usize) -> Entry {
    Entry((direct(table) as *mut u64).wrapping_add(index))
}

unsafe extern "C" {
    static __text_start: u8;
    static __text_end: u8;
    static __rodata_end: u8;
    static __data_end: u8;
}

/// Where the kernel's image ends: a physical address.
pub fn image_end() -> u64 {
    kernel_to_physical(&raw const __data_end as u64)
}

/// Replaces the boot tables: the direct map of all RAM, the image with its protections, and empty
/// slots for stacks and device registers.
pub fn init(memory: &[Range<u64>]) {
    let root = Root(frame::early());
    map_directly(root, &(0..HUGE_PAGE), PAGE);
    for run in memory {
        map_directly(root, &(run.start.max(HUGE_PAGE)..run.end), HUGE_PAGE);
    }
    protect_text(root);

    let image = &raw const __text_start as u64..&raw const __data_end as u64;
    for address in image.step_by(PAGE as usize) {
        let protection = if address < &raw const __text_end as u64 {
            0
        } else if address < &raw const __rodata_end as u64 {
            NO_EXECUTE
        } else {
            WRITABLE | NO_EXECUTE
        };
        early_map(
            root,
            address,
            kernel_to_physical(address) | PRESENT | protection,
            0,
        );
    }
    for address in [KERNEL_STACKS, DEVICE_REGISTERS] {
        early_table(root, address, 2);
    }
    KERNEL_ROOT.store(root.physical(), Ordering::Relaxed);
    root.load();
}

/// Maps the pages of `bytes` bytes, [`PAGE`] or [`HUGE_PAGE`], that RAM lies in. The loop is as short
/// as can be: memory may be large, and ring 0 slow.
fn map_directly(root: Root, ram: &Range<u64>, bytes: u64) {
    let (level, huge) = if bytes == PAGE { (0, 0) } else { (1, HUGE) };
    let end = ram.end.next_multiple_of(bytes);
    let mut physical = ram.start - ram.start % bytes;
    while physical < end {
        let table = early_table(root, direct(physical), level);
        let first = index(physical, level);
        let count = ((end - physical) / bytes).min((ENTRIES - first) as u64) as usize;
        // SAFETY: the boot tables map the first gigabyte at 0, and early frames lie there.
        let table = unsafe { core::slice::from_raw_parts_mut(table as *mut u64, ENTRIES) };
        let mut value = physical | PRESENT | WRITABLE | huge | NO_EXECUTE;
        for entry in &mut table[first..first + count] {
            *entry = value;
            value += bytes;
        }
        physical += count as u64 * bytes;
    }
}

/// Code and constants, which lie in the first 2 MiB, are not to be written through the direct map.
fn protect_text(root: Root) {
    let text = kernel_to_physical(&raw const __text_start as u64)
        ..kernel_to_physical(&raw const __rodata_end as u64);
    for physical in text.step_by(PAGE as usize) {
        early_map(root, direct(physical), physical | PRESENT | NO_EXECUTE, 0);
    }
}

/// The address space of threads that have no process.
pub fn kernel_root() -> Root {
    Root(Frame::containing(KERNEL_ROOT.load(Ordering::Relaxed)))
}

/// Maps a page into the kernel's half, seen by every address space.
pub fn map_kernel(address: u64, value: u64) -> Option<()> {
    let entry = kernel_root().find_or_make(address)?;
    entry.set(value);
    Some(())
}

/// Unmaps a page of the kernel's half and gives its frame.
pub fn unmap_kernel(address: u64) -> Option<Frame> {
    let entry = kernel_root().find(address)?;
    let frame = entry.frame();
    entry.set(0);
    cpu::forget_page(address);
    frame
}

/// While the boot tables are current: physical memory is mapped at 0, the direct map is not there.
fn early_map(root: Root, address: u64, value: u64, level: u32) {
    let table = early_table(root, address, level);
    // SAFETY: the boot tables map the first gigabyte at 0, and early frames lie there.
    unsafe { *(table as *mut u64).add(index(address, level)) = value };
}

fn early_table(root: Root, address: u64, level: u32) -> u64 {
    let mut table = root.physical();
    for level in (level + 1..=3).rev() {
        // SAFETY: as above.
        let entry = unsafe { &mut *(table as *mut u64).add(index(address, level)) };
        if *entry & PRESENT == 0 {
            *entry = frame::early().physical() | PRESENT | WRITABLE;
        }
        table = *entry & ADDRESS;
    }
    table
}
