//! What KVM counts for a vCPU: exits by reason, interrupts, emulated instructions.
//!
//! KVM_GET_STATS_FD (Linux, Documentation/virt/kvm/api.rst, section 4.133) gives a file that
//! describes itself: a header, a descriptor with a name for each counter, and the values. The names
//! are looked up once; a reading is then one `pread` of the values, from any thread, while the vCPU
//! runs.

#![allow(unsafe_code)]

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd};
use std::os::unix::fs::FileExt;

use kvm_ioctls::VcpuFd;
use vmm_sys_util::ioctl::ioctl;

mod call {
    use kvm_bindings::KVMIO;
    vmm_sys_util::ioctl_io_nr!(KVM_GET_STATS_FD, KVMIO, 0xce);
}

/// Size of `struct kvm_stats_header`.
const HEADER_BYTES: usize = 24;
/// Size of `struct kvm_stats_desc` without the name.
const DESCRIPTOR_BYTES: usize = 16;
/// More than any KVM has: a file that claims more makes no sense.
const MAX_COUNTERS: u32 = 4096;
/// Longest name that makes sense.
const MAX_NAME_BYTES: u32 = 256;
/// KVM_STATS_TYPE_CUMULATIVE, in the lowest four bits of the flags: a counter that only rises.
const TYPE_MASK: u32 = 0xf;
const TYPE_CUMULATIVE: u32 = 0;

/// A vCPU's counters.
pub struct VcpuStats {
    file: File,
    /// Where each counter's value is in the file, by its name.
    places: BTreeMap<String, u64>,
}

/// The values of all counters at one moment.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Reading(BTreeMap<String, u64>);

impl VcpuStats {
    /// The counters of `vcpu`.
    ///
    /// # Errors
    /// If KVM has no such file (before Linux 5.14), or it describes itself in a way that makes no
    /// sense.
    pub fn open(vcpu: &VcpuFd) -> io::Result<VcpuStats> {
        // SAFETY: the call takes no argument and gives a new descriptor or an error.
        let fd = unsafe { ioctl(vcpu, call::KVM_GET_STATS_FD()) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the descriptor is new and ours.
        let file = unsafe { File::from_raw_fd(fd) };
        let places = places(&file)?;
        log::debug!("statistics {}: {} counters", file.as_raw_fd(), places.len());
        Ok(VcpuStats { file, places })
    }

    /// All counters as they are now.
    ///
    /// # Errors
    /// If the descriptor cannot be read.
    pub fn read(&self) -> io::Result<Reading> {
        let Some((&first, &last)) = self.places.values().min().zip(self.places.values().max())
        else {
            return Ok(Reading::default());
        };
        let mut bytes = vec![0; (last - first) as usize + size_of::<u64>()];
        self.file.read_exact_at(&mut bytes, first)?;
        let value = |place: u64| word(&bytes, (place - first) as usize);
        let values = self.places.iter();
        Ok(Reading(
            values
                .map(|(name, place)| (name.clone(), value(*place)))
                .collect(),
        ))
    }
}

impl Reading {
    /// A counter; `None` if this KVM has none of that name.
    pub fn get(&self, name: &str) -> Option<u64> {
        self.0.get(name).copied()
    }

    /// All counters, by their names.
    pub fn iter(&self) -> impl Iterator<Item = (&str, u64)> {
        self.0.iter().map(|(name, value)| (name.as_str(), *value))
    }

    /// What has been counted since `earlier`.
    pub fn since(&self, earlier: &Reading) -> Reading {
        let before = |name: &str| earlier.get(name).unwrap_or(0);
        Reading(
            self.0
                .iter()
                .map(|(name, now)| (name.clone(), now.wrapping_sub(before(name))))
                .collect(),
        )
    }
}

/// For tests of readings.
#[cfg(test)]
impl<const N: usize> From<[(&str, u64); N]> for Reading {
    fn from(values: [(&str, u64); N]) -> Self {
        Reading(values.map(|(name, value)| (name.to_owned(), value)).into())
    }
}

/// Reads the file's description of itself: the place of every plain counter.
fn places(file: &File) -> io::Result<BTreeMap<String, u64>> {
    let mut header = [0; HEADER_BYTES];
    file.read_exact_at(&mut header, 0)?;
    let [name_bytes, count, _, descriptors, data] = [4, 8, 12, 16, 20].map(|at| half(&header, at));
    if name_bytes > MAX_NAME_BYTES || count > MAX_COUNTERS {
        let text = format!("{count} statistics with names of {name_bytes} bytes");
        return Err(io::Error::new(io::ErrorKind::InvalidData, text));
    }
    let size = DESCRIPTOR_BYTES + name_bytes as usize;
    let mut table = vec![0; size * count as usize];
    file.read_exact_at(&mut table, descriptors.into())?;
    let mut places = BTreeMap::new();
    for entry in table.chunks_exact(size) {
        let (flags, offset) = (half(entry, 0), half(entry, 8));
        let values = u16::from_le_bytes([entry[6], entry[7]]);
        let name = entry[DESCRIPTOR_BYTES..].split(|byte| *byte == 0).next();
        if flags & TYPE_MASK == TYPE_CUMULATIVE && values == 1 {
            let name = String::from_utf8_lossy(name.unwrap_or_default());
            places.insert(name.into_owned(), u64::from(data) + u64::from(offset));
        }
    }
    Ok(places)
}

fn half(bytes: &[u8], at: usize) -> u32 {
    let mut half = [0; 4];
    half.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(half)
}

fn word(bytes: &[u8], at: usize) -> u64 {
    let mut word = [0; 8];
    word.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(word)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    /// A file of two counters and an instant value, as KVM lays it out.
    fn example(values: [u64; 3]) -> File {
        let mut bytes = Vec::new();
        for field in [0u32, 8, 3, 24, 24, 24 + 3 * 24] {
            bytes.extend(field.to_le_bytes());
        }
        for (flags, offset, name) in [(0u32, 0u32, "exits"), (1, 8, "now"), (0, 16, "halts")] {
            bytes.extend(flags.to_le_bytes());
            bytes.extend([0, 0, 1, 0]); // exponent, size
            bytes.extend(offset.to_le_bytes());
            bytes.extend([0; 4]); // bucket size
            let mut padded = [0; 8];
            padded[..name.len()].copy_from_slice(name.as_bytes());
            bytes.extend(padded);
        }
        bytes.extend(values.into_iter().flat_map(u64::to_le_bytes));
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&bytes).unwrap();
        file
    }

    #[test]
    fn counters_are_found_by_name_and_subtracted() {
        let read = |values| {
            let file = example(values);
            let places = places(&file).unwrap();
            VcpuStats { file, places }.read().unwrap()
        };
        let (before, after) = (read([5, 1, 7]), read([105, 9, 8]));
        assert_eq!(after.get("exits"), Some(105));
        assert_eq!(after.get("now"), None, "it is no counter");
        let since = after.since(&before);
        assert_eq!(
            (since.get("exits"), since.get("halts")),
            (Some(100), Some(1))
        );
    }

    #[test]
    fn a_description_without_sense_is_refused() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&[0xff; 64]).unwrap();
        assert!(places(&file).is_err());
    }
}
