//! What there is: the disks of the machine and the files of the system disk.

use crate::{Result, start, syscall};
use core::fmt;
use iolite_guest_abi::{CpuStats, DirEntry, Errno, Stat};

/// The path of a disk: `/dev/vda` is the first.
#[derive(Clone, Copy, Debug)]
pub struct DiskPath {
    bytes: [u8; 8],
}

impl DiskPath {
    fn of(index: u8) -> DiskPath {
        let mut bytes = *b"/dev/vda";
        bytes[7] += index;
        DiskPath { bytes }
    }

    /// As a string.
    pub fn as_str(&self) -> &str {
        core::str::from_utf8(&self.bytes).unwrap_or_default()
    }
}

impl fmt::Display for DiskPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// How many disks the machine has.
pub fn disk_count() -> u64 {
    start::info().disks
}

/// The paths of all disks.
pub fn disks() -> impl Iterator<Item = DiskPath> {
    (0..disk_count().min(26) as u8).map(DiskPath::of)
}

/// The files of the system disk, in the order in which they lie there.
pub fn system_files() -> impl Iterator<Item = Result<DirEntry>> {
    (0..)
        .map(syscall::list)
        .take_while(|entry| !matches!(entry, Err(Errno::ENOENT)))
}

/// A file's name; empty if it is not UTF-8.
pub fn name_of(entry: &DirEntry) -> &str {
    let name = entry
        .name
        .get(..entry.name_len as usize)
        .unwrap_or_default();
    core::str::from_utf8(name).unwrap_or_default()
}

/// A disk's identification string; empty for anything else.
pub fn id_of(stat: &Stat) -> &str {
    let len = stat
        .id
        .iter()
        .position(|&byte| byte == 0)
        .unwrap_or(stat.id.len());
    core::str::from_utf8(&stat.id[..len]).unwrap_or_default()
}

/// Where the processor's time went since boot.
///
/// # Errors
///
/// None.
pub fn cpu_stats() -> Result<CpuStats> {
    syscall::cpu_stats()
}
