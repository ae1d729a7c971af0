//! The address map: which device answers at which address. One [`Bus`] serves memory-mapped
//! devices, another one serves I/O ports.
//!
//! Protocol: the machine's builder inserts every device before the first vCPU runs; from then on
//! the map does not change, and vCPU threads look addresses up without a lock.

use std::collections::BTreeMap;
use std::sync::Arc;

/// A device on a bus. It is called from vCPU threads, so it must be quick: never a disk access,
/// never an unbounded wait.
pub trait BusDevice: Send + Sync {
    /// The guest reads `data.len()` bytes at `offset` from the start of the device's range. All of
    /// `data` is to be filled.
    fn read(&self, offset: u64, data: &mut [u8]);
    /// The guest writes `data` at `offset` from the start of the device's range.
    fn write(&self, offset: u64, data: &[u8]);
}

/// Why a device cannot be inserted.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum BusError {
    /// The range has no bytes.
    #[error("the range at {0:#x} is empty: give the device at least one byte of address space")]
    Empty(u64),
    /// The range goes past the last address.
    #[error("the range of {size:#x} bytes at {base:#x} does not fit the address space")]
    TooLong {
        /// First address.
        base: u64,
        /// Size in bytes.
        size: u64,
    },
    /// Another device is there already.
    #[error("the range of {size:#x} bytes at {base:#x} overlaps the device at {other:#x}")]
    Overlap {
        /// First address.
        base: u64,
        /// Size in bytes.
        size: u64,
        /// First address of the device that is there.
        other: u64,
    },
}

struct Range {
    /// Last address that belongs to the device.
    last: u64,
    device: Arc<dyn BusDevice>,
}

/// Devices by address.
#[derive(Default)]
pub struct Bus {
    ranges: BTreeMap<u64, Range>,
}

impl Bus {
    /// A bus with nobody on it.
    pub fn new() -> Self {
        Self::default()
    }

    /// Places `device` at the `size` addresses from `base` on.
    ///
    /// # Errors
    /// [`BusError`] if the range is empty, too long, or not free.
    pub fn insert(
        &mut self,
        base: u64,
        size: u64,
        device: Arc<dyn BusDevice>,
    ) -> Result<(), BusError> {
        let above_first = size.checked_sub(1).ok_or(BusError::Empty(base))?;
        let last = base
            .checked_add(above_first)
            .ok_or(BusError::TooLong { base, size })?;
        // Ranges do not overlap, so only the last one that begins at or below `last` can reach in.
        if let Some((&other, range)) = self.ranges.range(..=last).next_back()
            && range.last >= base
        {
            return Err(BusError::Overlap { base, size, other });
        }
        self.ranges.insert(base, Range { last, device });
        Ok(())
    }

    /// Reads from whoever answers at `addr`. Returns false, with `data` all ones as on a bus that
    /// nobody drives, if there is no device.
    pub fn read(&self, addr: u64, data: &mut [u8]) -> bool {
        match self.find(addr, data.len()) {
            Some((offset, device)) => {
                device.read(offset, data);
                true
            }
            None => {
                data.fill(0xff);
                false
            }
        }
    }

    /// Writes to whoever answers at `addr`. Returns false if nobody does; the write is lost then.
    pub fn write(&self, addr: u64, data: &[u8]) -> bool {
        match self.find(addr, data.len()) {
            Some((offset, device)) => {
                device.write(offset, data);
                true
            }
            None => false,
        }
    }

    /// The device at `addr` and the offset there. String instructions hand over many bytes for one
    /// port, so only the first byte has to lie in the range; what `len` bytes at this offset mean
    /// is the device's affair.
    fn find(&self, addr: u64, len: usize) -> Option<(u64, &dyn BusDevice)> {
        let (&base, range) = self.ranges.range(..=addr).next_back()?;
        (len > 0 && addr <= range.last).then(|| (addr - base, &*range.device))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    #[derive(Default)]
    struct Recorder(Mutex<Vec<(u64, Vec<u8>)>>);

    impl BusDevice for Recorder {
        fn read(&self, offset: u64, data: &mut [u8]) {
            data.fill(offset as u8);
        }
        fn write(&self, offset: u64, data: &[u8]) {
            self.0.lock().unwrap().push((offset, data.to_vec()));
        }
    }

    #[test]
    fn accesses_reach_the_device_with_their_offset() {
        let mut bus = Bus::new();
        let device = Arc::new(Recorder::default());
        bus.insert(0x1000, 0x100, device.clone()).unwrap();
        let mut data = [0; 2];
        assert!(bus.read(0x1042, &mut data));
        assert_eq!(data, [0x42; 2]);
        assert!(bus.write(0x10ff, &[7]));
        assert_eq!(*device.0.lock().unwrap(), [(0xff, vec![7])]);
    }

    #[test]
    fn nobody_there_reads_all_ones() {
        let mut bus = Bus::new();
        bus.insert(0x1000, 0x100, Arc::new(Recorder::default()))
            .unwrap();
        for addr in [0, 0xfff, 0x1100, u64::MAX] {
            let mut data = [0; 4];
            assert!(!bus.read(addr, &mut data), "{addr:#x}");
            assert_eq!(data, [0xff; 4]);
            assert!(!bus.write(addr, &data));
        }
    }

    #[test]
    fn overlapping_empty_and_wrapping_ranges_are_refused() {
        let mut bus = Bus::new();
        let device = || Arc::new(Recorder::default());
        bus.insert(0x1000, 0x100, device()).unwrap();
        for (base, size) in [(0x1000, 0x100), (0xfff, 2), (0x10ff, 1), (0, 0x10_0000)] {
            let refused = bus.insert(base, size, device());
            assert_eq!(
                refused,
                Err(BusError::Overlap {
                    base,
                    size,
                    other: 0x1000
                })
            );
        }
        assert_eq!(bus.insert(5, 0, device()), Err(BusError::Empty(5)));
        assert!(matches!(
            bus.insert(u64::MAX, 2, device()),
            Err(BusError::TooLong { .. })
        ));
        bus.insert(0xf00, 0x100, device()).unwrap();
        bus.insert(0x1100, 0x100, device()).unwrap();
        bus.insert(u64::MAX, 1, device()).unwrap();
    }
}
