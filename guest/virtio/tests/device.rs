//! The driver against iolite's own device: the same code on both sides as in a machine, without the
//! machine. Registers are accessed through the device's window, DMA memory is a piece of the memory
//! that the device sees, and an eventfd is the interrupt line.

#![allow(unsafe_code, clippy::unwrap_used)]

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::ptr::NonNull;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use iolite_devices::block::backend::memory::MemoryBackend;
use iolite_devices::bus::BusDevice;
use iolite_devices::virtio::blk::{BlockConfig, BlockDevice, MmioBlock};
use iolite_devices_abi::{blk, mmio, status};
use iolite_virtio_driver::{
    Disk, DiskError, DmaRegion, Operation, Outcome, Queue, Registers, Segment, SubmitError,
};
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryMmap};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

const MEMORY_BYTES: usize = 16 << 20;
const DMA_AT: u64 = 0x10_0000;
const BUFFERS_AT: u64 = 0x80_0000;
const PAGE: u64 = 4096;
const DISK_SECTORS: u64 = 4096;

/// The device's window, as the driver sees it.
struct Window(Arc<dyn BusDevice>);

impl Registers for Window {
    fn read(&self, offset: u64) -> u32 {
        let mut bytes = [0; 4];
        self.0.read(offset, &mut bytes);
        u32::from_le_bytes(bytes)
    }

    fn write(&self, offset: u64, value: u32) {
        self.0.write(offset, &value.to_le_bytes());
    }
}

struct Machine {
    memory: Arc<GuestMemoryMmap>,
    interrupt: EventFd,
    // Before the device, which must outlive it.
    disk: Disk<Window>,
    _device: MmioBlock,
}

impl Machine {
    fn new(queue_size: u16) -> Machine {
        let content: Vec<u8> = (0..DISK_SECTORS * 512)
            .map(|i| (i / 512 + i) as u8)
            .collect();
        Machine::with(queue_size, MemoryBackend::writable(&content).unwrap())
    }

    fn with(queue_size: u16, backend: MemoryBackend) -> Machine {
        let config = BlockConfig {
            id: "driver-test".into(),
            queue_size,
            ..BlockConfig::new("vda")
        };
        let (memory, interrupt, device) = device(backend, config);
        let disk = Disk::new(Window(device.bus_device()), dma(&memory)).unwrap();
        Machine {
            memory,
            interrupt,
            disk,
            _device: device,
        }
    }

    /// Waits for an interrupt and takes every completion.
    fn completions(&mut self) -> Vec<(u32, Outcome)> {
        let end = Instant::now() + Duration::from_secs(20);
        loop {
            let mut done = Vec::new();
            if self.interrupt.read().is_ok() {
                self.disk.acknowledge();
                while let Some(completion) = self.disk.harvest() {
                    done.push((completion.cookie, completion.outcome));
                }
            }
            if !done.is_empty() {
                return done;
            }
            assert!(Instant::now() < end, "no completion came");
            std::thread::yield_now();
        }
    }

    fn one(&mut self, operation: Operation, segments: &[Segment]) -> Outcome {
        self.disk.submit(operation, segments, 77).unwrap();
        self.disk.notify();
        let done = self.completions();
        assert_eq!(done.len(), 1);
        assert_eq!(done[0].0, 77);
        done[0].1
    }

    fn bytes(&self, at: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.memory
            .read_slice(&mut bytes, GuestAddress(at))
            .unwrap();
        bytes
    }
}

fn device(
    backend: MemoryBackend,
    config: BlockConfig,
) -> (Arc<GuestMemoryMmap>, EventFd, MmioBlock) {
    let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), MEMORY_BYTES)]).unwrap();
    let memory = Arc::new(memory);
    let interrupt = EventFd::new(EFD_NONBLOCK).unwrap();
    let line = Arc::new(interrupt.try_clone().unwrap());
    let device = BlockDevice::on_mmio(memory.clone(), Arc::new(backend), config, line).unwrap();
    (memory, interrupt, device)
}

fn dma(memory: &GuestMemoryMmap) -> DmaRegion {
    dma_of_queue(memory, 0)
}

fn dma_of_queue(memory: &GuestMemoryMmap, queue: usize) -> DmaRegion {
    let bytes = Disk::<Window>::DMA_BYTES;
    let at = DMA_AT + (queue * bytes.next_multiple_of(PAGE as usize)) as u64;
    assert!(at + bytes as u64 <= BUFFERS_AT);
    let pointer = memory.get_host_address(GuestAddress(at)).unwrap();
    // SAFETY: the memory is page-aligned, zero and mapped as long as the machine lives, the device
    // finds it there, each queue has its own piece, and no test touches it.
    unsafe { DmaRegion::new(NonNull::new(pointer).unwrap(), at, bytes) }
}

fn buffer(index: u64, bytes: u32) -> Segment {
    Segment {
        physical: BUFFERS_AT + index * PAGE,
        bytes,
    }
}

fn expected(sector: u64, len: u64) -> Vec<u8> {
    (sector * 512..sector * 512 + len)
        .map(|i| (i / 512 + i) as u8)
        .collect()
}

#[test]
fn a_disk_says_what_it_is() {
    let machine = Machine::new(256);
    let info = *machine.disk.info();
    assert_eq!(info.sectors, DISK_SECTORS);
    assert!(!info.read_only && info.flush);
    assert_eq!(info.max_in_flight, 256);
    assert!(info.max_segments >= 33);
}

#[test]
fn what_is_written_is_read_back_through_scattered_pages() {
    let mut machine = Machine::new(256);
    let pages: Vec<Segment> = (0..32).map(|i| buffer(2 * i, 4096)).collect();
    assert_eq!(
        machine.one(Operation::Read { sector: 8 }, &pages),
        Outcome::Ok
    );
    for (i, page) in pages.iter().enumerate() {
        let sector = 8 + 8 * i as u64;
        assert_eq!(
            machine.bytes(page.physical, 4096),
            expected(sector, 4096),
            "page {i}"
        );
    }
    let from = buffer(100, 1024);
    machine
        .memory
        .write_slice(&[0xa5; 1024], GuestAddress(from.physical))
        .unwrap();
    assert_eq!(
        machine.one(Operation::Write { sector: 9 }, &[from]),
        Outcome::Ok
    );
    assert_eq!(machine.one(Operation::Flush, &[]), Outcome::Ok);
    assert_eq!(
        machine.one(Operation::Read { sector: 8 }, &[buffer(0, 2048)]),
        Outcome::Ok
    );
    let mut whole = expected(8, 2048);
    whole[512..1536].fill(0xa5);
    assert_eq!(machine.bytes(BUFFERS_AT, 2048), whole);
}

#[test]
fn the_identification_is_read() {
    let mut machine = Machine::new(256);
    assert_eq!(machine.one(Operation::GetId, &[buffer(0, 20)]), Outcome::Ok);
    assert_eq!(
        &machine.bytes(BUFFERS_AT, 20),
        b"driver-test\0\0\0\0\0\0\0\0\0"
    );
}

#[test]
fn requests_beyond_the_disk_fail_and_leave_the_driver_whole() {
    let mut machine = Machine::new(256);
    let beyond = Operation::Read {
        sector: DISK_SECTORS,
    };
    assert_eq!(machine.one(beyond, &[buffer(0, 512)]), Outcome::Failed);
    assert_eq!(
        machine.one(Operation::Read { sector: 0 }, &[buffer(0, 512)]),
        Outcome::Ok
    );
}

#[test]
fn too_many_segments_are_refused_without_a_completion() {
    let mut machine = Machine::new(256);
    let most = machine.disk.info().max_segments;
    let segments: Vec<Segment> = (0..=most as u64).map(|i| buffer(i, 512)).collect();
    let refused = machine
        .disk
        .submit(Operation::Read { sector: 0 }, &segments, 1);
    assert_eq!(refused, Err(SubmitError::TooManySegments));
    assert_eq!(
        machine.one(Operation::Read { sector: 0 }, &segments[..most]),
        Outcome::Ok
    );
}

#[test]
fn a_full_queue_says_so_and_every_request_completes_once() {
    for queue_size in [16, 256] {
        let mut machine = Machine::new(queue_size);
        let slots = u32::from(machine.disk.info().max_in_flight);
        for cookie in 0..slots {
            let sector = u64::from(cookie) % (DISK_SECTORS - 8);
            let segment = buffer(u64::from(cookie) % 512, 512);
            machine
                .disk
                .submit(Operation::Read { sector }, &[segment], cookie)
                .unwrap();
        }
        let refused = machine
            .disk
            .submit(Operation::Read { sector: 0 }, &[buffer(0, 512)], slots);
        assert_eq!(refused, Err(SubmitError::Full));
        assert!(!machine.disk.has_room());
        machine.disk.notify();
        let mut seen = HashMap::new();
        while seen.len() < slots as usize {
            for (cookie, outcome) in machine.completions() {
                assert_eq!(outcome, Outcome::Ok);
                assert!(
                    seen.insert(cookie, ()).is_none(),
                    "{cookie} completed twice"
                );
            }
        }
        assert!(seen.keys().all(|cookie| *cookie < slots));
        assert!(machine.disk.has_room());
    }
}

#[test]
fn indices_wrap() {
    let mut machine = Machine::new(64);
    let mut next = 0u32;
    let mut done = 0u32;
    while done < 70_000 {
        while next < 70_000 && machine.disk.has_room() {
            let sector = u64::from(next) % DISK_SECTORS;
            let segment = buffer(u64::from(next) % 64, 512);
            machine
                .disk
                .submit(Operation::Read { sector }, &[segment], next)
                .unwrap();
            next += 1;
        }
        machine.disk.notify();
        for (_, outcome) in machine.completions() {
            assert_eq!(outcome, Outcome::Ok);
            done += 1;
        }
    }
    assert!(
        machine.disk.notifications() < 70_000,
        "notifications are suppressed"
    );
}

#[test]
fn a_driver_that_polls_gets_every_completion_and_hardly_an_interrupt() {
    let mut machine = Machine::new(64);
    machine.disk.queue(0).set_interrupts(false);
    let end = Instant::now() + Duration::from_secs(20);
    for cookie in 0..70_000 {
        let sector = u64::from(cookie) % DISK_SECTORS;
        let read = Operation::Read { sector };
        machine
            .disk
            .submit(read, &[buffer(0, 512)], cookie)
            .unwrap();
        machine.disk.notify();
        let done = loop {
            if let Some(done) = machine.disk.queue(0).poll() {
                break done;
            }
            assert!(Instant::now() < end, "request {cookie} does not complete");
            std::thread::yield_now();
        };
        assert_eq!((done.cookie, done.outcome), (cookie, Outcome::Ok));
    }
    let interrupts = machine.interrupt.read().unwrap_or(0);
    assert!(interrupts <= 2, "{interrupts} interrupts");
    machine.disk.queue(0).set_interrupts(true);
    let read = Operation::Read { sector: 8 };
    assert_eq!(machine.one(read, &[buffer(0, 512)]), Outcome::Ok);
}

#[test]
fn each_queue_of_several_carries_requests() {
    const ROUNDS: u32 = 1000;
    for (offered, wanted, used) in [(4, 4, 4), (4, 3, 3), (2, 5, 2), (1, 2, 1), (3, 1, 1)] {
        let config = BlockConfig {
            queues: offered,
            queue_size: 16,
            ..BlockConfig::new("vda")
        };
        let (memory, _interrupt, device) =
            device(MemoryBackend::writable(&[7; 1 << 20]).unwrap(), config);
        let regions = (0..wanted).map(|queue| dma_of_queue(&memory, queue));
        let window = Window(device.bus_device());
        let mut disk: Disk<Window, Vec<Queue>> = Disk::with_queues(window, regions).unwrap();
        assert_eq!(disk.queues(), used, "{wanted} of {offered}");
        let end = Instant::now() + Duration::from_secs(20);
        for round in 0..ROUNDS {
            for queue in 0..used {
                let read = Operation::Read {
                    sector: u64::from(round),
                };
                let mut queue = disk.queue(queue);
                queue.submit(read, &[buffer(0, 512)], round).unwrap();
                queue.notify();
            }
            for queue in 0..used {
                let done = loop {
                    if let Some(done) = disk.queue(queue).poll() {
                        break done;
                    }
                    assert!(Instant::now() < end, "queue {queue} does not complete");
                    std::thread::yield_now();
                };
                assert_eq!((done.cookie, done.outcome), (round, Outcome::Ok));
                assert_eq!(disk.queue(queue).poll(), None, "one completion for each");
            }
        }
        let notifications = disk.notifications();
        assert!(notifications >= used as u64, "{notifications}");
    }
}

/// A ring that makes no sense: nothing completes until the device is reset, then all of it fails.
#[test]
fn what_a_device_that_gave_up_had_in_flight_fails() {
    for queue_size in [16, 256] {
        let mut machine = Machine::new(queue_size);
        assert!(!machine.disk.take_change() && !machine.disk.needs_reset());
        let read = Operation::Read { sector: 1 };
        for round in 0..3 {
            assert_eq!(machine.one(read, &[buffer(0, 512)]), Outcome::Ok);
            for cookie in 0..3 {
                machine
                    .disk
                    .submit(read, &[buffer(0, 512)], cookie)
                    .unwrap();
            }
            // The index, two bytes into the available ring, which follows the descriptors.
            let index = GuestAddress(DMA_AT + 16 * u64::from(queue_size) + 2);
            machine.memory.write_slice(&[0x77, 0x77], index).unwrap();
            let window = Window(machine._device.bus_device());
            window.write(iolite_devices_abi::mmio::QUEUE_NOTIFY, 0);
            let end = Instant::now() + Duration::from_secs(20);
            while !machine.disk.take_change() {
                assert!(Instant::now() < end, "round {round}: it does not give up");
                std::thread::yield_now();
            }
            assert!(machine.disk.needs_reset());
            assert_eq!(machine.disk.harvest(), None);

            machine.disk.start_reset();
            while !machine.disk.is_reset() {
                std::thread::yield_now();
            }
            machine.disk.abandon();
            let mut failed = Vec::new();
            machine
                .disk
                .harvest_all(|done| failed.push((done.cookie, done.outcome)));
            failed.sort_by_key(|done| done.0);
            assert_eq!(failed, [0, 1, 2].map(|cookie| (cookie, Outcome::Failed)));
            machine.disk.restart().unwrap();
            assert!(!machine.disk.needs_reset() && machine.disk.in_flight() == 0);
            let _ = machine.interrupt.read();
        }
        assert_eq!(machine.one(read, &[buffer(0, 512)]), Outcome::Ok);
        assert_eq!(machine.bytes(BUFFERS_AT, 512), expected(1, 512));
    }
}

#[test]
fn a_disk_needs_memory_for_a_queue() {
    let (memory, _interrupt, device) = device(
        MemoryBackend::writable(&[0; 4096]).unwrap(),
        BlockConfig::new("vda"),
    );
    let window = || Window(device.bus_device());
    let none = Disk::<_, Vec<Queue>>::with_queues(window(), []);
    assert_eq!(none.err(), Some(DiskError::NoQueue));
    assert!(Disk::new(window(), dma(&memory)).is_ok());
}

#[test]
fn a_window_without_a_device_is_refused() {
    struct Nothing;
    impl Registers for Nothing {
        fn read(&self, _: u64) -> u32 {
            u32::MAX
        }
        fn write(&self, _: u64, _: u32) {}
    }
    let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), MEMORY_BYTES)]).unwrap();
    assert_eq!(
        Disk::new(Nothing, dma(&memory)).err(),
        Some(DiskError::NotVirtioMmio)
    );
}

/// A device that does nothing, and wants no notification, before a processor whose locked
/// instructions are plain ones.
struct Unordered {
    written: RefCell<HashMap<u64, u32>>,
    notified: Rc<Cell<u32>>,
}

impl Registers for Unordered {
    fn read(&self, offset: u64) -> u32 {
        let written = |offset| self.written.borrow().get(&offset).copied();
        match offset {
            mmio::MAGIC_VALUE => mmio::MAGIC,
            mmio::VERSION => mmio::VERSION_2,
            mmio::DEVICE_ID => blk::DEVICE_ID,
            mmio::DEVICE_FEATURES if written(mmio::DEVICE_FEATURES_SEL) == Some(0) => {
                (status::F_EVENT_IDX | status::F_INDIRECT_DESC) as u32
            }
            mmio::DEVICE_FEATURES => (status::F_VERSION_1 >> 32) as u32,
            mmio::QUEUE_NUM_MAX => 16,
            mmio::STATUS => written(offset).unwrap_or(0),
            _ => 0,
        }
    }

    fn write(&self, offset: u64, value: u32) {
        self.written.borrow_mut().insert(offset, value);
        if offset == mmio::DRIVER_FEATURES {
            assert_eq!(u64::from(value) & status::F_EVENT_IDX, 0, "EVENT_IDX");
        }
        if offset == mmio::QUEUE_NOTIFY {
            self.notified.set(self.notified.get() + 1);
        }
    }

    fn locked_instructions_order(&self) -> bool {
        false
    }
}

#[test]
fn where_locked_instructions_are_plain_ones_nothing_is_left_unsaid() {
    const USED_F_NO_NOTIFY: u16 = 1;
    let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), MEMORY_BYTES)]).unwrap();
    let registers = Unordered {
        written: RefCell::default(),
        notified: Rc::default(),
    };
    let notified = Rc::clone(&registers.notified);
    let mut disk = Disk::new(registers, dma(&memory)).unwrap();
    // Where the rings are: the descriptors are before them.
    let avail = DMA_AT + 16 * 16;
    let used = (avail + 6 + 2 * 16).next_multiple_of(64);
    memory
        .write_obj(USED_F_NO_NOTIFY, GuestAddress(used))
        .unwrap();
    disk.queue(0).set_interrupts(false);
    for sector in 0..3 {
        let read = Operation::Read { sector };
        disk.submit(read, &[buffer(0, 512)], 1).unwrap();
        disk.notify();
    }
    assert_eq!(notified.get(), 3, "a device that may be asleep is notified");
    let [flags, index]: [u16; 2] = memory.read_obj(GuestAddress(avail)).unwrap();
    assert_eq!((flags, index), (0, 3), "interrupts stay on");
}
