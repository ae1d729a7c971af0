//! The driver against a device that is not ours (`tests/support/strict_disk.rs`): what it says must be
//! what the specification has a driver say, whatever the device offers.

#![allow(unsafe_code, clippy::unwrap_used)]

#[path = "../../../tests/support/strict_disk.rs"]
mod strict_disk;

use std::ptr::NonNull;
use std::sync::Arc;

use iolite_devices::bus::BusDevice;
use iolite_devices_abi::blk::{
    F_BLK_SIZE, F_CONFIG_WCE, F_DISCARD, F_FLUSH, F_MQ, F_SEG_MAX, F_SIZE_MAX, F_TOPOLOGY,
    F_WRITE_ZEROES, T_IN,
};
use iolite_devices_abi::status::{F_EVENT_IDX, F_INDIRECT_DESC};
use iolite_virtio_driver::{
    Disk, DiskError, DmaRegion, MAX_SEGMENTS, Operation, Outcome, Registers, Segment, SubmitError,
};
use strict_disk::{Model, StrictDisk};
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryMmap};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

const DMA_AT: u64 = 0x10_0000;
const BUFFERS_AT: u64 = 0x20_0000;
const MEMORY_BYTES: usize = 4 << 20;
const SECTORS: usize = 1536;

struct Window(Arc<StrictDisk>);

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
    device: Arc<StrictDisk>,
    disk: Disk<Window>,
}

impl Machine {
    fn try_new(model: Model) -> Result<Machine, DiskError> {
        let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), MEMORY_BYTES)]).unwrap();
        let memory = Arc::new(memory);
        let interrupt = Arc::new(EventFd::new(EFD_NONBLOCK).unwrap());
        let content = (0..SECTORS * 512).map(|i| (i / 512 + i) as u8).collect();
        let device = StrictDisk::new(model, content, memory.clone(), interrupt);
        let device = Arc::new(device);
        let bytes = Disk::<Window>::DMA_BYTES;
        let pointer = memory.get_host_address(GuestAddress(DMA_AT)).unwrap();
        // SAFETY: the memory is page-aligned, zero and mapped as long as the machine lives, and no
        // test touches it.
        let region = unsafe { DmaRegion::new(NonNull::new(pointer).unwrap(), DMA_AT, bytes) };
        let disk = Disk::new(Window(device.clone()), region)?;
        Ok(Machine {
            memory,
            device,
            disk,
        })
    }

    fn new(model: Model) -> Machine {
        Machine::try_new(model).unwrap()
    }

    /// Submits, notifies, and takes the completions: the device has no patience.
    fn run(&mut self, operation: Operation, segments: &[Segment]) -> Outcome {
        self.disk.submit(operation, segments, 7).unwrap();
        self.disk.notify();
        let done: Vec<_> = std::iter::from_fn(|| self.disk.harvest()).collect();
        assert_eq!(done.len(), 1, "{done:?}");
        assert_eq!(done[0].cookie, 7);
        assert_eq!(self.disk.in_flight(), 0);
        done[0].outcome
    }

    fn bytes(&self, segments: &[Segment]) -> Vec<u8> {
        let mut all = Vec::new();
        for segment in segments {
            let mut bytes = vec![0; segment.bytes as usize];
            let at = GuestAddress(segment.physical);
            self.memory.read_slice(&mut bytes, at).unwrap();
            all.extend(bytes);
        }
        all
    }

    /// Reads and writes through `segments`, and compares.
    fn moves(&mut self, segments: &[Segment]) {
        let len: usize = segments.iter().map(|segment| segment.bytes as usize).sum();
        let read = Operation::Read { sector: 8 };
        assert_eq!(self.run(read, segments), Outcome::Ok);
        assert!(self.bytes(segments) == self.device.bytes(4096..4096 + len));
        let write = Operation::Write { sector: 1000 };
        assert_eq!(self.run(write, segments), Outcome::Ok);
        assert!(self.bytes(segments) == self.device.bytes(512_000..512_000 + len));
    }

    fn no_complaints(&self) {
        assert_eq!(self.device.complaints(), Vec::<String>::new());
    }
}

/// Pages that do not follow each other.
fn pages(count: u64) -> Vec<Segment> {
    let page = |i| Segment {
        physical: BUFFERS_AT + 8192 * i,
        bytes: 4096,
    };
    (0..count).map(page).collect()
}

#[test]
fn each_step_of_the_status_is_a_write_of_its_own() {
    let machine = Machine::new(Model::plain("vda"));
    assert_eq!(machine.device.statuses(), [0, 1, 3, 0xb, 0xf]);
    machine.no_complaints();
}

#[test]
fn without_seg_max_a_request_has_one_data_segment() {
    let mut machine = Machine::new(Model::plain("vda"));
    assert_eq!(machine.disk.info().max_segments, 1);
    machine.moves(&pages(34));
    assert_eq!(machine.device.take_segments(), [1; 68]);
    assert_eq!(
        machine.run(
            Operation::GetId,
            &[Segment {
                physical: BUFFERS_AT,
                bytes: 20
            }]
        ),
        Outcome::Ok
    );
    machine.no_complaints();
}

#[test]
fn small_limits_are_kept() {
    for (seg_max, size_max, queue_max) in [
        (2, 65536, 256),
        (3, 4096, 64),
        (3, 1536, 16),
        (1, 700, 4),
        (40, 512, 8),
        (0, 512, 128),
    ] {
        for indirect in [0, F_INDIRECT_DESC] {
            let mut machine = Machine::new(Model {
                features: F_SEG_MAX | F_SIZE_MAX | indirect,
                seg_max,
                size_max,
                queue_max,
                ..Model::plain("vda")
            });
            // A device that says 0 is given one.
            for count in [1, 2, 3, 33, MAX_SEGMENTS as u64] {
                machine.moves(&pages(count));
            }
            if seg_max != 0 {
                machine.no_complaints();
            }
        }
    }
}

#[test]
fn a_request_in_parts_ends_once_with_its_first_error() {
    for queue_max in [4, 16, 256] {
        let mut machine = Machine::new(Model {
            queue_max,
            ..Model::plain("vda")
        });
        for failing in [8, 8 + 17 * 8, 8 + 33 * 8] {
            machine.device.fail(T_IN, failing..failing + 1);
            let read = Operation::Read { sector: 8 };
            assert_eq!(machine.run(read, &pages(34)), Outcome::Failed);
            machine.device.fail_nothing();
        }
        machine.moves(&pages(34));
        machine.no_complaints();
    }
}

#[test]
fn what_cannot_be_cut_is_refused_without_a_completion() {
    let mut machine = Machine::new(Model::plain("vda"));
    let half = |i: u64| Segment {
        physical: BUFFERS_AT + i * 8192,
        bytes: 256,
    };
    let read = Operation::Read { sector: 0 };
    let refused = machine.disk.submit(read, &[half(0), half(1)], 1);
    assert_eq!(refused, Err(SubmitError::TooManySegments));
    let refused = machine
        .disk
        .submit(read, &pages(MAX_SEGMENTS as u64 + 1), 1);
    assert_eq!(refused, Err(SubmitError::TooManySegments));
    let refused = machine.disk.queue(0).submit_at_once(read, &pages(2), 1);
    assert_eq!(refused, Err(SubmitError::TooManySegments));
    machine.moves(&pages(1));
    machine.no_complaints();
}

/// While one is not all with the device, others that have to be cut wait, and those that have not may
/// go; each completes once.
#[test]
fn many_requests_in_parts_share_the_slots() {
    let mut machine = Machine::new(Model {
        queue_max: 64,
        nasty: true,
        ..Model::plain("vda")
    });
    let mut submitted = 0;
    let mut seen = Vec::new();
    while seen.len() < 200 {
        while submitted < 200 {
            let read = Operation::Read {
                sector: u64::from(submitted),
            };
            let count = 1 + u64::from(submitted % 7) * 5;
            match machine.disk.submit(read, &pages(count), submitted) {
                Ok(()) => submitted += 1,
                Err(error) => {
                    assert_eq!(error, SubmitError::Full);
                    break;
                }
            }
        }
        machine.disk.notify();
        let before = seen.len();
        machine.disk.harvest_all(|done| {
            assert_eq!(done.outcome, Outcome::Ok);
            seen.push(done.cookie);
        });
        assert!(seen.len() > before, "nothing completes");
    }
    seen.sort_unstable();
    assert!(seen.into_iter().eq(0..200));
    assert!(machine.disk.has_room() && machine.disk.in_flight() == 0);
    machine.no_complaints();
}

#[test]
fn a_reset_forgets_what_is_half_done() {
    let mut machine = Machine::new(Model {
        queue_max: 16,
        ..Model::plain("vda")
    });
    let read = Operation::Read { sector: 0 };
    machine.disk.submit(read, &pages(34), 1).unwrap();
    assert!(!machine.disk.has_room());
    machine.disk.start_reset();
    assert!(machine.disk.is_reset());
    machine.disk.restart().unwrap();
    assert!(machine.disk.has_room() && machine.disk.in_flight() == 0);
    machine.moves(&pages(34));
    machine.no_complaints();
}

#[test]
fn every_subset_of_the_features_is_enough() {
    let known = [
        F_INDIRECT_DESC,
        F_EVENT_IDX,
        F_FLUSH,
        F_SEG_MAX,
        F_SIZE_MAX,
        F_BLK_SIZE,
        F_DISCARD,
        F_WRITE_ZEROES,
        F_MQ,
        F_CONFIG_WCE,
        F_TOPOLOGY,
    ];
    for subset in 0..1u32 << known.len() {
        let chosen = known
            .iter()
            .enumerate()
            .filter(|(i, _)| subset >> i & 1 != 0);
        let features = chosen.fold(0, |all, (_, feature)| all | feature);
        let mut machine = Machine::new(Model {
            features,
            seg_max: 5,
            size_max: 8192,
            nasty: subset % 2 == 0,
            queue_max: 64,
            id: "vda",
        });
        let info = *machine.disk.info();
        assert_eq!(info.sectors, SECTORS as u64);
        assert_eq!(info.flush, features & F_FLUSH != 0);
        machine.moves(&pages(11));
        if info.flush {
            assert_eq!(machine.run(Operation::Flush, &[]), Outcome::Ok);
        }
        assert_eq!(
            machine.device.complaints(),
            Vec::<String>::new(),
            "{features:#x}"
        );
    }
}

#[test]
fn a_device_that_is_never_ready_is_given_up() {
    struct Stuck(Window, u64);
    impl Registers for Stuck {
        fn read(&self, offset: u64) -> u32 {
            use std::sync::atomic::{AtomicU32, Ordering};
            static COUNT: AtomicU32 = AtomicU32::new(1);
            match offset == self.1 {
                true => COUNT.fetch_add(1, Ordering::Relaxed).max(1),
                false => self.0.read(offset),
            }
        }
        fn write(&self, offset: u64, value: u32) {
            self.0.write(offset, value);
        }
    }
    use iolite_devices_abi::mmio::{CONFIG_GENERATION, STATUS};
    for (register, error) in [
        (STATUS, DiskError::NoReset),
        (CONFIG_GENERATION, DiskError::Configuration),
    ] {
        let machine = Machine::new(Model::plain("vda"));
        let bytes = Disk::<Stuck>::DMA_BYTES;
        let pointer = machine
            .memory
            .get_host_address(GuestAddress(DMA_AT))
            .unwrap();
        // SAFETY: as in `Machine::try_new`; the other driver is not used any more.
        let region = unsafe { DmaRegion::new(NonNull::new(pointer).unwrap(), DMA_AT, bytes) };
        let stuck = Stuck(Window(machine.device.clone()), register);
        assert_eq!(Disk::new(stuck, region).err(), Some(error));
    }
}

#[test]
fn segments_shorter_than_a_sector_are_no_disk() {
    let model = Model {
        features: F_SIZE_MAX,
        size_max: 511,
        ..Model::plain("vda")
    };
    assert_eq!(
        Machine::try_new(model).err(),
        Some(DiskError::Configuration)
    );
}
