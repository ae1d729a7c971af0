//! A driver that is not ours against the device: `virtio-drivers`, as other kernels use it, over a
//! transport that goes to the device's window.
#![allow(unsafe_code)]

use std::cell::RefCell;
use std::collections::HashMap;
use std::ptr::{self, NonNull};
use std::sync::Arc;

use iolite_devices::block::backend::memory::MemoryBackend;
use iolite_devices::bus::BusDevice;
use iolite_devices::virtio::blk::{BlockConfig, BlockDevice, MmioBlock};
use iolite_devices_abi::mmio as reg;
use proptest::prelude::*;
use virtio_drivers::device::blk::{BlkReq, BlkResp, SECTOR_SIZE, VirtIOBlk};
use virtio_drivers::transport::{DeviceStatus, DeviceType, InterruptStatus, Transport};
use virtio_drivers::{BufferDirection, Hal, PAGE_SIZE};
use vm_memory::{GuestAddress, GuestMemoryBackend, GuestMemoryMmap};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::driver::{Edges, eventually, pattern};

const MEMORY: usize = 16 << 20;
const SECTORS: usize = 256;

/// Memory that the driver and the device share. Each test has its own: a driver is used by one
/// thread.
struct Arena {
    memory: Arc<GuestMemoryMmap>,
    /// The first page that was never used.
    next: u64,
    /// Pages to use again, by how many.
    free: HashMap<usize, Vec<u64>>,
}

thread_local! {
    static ARENA: RefCell<Arena> = RefCell::new(Arena {
        memory: Arc::new(GuestMemoryMmap::from_ranges(&[(GuestAddress(0), MEMORY)]).unwrap()),
        next: 1,
        free: HashMap::new(),
    });
}

impl Arena {
    fn allocate(&mut self, pages: usize) -> (u64, NonNull<u8>) {
        let page = self
            .free
            .entry(pages)
            .or_default()
            .pop()
            .unwrap_or_else(|| {
                self.next += pages as u64;
                self.next - pages as u64
            });
        let addr = page * PAGE_SIZE as u64;
        assert!(
            (addr as usize) < MEMORY - pages * PAGE_SIZE,
            "out of memory"
        );
        (addr, self.host(addr))
    }

    fn free(&mut self, addr: u64, pages: usize) {
        let page = addr / PAGE_SIZE as u64;
        self.free.entry(pages).or_default().push(page);
    }

    fn host(&self, addr: u64) -> NonNull<u8> {
        let host = self.memory.get_host_address(GuestAddress(addr)).unwrap();
        NonNull::new(host).unwrap()
    }
}

struct TestHal;

fn pages_of(buffer: NonNull<[u8]>) -> usize {
    buffer.len().div_ceil(PAGE_SIZE)
}

// SAFETY: the arena gives out each page once until it is freed, from a mapping that lives as long as
// the thread, which is longer than the driver.
unsafe impl Hal for TestHal {
    fn dma_alloc(pages: usize, _direction: BufferDirection) -> (u64, NonNull<u8>) {
        let (addr, host) = ARENA.with_borrow_mut(|arena| arena.allocate(pages));
        // SAFETY: these pages are ours.
        unsafe { ptr::write_bytes(host.as_ptr(), 0, pages * PAGE_SIZE) };
        (addr, host)
    }

    unsafe fn dma_dealloc(addr: u64, _host: NonNull<u8>, pages: usize) -> i32 {
        ARENA.with_borrow_mut(|arena| arena.free(addr, pages));
        0
    }

    unsafe fn mmio_phys_to_virt(_addr: u64, _size: usize) -> NonNull<u8> {
        unreachable!("only PCI needs this")
    }

    unsafe fn share(buffer: NonNull<[u8]>, direction: BufferDirection) -> u64 {
        let allocate = |arena: &mut Arena| arena.allocate(pages_of(buffer));
        let (addr, host) = ARENA.with_borrow_mut(allocate);
        if direction != BufferDirection::DeviceToDriver {
            // SAFETY: the caller vouches for the buffer; the pages are ours.
            unsafe { ptr::copy(buffer.as_ptr().cast(), host.as_ptr(), buffer.len()) };
        }
        addr
    }

    unsafe fn unshare(addr: u64, buffer: NonNull<[u8]>, direction: BufferDirection) {
        ARENA.with_borrow_mut(|arena| {
            if direction != BufferDirection::DriverToDevice {
                let host = arena.host(addr);
                // SAFETY: as in `share`, which gave these pages out.
                unsafe { ptr::copy(host.as_ptr(), buffer.as_ptr().cast(), buffer.len()) };
            }
            arena.free(addr, pages_of(buffer));
        });
    }
}

/// The device's window as a transport.
struct Window(Arc<dyn BusDevice>);

impl Window {
    fn read(&self, offset: u64) -> u32 {
        let mut bytes = [0; 4];
        self.0.read(offset, &mut bytes);
        u32::from_le_bytes(bytes)
    }

    fn write(&self, offset: u64, value: u32) {
        self.0.write(offset, &value.to_le_bytes());
    }
}

impl Transport for Window {
    fn device_type(&self) -> DeviceType {
        DeviceType::try_from(self.read(reg::DEVICE_ID)).unwrap()
    }

    fn read_device_features(&mut self) -> u64 {
        let half = |half| {
            self.write(reg::DEVICE_FEATURES_SEL, half);
            u64::from(self.read(reg::DEVICE_FEATURES))
        };
        half(0) | half(1) << 32
    }

    fn write_driver_features(&mut self, features: u64) {
        for half in 0..2 {
            self.write(reg::DRIVER_FEATURES_SEL, half);
            self.write(reg::DRIVER_FEATURES, (features >> (32 * half)) as u32);
        }
    }

    fn max_queue_size(&mut self, queue: u16) -> u32 {
        self.write(reg::QUEUE_SEL, queue.into());
        self.read(reg::QUEUE_NUM_MAX)
    }

    fn notify(&mut self, queue: u16) {
        self.write(reg::QUEUE_NOTIFY, queue.into());
    }

    fn get_status(&self) -> DeviceStatus {
        DeviceStatus::from_bits_truncate(self.read(reg::STATUS))
    }

    fn set_status(&mut self, status: DeviceStatus) {
        self.write(reg::STATUS, status.bits());
    }

    fn set_guest_page_size(&mut self, _size: u32) {}

    fn requires_legacy_layout(&self) -> bool {
        false
    }

    fn queue_set(&mut self, queue: u16, size: u32, table: u64, driver: u64, device: u64) {
        self.write(reg::QUEUE_SEL, queue.into());
        self.write(reg::QUEUE_NUM, size);
        for (low, addr) in [
            (reg::QUEUE_DESC_LOW, table),
            (reg::QUEUE_DRIVER_LOW, driver),
            (reg::QUEUE_DEVICE_LOW, device),
        ] {
            self.write(low, addr as u32);
            self.write(low + 4, (addr >> 32) as u32);
        }
        self.write(reg::QUEUE_READY, 1);
    }

    fn queue_unset(&mut self, queue: u16) {
        self.write(reg::QUEUE_SEL, queue.into());
        self.write(reg::QUEUE_READY, 0);
        assert!(eventually(|| self.read(reg::QUEUE_READY) == 0));
    }

    fn queue_used(&mut self, queue: u16) -> bool {
        self.write(reg::QUEUE_SEL, queue.into());
        self.read(reg::QUEUE_READY) != 0
    }

    fn ack_interrupt(&mut self) -> InterruptStatus {
        let status = self.read(reg::INTERRUPT_STATUS);
        self.write(reg::INTERRUPT_ACK, status);
        InterruptStatus::from_bits_truncate(status)
    }

    fn read_config_generation(&self) -> u32 {
        self.read(reg::CONFIG_GENERATION)
    }

    fn read_config_space<T: FromBytes + IntoBytes>(&self, offset: usize) -> Result<T, Error> {
        let mut value = T::new_zeroed();
        self.0
            .read(reg::CONFIG + offset as u64, value.as_mut_bytes());
        Ok(value)
    }

    fn write_config_space<T>(&mut self, offset: usize, value: T) -> Result<(), Error>
    where
        T: IntoBytes + Immutable,
    {
        self.0.write(reg::CONFIG + offset as u64, value.as_bytes());
        Ok(())
    }
}

type Error = virtio_drivers::Error;
type Disk = VirtIOBlk<TestHal, Window>;

/// A disk, what is on it, and the driver, which is dropped first.
fn disk() -> (MmioBlock, Arc<MemoryBackend>, Disk) {
    let backend = Arc::new(MemoryBackend::writable(&pattern(SECTORS * SECTOR_SIZE)).unwrap());
    let memory = ARENA.with_borrow(|arena| arena.memory.clone());
    let config = BlockConfig {
        id: "another driver".into(),
        ..BlockConfig::new("vdo")
    };
    let edges = Arc::new(Edges::default());
    let device = BlockDevice::on_mmio(memory, backend.clone(), config, edges).unwrap();
    let disk = Disk::new(Window(device.bus_device())).unwrap();
    (device, backend, disk)
}

#[test]
fn it_finds_the_disk() {
    let (device, _, mut disk) = disk();
    assert_eq!(disk.capacity(), SECTORS as u64);
    assert!(!disk.readonly());
    let mut id = [0; 20];
    assert_eq!(disk.device_id(&mut id).unwrap(), 14);
    assert_eq!(&id[..14], b"another driver");
    disk.flush().unwrap();
    assert_eq!(device.counters().flushes, 1);
}

#[test]
fn it_learns_of_errors() {
    let (device, backend, mut disk) = disk();
    let last = SECTORS - 1;
    let read = disk.read_blocks(last, &mut [0; 1024]);
    assert_eq!(read, Err(Error::IoError));
    let buffer = [0x5a; 1024];
    assert_eq!(disk.write_blocks(last, &buffer), Err(Error::IoError));
    disk.write_blocks(last, &buffer[..512]).unwrap();
    assert_eq!(device.counters().errors, 2);
    drop(disk);
    assert_eq!(backend.contents()[last * 512..], [0x5a; 512]);
}

#[test]
fn it_keeps_several_requests_in_flight() {
    let (_device, _, mut disk) = disk();
    let mut reads: Vec<_> = (0..5)
        .map(|n| {
            (
                n * 50,
                BlkReq::default(),
                BlkResp::default(),
                [0; SECTOR_SIZE],
            )
        })
        .collect();
    let mut tokens = HashMap::new();
    for (position, (sector, request, response, buffer)) in reads.iter_mut().enumerate() {
        // SAFETY: `reads` is not moved, and looked at only when the request has completed.
        let token = unsafe { disk.read_blocks_nb(*sector, request, buffer, response) };
        tokens.insert(token.unwrap(), position);
    }
    while !tokens.is_empty() {
        assert!(eventually(|| disk.peek_used().is_some()));
        let token = disk.peek_used().unwrap();
        let (sector, request, response, buffer) = &mut reads[tokens.remove(&token).unwrap()];
        // SAFETY: these are what the request with this token was started with.
        unsafe { disk.complete_read_blocks(token, request, buffer, response) }.unwrap();
        assert_eq!(
            buffer[..],
            pattern(SECTORS * SECTOR_SIZE)[*sector * 512..][..512]
        );
    }
}

#[derive(Clone, Debug)]
enum Step {
    Read(usize, usize),
    Write(usize, usize, u8),
    Flush,
    Restart,
}

fn step() -> impl Strategy<Value = Step> {
    let place = || (0..SECTORS, 1usize..20);
    prop_oneof![
        4 => place().prop_map(|(sector, count)| Step::Read(sector, count)),
        4 => (place(), any::<u8>()).prop_map(|((s, count), byte)| Step::Write(s, count, byte)),
        1 => Just(Step::Flush),
        1 => Just(Step::Restart),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn it_reads_what_it_wrote(steps in prop::collection::vec(step(), 1..60)) {
        let (device, backend, mut disk) = disk();
        let mut model = pattern(SECTORS * SECTOR_SIZE);
        for step in steps {
            match step {
                Step::Read(sector, count) => {
                    let mut buffer = vec![0; count * SECTOR_SIZE];
                    let read = disk.read_blocks(sector, &mut buffer);
                    match model.get(sector * SECTOR_SIZE..(sector + count) * SECTOR_SIZE) {
                        Some(wanted) => prop_assert!(read.is_ok() && buffer == wanted),
                        None => prop_assert_eq!(read, Err(Error::IoError)),
                    }
                }
                Step::Write(sector, count, byte) => {
                    let buffer = vec![byte; count * SECTOR_SIZE];
                    let written = disk.write_blocks(sector, &buffer);
                    match model.get_mut(sector * SECTOR_SIZE..(sector + count) * SECTOR_SIZE) {
                        Some(place) => {
                            prop_assert!(written.is_ok());
                            place.copy_from_slice(&buffer);
                        }
                        None => prop_assert_eq!(written, Err(Error::IoError)),
                    }
                }
                Step::Flush => disk.flush().unwrap(),
                Step::Restart => {
                    drop(disk);
                    disk = Disk::new(Window(device.bus_device())).unwrap();
                }
            }
        }
        drop(disk);
        prop_assert!(backend.contents() == model);
    }
}
