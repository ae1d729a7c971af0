//! Disks that a process drives itself, with the driver that the kernel uses: the registers are
//! mapped here, and the interrupt is an event.
#![allow(unsafe_code)]

use crate::{Channel, DiskStats, Errno, Passing, Pollable, Result, Stat, syscall, trace};
use alloc::vec::Vec;
use core::ops::{Deref, DerefMut};
use core::ptr::NonNull;
use iolite_guest_abi::{PAGE_BYTES, open, stats};
use iolite_virtio_driver::{
    Disk, DmaRegion, Done, MmioRegisters, Operation, Queue, Segment, SubmitError,
};

/// The device of a disk: whoever has it may drive the disk, or pass it on to who does.
#[derive(Debug)]
pub struct Device {
    fd: u64,
}

impl Device {
    /// Opens the device of the disk at `path`.
    ///
    /// # Errors
    ///
    /// `ENOENT` if there is no such disk, `EACCES` without the right to devices.
    pub fn open(path: &str) -> Result<Device> {
        syscall::open(path, open::DEVICE).map(|fd| Device { fd })
    }

    /// The descriptor `fd`, which this process was started with.
    pub fn from_fd(fd: u64) -> Device {
        Device { fd }
    }

    /// `passing`, and this after what it has.
    pub fn pass(&self, passing: Passing) -> Passing {
        passing.fd(self.fd)
    }

    /// What the kernel knows of the disk.
    ///
    /// # Errors
    ///
    /// `EBADF`.
    pub fn stat(&self) -> Result<Stat> {
        syscall::stat(self.fd)
    }

    /// What the kernel has counted, which is its own driver's requests; of a process that drives the
    /// disk it sees the interrupts, and how much ran beside it.
    ///
    /// # Errors
    ///
    /// `EBADF`.
    pub fn disk_stats(&self) -> Result<DiskStats> {
        syscall::disk_stats(self.fd, 0)
    }

    /// Starts the kernel's counts anew.
    ///
    /// # Errors
    ///
    /// `EBADF`.
    pub fn reset_stats(&self) -> Result<()> {
        syscall::disk_stats(self.fd, stats::RESET).map(drop)
    }

    /// Takes the device over, and initialises it. Until the value goes, the disk is this process's.
    ///
    /// # Errors
    ///
    /// `EBUSY` if somebody uses the disk, `ENODEV` if this is no device, `EIO` if the disk could not
    /// be initialised, `ENOMEM`.
    pub fn drive(self) -> Result<DrivenDisk> {
        let (registers, number) = self.start()?;
        let driver = Disk::new(registers, self.queue_memory()?);
        Ok(DrivenDisk {
            driver: driver.map_err(|_| Errno::EIO)?,
            device: self,
            number,
        })
    }

    /// The same with up to `count` request queues, or as many as the disk has.
    ///
    /// # Errors
    ///
    /// As [`Device::drive`].
    pub fn drive_queues(self, count: usize) -> Result<DrivenDisk<Vec<Queue>>> {
        let (registers, number) = self.start()?;
        let regions: Result<Vec<_>> = (0..count).map(|_| self.queue_memory()).collect();
        let driver = Disk::with_queues(registers, regions?);
        Ok(DrivenDisk {
            driver: driver.map_err(|_| Errno::EIO)?,
            device: self,
            number,
        })
    }

    /// Takes the device over: its registers, and the disk's number.
    fn start(&self) -> Result<(MmioRegisters, u32)> {
        let grant = syscall::device_start(self.fd)?;
        let registers = NonNull::new(grant.registers as *mut u8).ok_or(Errno::EIO)?;
        // SAFETY: the kernel has mapped the registers for this process alone, until the device is
        // closed, which is after the driver has gone.
        let registers = unsafe { MmioRegisters::new(registers) };
        trace::begin();
        Ok((registers, grant.disk as u32))
    }

    /// Memory for one queue.
    fn queue_memory(&self) -> Result<DmaRegion> {
        let bytes = Disk::<MmioRegisters>::DMA_BYTES;
        let (address, physical) = syscall::dma_alloc(self.fd, bytes)?;
        let memory = NonNull::new(address as *mut u8).ok_or(Errno::EIO)?;
        // SAFETY: the kernel has mapped the zeroed, contiguous memory for this process alone, until
        // the device is closed, which is after the driver has gone.
        Ok(unsafe { DmaRegion::new(memory, physical, bytes) })
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        let _ = syscall::close(self.fd);
    }
}

/// A disk that this process drives, by one queue or by several (`Q`). What goes through the methods of
/// its own, of which there are those for one queue, is seen in a trace.
pub struct DrivenDisk<Q = [Queue; 1]> {
    /// The driver.
    pub driver: Disk<MmioRegisters, Q>,
    device: Device,
    number: u32,
}

/// Memory for a device: contiguous for it, and the process's until the disk is closed.
pub struct DmaMemory {
    address: NonNull<u8>,
    physical: u64,
    bytes: usize,
}

/// A channel's memory as the device finds it.
#[derive(Debug)]
pub struct DmaChannel {
    address: u64,
    pages: Vec<u64>,
}

impl DrivenDisk {
    /// Puts a request into the driver's table, as [`Disk::submit`] does.
    ///
    /// # Errors
    ///
    /// As [`Disk::submit`].
    #[inline(always)]
    pub fn submit(
        &mut self,
        operation: Operation,
        segments: &[Segment],
        cookie: u32,
    ) -> core::result::Result<(), SubmitError> {
        self.driver.submit(operation, segments, cookie)?;
        trace::add(self.driver.last_head(), self.number);
        Ok(())
    }

    /// The same, for a server: for request number `number` of `channel`.
    ///
    /// # Errors
    ///
    /// As [`Disk::submit`].
    #[inline(always)]
    pub fn submit_for(
        &mut self,
        (channel, number): (u32, u64),
        operation: Operation,
        segments: &[Segment],
        cookie: u32,
    ) -> core::result::Result<(), SubmitError> {
        self.driver.submit(operation, segments, cookie)?;
        trace::add_for(self.driver.last_head(), self.number, channel, number);
        Ok(())
    }

    /// Shows the device what was submitted.
    #[inline(always)]
    pub fn notify(&mut self) {
        trace::event(trace::kind::NOTIFY, 0, self.number, 0, 0);
        self.driver.notify();
    }

    /// The next completion, if there is one.
    #[inline(always)]
    pub fn harvest(&mut self) -> Option<Done> {
        let done = self.driver.harvest()?;
        trace::event(trace::kind::HARVEST, done.head, self.number, 0, 0);
        Some(done)
    }
}

impl<Q> DrivenDisk<Q> {
    /// The disk's number: 0 for `/dev/vda`.
    pub fn number(&self) -> u32 {
        self.number
    }

    /// Zeroed memory that the device can reach, a multiple of the page size up to
    /// [`iolite_guest_abi::MAX_DMA_BYTES`]. It is the caller's to see that it is not looked at while
    /// the device writes to it, and not used when the disk has gone.
    ///
    /// # Errors
    ///
    /// `EINVAL` for another size, `ENOMEM` if there is no such piece.
    pub fn allocate(&self, bytes: usize) -> Result<DmaMemory> {
        let (address, physical) = syscall::dma_alloc(self.device.fd, bytes)?;
        Ok(DmaMemory {
            address: NonNull::new(address as *mut u8).ok_or(Errno::EIO)?,
            physical,
            bytes,
        })
    }

    /// Has the device reach a channel's memory.
    ///
    /// # Errors
    ///
    /// `ENOMEM` if it reaches too much already.
    pub fn map(&self, channel: &Channel) -> Result<DmaChannel> {
        let address = channel.address();
        let pages = syscall::dma_map(self.device.fd, address, channel.len())?;
        Ok(DmaChannel { address, pages })
    }

    /// Ends that: no request that uses it is in flight.
    ///
    /// # Errors
    ///
    /// `EINVAL` if it was not mapped.
    pub fn unmap(&self, channel: DmaChannel) -> Result<()> {
        syscall::dma_unmap(self.device.fd, channel.address)
    }
}

impl DmaChannel {
    /// The bytes `[at, at + len)` of the channel's memory as segments, pages that follow each other
    /// joined; `None` if they are not all there, or are more than `N` segments.
    pub fn segments<const N: usize>(&self, at: u64, len: u32) -> Option<([Segment; N], usize)> {
        let mut segments = [Segment::default(); N];
        let mut count = 0usize;
        let (mut at, end) = (at, at.checked_add(len.into())?);
        while at < end {
            let offset = at % PAGE_BYTES as u64;
            let bytes = (PAGE_BYTES as u64 - offset).min(end - at);
            let physical = self.pages.get((at / PAGE_BYTES as u64) as usize)? + offset;
            match count.checked_sub(1).map(|last| &mut segments[last]) {
                Some(last) if last.physical + u64::from(last.bytes) == physical => {
                    last.bytes += bytes as u32;
                }
                _ => {
                    *segments.get_mut(count)? = Segment {
                        physical,
                        bytes: bytes as u32,
                    };
                    count += 1;
                }
            }
            at += bytes;
        }
        Some((segments, count))
    }
}

impl DmaMemory {
    /// Where the device finds the first byte.
    pub fn physical(&self) -> u64 {
        self.physical
    }
}

impl Deref for DmaMemory {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: the kernel mapped `bytes` bytes there for good.
        unsafe { core::slice::from_raw_parts(self.address.as_ptr(), self.bytes) }
    }
}

impl DerefMut for DmaMemory {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above; `self` is borrowed exclusively.
        unsafe { core::slice::from_raw_parts_mut(self.address.as_ptr(), self.bytes) }
    }
}

impl<Q> Pollable for DrivenDisk<Q> {
    fn fd(&self) -> u64 {
        self.device.fd
    }
}
