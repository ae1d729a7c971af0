//! What the VMM leaves for the kernel: `hvm_start_info` (Xen, public/arch-x86/hvm/start_info.h).
//!
//! Read once, while the boot tables map physical memory at 0, and copied out of it: the memory it
//! lies in is handed out afterwards.

#![allow(unsafe_code)]

use crate::mm::layout::FIRST_FREE;
use arrayvec::ArrayVec;
use core::ops::Range;

const MAGIC: u32 = 0x336e_c578;
const MEMORY_MAP_TYPE_RAM: u32 = 1;
/// Longest command line that is believed.
const COMMAND_LINE_BYTES: usize = 4096;
/// The boot tables map this much.
const MAPPED: u64 = 1 << 30;
/// Memory when the VMM does not tell.
const DEFAULT_MEMORY: u64 = 128 << 20;
/// Most runs of RAM that are made use of.
pub const MAX_MEMORY_RUNS: usize = 8;

#[repr(C)]
#[derive(Clone, Copy)]
struct StartInfo {
    magic: u32,
    version: u32,
    flags: u32,
    modules: u32,
    module_list: u64,
    command_line: u64,
    rsdp: u64,
    memory_map: u64,
    memory_map_entries: u32,
    reserved: u32,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct MemoryMapEntry {
    address: u64,
    bytes: u64,
    kind: u32,
    reserved: u32,
}

/// What the kernel needs of it.
pub struct Boot {
    /// The runs of RAM, physical addresses from [`FIRST_FREE`] on.
    pub memory: ArrayVec<Range<u64>, MAX_MEMORY_RUNS>,
    line: [u8; COMMAND_LINE_BYTES],
    length: usize,
}

impl Boot {
    /// Reads the structure at `address`.
    pub fn read(address: u64) -> Boot {
        let mut boot = Boot {
            memory: ArrayVec::new(),
            line: [0; COMMAND_LINE_BYTES],
            length: 0,
        };
        let info = read::<StartInfo>(address).filter(|info| info.magic == MAGIC);
        if let Some(info) = info {
            boot.read_memory_map(&info);
            boot.read_command_line(&info);
        }
        if boot.memory.is_empty() {
            boot.memory.push(FIRST_FREE..DEFAULT_MEMORY);
        }
        boot
    }

    fn read_memory_map(&mut self, info: &StartInfo) {
        if info.version == 0 || info.memory_map == 0 {
            return;
        }
        for i in 0..u64::from(info.memory_map_entries.min(128)) {
            let at = info.memory_map + i * size_of::<MemoryMapEntry>() as u64;
            let Some(entry) = read::<MemoryMapEntry>(at) else {
                return;
            };
            let start = entry.address.max(FIRST_FREE);
            let end = entry.address.saturating_add(entry.bytes);
            if entry.kind == MEMORY_MAP_TYPE_RAM && start < end && !self.memory.is_full() {
                self.memory.push(start..end);
            }
        }
    }

    fn read_command_line(&mut self, info: &StartInfo) {
        while self.length < COMMAND_LINE_BYTES && info.command_line != 0 {
            match read::<u8>(info.command_line + self.length as u64) {
                None | Some(0) => break,
                Some(byte) => self.line[self.length] = byte,
            }
            self.length += 1;
        }
    }

    /// The command line.
    pub fn command_line(&self) -> &str {
        core::str::from_utf8(&self.line[..self.length]).unwrap_or("")
    }
}

fn read<T: Copy>(physical: u64) -> Option<T> {
    if physical == 0 || physical >= MAPPED - size_of::<T>() as u64 {
        return None;
    }
    // SAFETY: the boot tables map the first gigabyte at 0, and these types are plain integers. The
    // structure need not be aligned.
    Some(unsafe { (physical as *const T).read_unaligned() })
}
