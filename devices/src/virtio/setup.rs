//! A virtqueue while its driver sets it up: registers that become a [`QueueLayout`], or do not.

use iolite_devices_abi::ring::{
    AVAIL_RING_ALIGN, DESC_TABLE_ALIGN, USED_RING_ALIGN, avail_ring_bytes, desc_table_bytes,
    used_ring_bytes,
};
use vm_memory::{GuestAddress, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion};

use super::device::QueueLayout;

/// Why a queue cannot be enabled.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(super) enum SetupError {
    #[error("queue size {0} is not a power of two up to QueueNumMax")]
    Size(u32),
    #[error("the address of the {0} was never set")]
    NoAddress(&'static str),
    #[error("the {part} at {addr:#x} is not aligned to {align} bytes")]
    Misaligned {
        part: &'static str,
        addr: u64,
        align: u64,
    },
    #[error("the {part} at {addr:#x} ({bytes} bytes) does not lie in one piece of memory")]
    NotInMemory {
        part: &'static str,
        addr: u64,
        bytes: u64,
    },
}

/// One 64-bit address register, written in halves.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct AddressRegister {
    low: Option<u32>,
    high: Option<u32>,
}

impl AddressRegister {
    pub(super) fn set_low(&mut self, value: u32) {
        self.low = Some(value);
    }

    pub(super) fn set_high(&mut self, value: u32) {
        self.high = Some(value);
    }

    /// The address, if at least its low half was written.
    fn get(self) -> Option<u64> {
        Some(u64::from(self.high.unwrap_or(0)) << 32 | u64::from(self.low?))
    }
}

/// Who has a queue of a live device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Holder {
    /// The device.
    Device,
    /// The device until it is drained, and nobody afterwards: the driver took it away.
    TakenAway,
    /// The device until it is drained, and the driver afterwards: the driver reset it.
    Resetting,
    /// Nobody, until the device or the queue is reset.
    Nobody,
    /// The driver: it may place the queue anew.
    Driver,
}

/// The registers of one queue.
#[derive(Clone, Debug)]
pub(super) struct QueueRegisters {
    pub(super) max_size: u16,
    pub(super) size: u16,
    pub(super) ready: bool,
    /// Means nothing before DRIVER_OK: then all queues are the driver's.
    pub(super) holder: Holder,
    pub(super) desc: AddressRegister,
    pub(super) driver: AddressRegister,
    pub(super) device: AddressRegister,
}

impl QueueRegisters {
    pub(super) fn new(max_size: u16) -> Self {
        QueueRegisters {
            max_size,
            size: max_size,
            ready: false,
            holder: Holder::Device,
            desc: AddressRegister::default(),
            driver: AddressRegister::default(),
            device: AddressRegister::default(),
        }
    }

    /// The queue was reset alone: but for its holder everything is as in the beginning.
    pub(super) fn forget(&mut self, holder: Holder) {
        *self = QueueRegisters::new(self.max_size);
        self.holder = holder;
    }

    /// QueueNum, checked as written: 32 bits, never truncated.
    pub(super) fn set_size(&mut self, value: u32) -> Result<(), SetupError> {
        match u16::try_from(value) {
            Ok(size) if size.is_power_of_two() && size <= self.max_size => self.size = size,
            _ => return Err(SetupError::Size(value)),
        }
        Ok(())
    }

    /// The queue that these registers describe.
    pub(super) fn check(&self, memory: &GuestMemoryMmap) -> Result<QueueLayout, SetupError> {
        let addresses = [self.desc, self.driver, self.device].map(AddressRegister::get);
        layout(memory, self.size, addresses)
    }
}

/// A queue of `size` entries, checked, whose descriptor table, available ring and used ring are at
/// `addresses`.
pub(super) fn layout(
    memory: &GuestMemoryMmap,
    size: u16,
    addresses: [Option<u64>; 3],
) -> Result<QueueLayout, SetupError> {
    let part = |part, addr: Option<u64>, align, bytes| {
        let addr = addr.ok_or(SetupError::NoAddress(part))?;
        if !addr.is_multiple_of(align) {
            return Err(SetupError::Misaligned { part, addr, align });
        }
        let bytes = bytes as u64;
        if !in_one_region(memory, addr, bytes) {
            return Err(SetupError::NotInMemory { part, addr, bytes });
        }
        Ok(GuestAddress(addr))
    };
    let [desc, avail, used] = addresses;
    let (table_bytes, avail_bytes, used_bytes) = (
        desc_table_bytes(size),
        avail_ring_bytes(size),
        used_ring_bytes(size),
    );
    Ok(QueueLayout {
        size,
        desc_table: part("descriptor table", desc, DESC_TABLE_ALIGN, table_bytes)?,
        avail_ring: part("available ring", avail, AVAIL_RING_ALIGN, avail_bytes)?,
        used_ring: part("used ring", used, USED_RING_ALIGN, used_bytes)?,
    })
}

/// Whether the `bytes` at `addr` lie in one region of memory: rings are not split over regions.
fn in_one_region(memory: &GuestMemoryMmap, addr: u64, bytes: u64) -> bool {
    memory
        .find_region(GuestAddress(addr))
        .is_some_and(|region| {
            let offset = addr - region.start_addr().0;
            region.len() - offset >= bytes
        })
}
