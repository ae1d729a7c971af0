//! Random sequences of register accesses against a model of the transport: virtio 1.2, sections
//! 2.1, 3.1.1 and 4.2, and rows 1 to 29 of the table of hostile inputs, a second time. After each
//! access every register that can be read says what the model says.

use iolite_devices_abi::blk::{F_CONFIG_WCE, F_DISCARD, F_FLUSH, config as field};
use iolite_devices_abi::mmio as reg;
use iolite_devices_abi::status::*;
use proptest::prelude::*;

use super::driver::*;

/// The steps of the device status field, in order.
const STEPS: [u32; 5] = [
    0,
    ACKNOWLEDGE,
    ACKNOWLEDGE | DRIVER,
    ACKNOWLEDGE | DRIVER | FEATURES_OK,
    ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK,
];

#[derive(Clone, Copy, Debug)]
enum Access {
    Write(u64, u32),
    /// To the configuration space.
    Configure(u64, u8),
    /// The next step of the status.
    Advance,
    /// All features at once.
    Accept(u64),
    /// All addresses of queue 0 at once: descriptor table, available ring, used ring.
    Place([u64; 3]),
}

fn access() -> impl Strategy<Value = Access> {
    use Access::{Accept, Advance, Configure, Place, Write};
    let features = FEATURES | F_CONFIG_WCE | F_DISCARD;
    let features = prop_oneof![
        4 => Just(features),
        1 => Just(features & !F_FLUSH),
        1 => Just(features & !F_VERSION_1),
        2 => Just(features | F_RING_RESET),
        1 => (0..64).prop_map(move |bit| features | 1u64 << bit),
    ];
    let places = [
        // The usual ones; not aligned; not in memory; over a border of it.
        prop_oneof![6 => Just(DESC), 1 => Just(DESC + 8), 1 => Just(HOLE), 1 => Just(SEAM - 16)],
        prop_oneof![6 => Just(AVAIL), 1 => Just(AVAIL + 1), 1 => Just(1 << 40), 1 => Just(HOLE - 4)],
        prop_oneof![6 => Just(USED), 1 => Just(USED + 2), 1 => Just(u64::MAX - 3), 1 => Just(HOLE - 4)],
    ];
    let registers = (0u64..0x40).prop_map(|index| 4 * index);
    let values = prop_oneof![4 => 0u32..4, 2 => Just(u32::from(QUEUE_SIZE)), 1 => any::<u32>()];
    let status = prop_oneof![
        4 => prop::sample::select(&STEPS[1..]),
        1 => Just(0),
        1 => Just(FAILED),
        1 => any::<u8>().prop_map(u32::from),
        1 => any::<u32>(),
    ];
    let sizes = prop_oneof![4 => Just(8), 2 => Just(16), 1 => Just(0), 1 => Just(12), 1 => Just(32),
        1 => Just(0x1_0008)];
    let config = (28u64..36, 0u8..3);
    prop_oneof![
        8 => Just(Advance),
        3 => features.prop_map(Accept),
        3 => places.prop_map(Place),
        3 => (0u32..3).prop_map(|value| Write(reg::QUEUE_READY, value)),
        1 => (0u32..3).prop_map(|value| Write(reg::QUEUE_RESET, value)),
        2 => status.prop_map(|value| Write(reg::STATUS, value)),
        1 => sizes.prop_map(|size| Write(reg::QUEUE_NUM, size)),
        1 => prop_oneof![4 => Just(0), 1 => any::<u32>()].prop_map(|n| Write(reg::QUEUE_SEL, n)),
        2 => config.prop_map(|(offset, byte)| Configure(offset, byte)),
        // No address is 0, which a device may take for one that was never set.
        3 => (registers, values).prop_map(|(offset, value)| match offset {
            reg::QUEUE_DESC_LOW.. => Write(offset, value.max(1)),
            _ => Write(offset, value),
        }),
    ]
}

/// The device, as far as registers tell.
#[derive(Debug)]
struct Model {
    offered: u64,
    status: u32,
    needs_reset: bool,
    device_features_sel: u32,
    driver_features_sel: u32,
    driver_features: u64,
    queue_sel: u32,
    queue: Queue,
    write_back: bool,
    interrupt_status: u32,
}

/// Queue 0, the only one.
#[derive(Debug)]
struct Queue {
    size: u32,
    ready: bool,
    /// It was reset while the device was live: the driver sets it up again.
    was_reset: bool,
    /// Low and high half of each address, once written.
    places: [[Option<u32>; 2]; 3],
}

impl Model {
    fn new(offered: u64) -> Self {
        Model {
            offered,
            status: 0,
            needs_reset: false,
            device_features_sel: 0,
            driver_features_sel: 0,
            driver_features: 0,
            queue_sel: 0,
            queue: Queue::new(),
            write_back: true,
            interrupt_status: 0,
        }
    }

    fn write(&mut self, offset: u64, value: u32) {
        let live = self.status & DRIVER_OK != 0;
        match offset {
            reg::STATUS => self.set_status(value),
            reg::DEVICE_FEATURES_SEL => self.device_features_sel = value,
            reg::DRIVER_FEATURES_SEL => self.driver_features_sel = value,
            reg::DRIVER_FEATURES if self.status & FEATURES_OK == 0 => {
                let shift = 32 * self.driver_features_sel.min(2);
                if shift < 64 {
                    self.driver_features &= !(0xffff_ffff << shift);
                    self.driver_features |= u64::from(value) << shift;
                }
            }
            reg::QUEUE_SEL => self.queue_sel = value,
            reg::INTERRUPT_ACK => self.interrupt_status &= !value,
            _ if self.queue_sel != 0 => {}
            reg::QUEUE_READY if value == 0 => self.queue.ready = false,
            reg::QUEUE_RESET if value == 1 && self.resets_queues() => {
                self.queue = Queue::new();
                self.queue.was_reset = live;
            }
            _ if self.queue.ready || live && !self.queue.is_free_again(self.status) => {}
            reg::QUEUE_READY if value == 1 => {
                if self.queue.is_possible() {
                    self.queue.ready = true;
                    self.queue.was_reset = false;
                } else {
                    self.fail();
                }
            }
            reg::QUEUE_NUM if [1, 2, 4, 8, 16].contains(&value) => self.queue.size = value,
            reg::QUEUE_NUM => self.fail(),
            reg::QUEUE_DESC_LOW | reg::QUEUE_DESC_HIGH => self.place(0, offset, value),
            reg::QUEUE_DRIVER_LOW | reg::QUEUE_DRIVER_HIGH => self.place(1, offset, value),
            reg::QUEUE_DEVICE_LOW | reg::QUEUE_DEVICE_HIGH => self.place(2, offset, value),
            _ => {}
        }
    }

    /// Whether QueueReset means something.
    fn resets_queues(&self) -> bool {
        let negotiated = self.status & FEATURES_OK != 0 && self.driver_features & F_RING_RESET != 0;
        negotiated && self.status & FAILED == 0
    }

    fn fail(&mut self) {
        // A live driver hears of it once.
        if self.status & DRIVER_OK != 0 && !self.needs_reset {
            self.interrupt_status |= reg::INTERRUPT_CONFIG_CHANGE;
        }
        self.needs_reset = true;
    }

    fn place(&mut self, part: usize, offset: u64, value: u32) {
        let half = usize::from(offset % 8 == 4);
        self.queue.places[part][half] = Some(value);
    }

    fn set_status(&mut self, value: u32) {
        if value == 0 {
            *self = Model::new(self.offered);
            return;
        }
        let steps = value & !(FAILED | DEVICE_NEEDS_RESET);
        let follows = STEPS.contains(&steps) && steps & self.status == self.status;
        if self.status & FAILED != 0 || !follows {
            return;
        }
        let new = steps & !self.status;
        if value & FAILED != 0 {
            self.status |= FAILED;
        } else if new & DRIVER_OK != 0 {
            // Only after FEATURES_OK, in a write of its own.
            if new == DRIVER_OK && !self.needs_reset {
                self.status |= DRIVER_OK;
            }
        } else {
            self.status |= new & !FEATURES_OK;
            let accepted = self.driver_features;
            let possible = accepted & !self.offered == 0 && accepted & F_VERSION_1 != 0;
            if new & FEATURES_OK != 0 && possible {
                self.status |= FEATURES_OK;
                self.write_back = accepted & F_CONFIG_WCE == 0 || accepted & F_FLUSH != 0;
            }
        }
    }

    fn configure(&mut self, offset: u64, byte: u8) {
        let settled = self.status & FEATURES_OK != 0;
        let chooses = settled && self.driver_features & F_CONFIG_WCE != 0;
        if chooses && offset == field::WRITEBACK && byte < 2 {
            self.write_back = byte == 1;
        }
    }

    /// What the readable registers say.
    fn registers(&self) -> Vec<(u64, u32)> {
        let is_queue = self.queue_sel == 0;
        let features = match self.device_features_sel {
            half @ 0..2 => (self.offered >> (32 * half)) as u32,
            _ => 0,
        };
        let needs_reset = if self.needs_reset {
            DEVICE_NEEDS_RESET
        } else {
            0
        };
        vec![
            (reg::MAGIC_VALUE, u32::from_le_bytes(*b"virt")),
            (reg::VERSION, 2),
            (reg::DEVICE_ID, 2),
            (reg::DEVICE_FEATURES, features),
            (
                reg::QUEUE_NUM_MAX,
                u32::from(QUEUE_SIZE) * u32::from(is_queue),
            ),
            (reg::QUEUE_READY, u32::from(is_queue && self.queue.ready)),
            (reg::QUEUE_RESET, 0),
            (reg::INTERRUPT_STATUS, self.interrupt_status),
            (reg::STATUS, self.status | needs_reset),
            (reg::CONFIG_GENERATION, 0),
            (reg::CONFIG, SECTORS as u32),
            (reg::CONFIG + field::WRITEBACK, self.write_back.into()),
            // Write-only ones.
            (reg::QUEUE_NUM, 0),
            (reg::QUEUE_DESC_LOW, 0),
            (reg::DRIVER_FEATURES, 0),
        ]
    }
}

impl Queue {
    fn new() -> Self {
        Queue {
            size: QUEUE_SIZE.into(),
            ready: false,
            was_reset: false,
            places: Default::default(),
        }
    }

    fn is_free_again(&self, status: u32) -> bool {
        self.was_reset && status & FAILED == 0
    }

    /// Whether each part has an address, is aligned, and lies in one region of memory.
    fn is_possible(&self) -> bool {
        let size = u64::from(self.size);
        let lengths = [(16, 16 * size), (2, 6 + 2 * size), (4, 6 + 8 * size)];
        self.places
            .iter()
            .zip(lengths)
            .all(|(place, (align, len))| {
                let [Some(low), high] = *place else {
                    return false;
                };
                let addr = u64::from(high.unwrap_or(0)) << 32 | u64::from(low);
                let inside = |&(base, bytes): &(u64, usize)| {
                    addr >= base && addr.saturating_add(len) <= base + bytes as u64
                };
                addr.is_multiple_of(align) && RAM.iter().any(inside)
            })
    }
}

fn apply(driver: &Driver, model: &mut Model, access: Access) {
    let step = STEPS.iter().position(|&step| step == model.status);
    let next_step = step.and_then(|step| STEPS.get(step + 1).copied());
    // What is all set up, or has failed, begins anew.
    let next_step = next_step.unwrap_or(0);
    let mut write = |offset, value| {
        driver.write(offset, value);
        model.write(offset, value);
    };
    match access {
        Access::Write(offset, value) => write(offset, value),
        Access::Configure(offset, byte) => {
            driver.window.write(reg::CONFIG + offset, &[byte]);
            model.configure(offset, byte);
        }
        Access::Advance => write(reg::STATUS, next_step),
        Access::Accept(features) => {
            for half in 0..2 {
                write(reg::DRIVER_FEATURES_SEL, half);
                write(reg::DRIVER_FEATURES, (features >> (32 * half)) as u32);
            }
        }
        Access::Place(addresses) => {
            write(reg::QUEUE_SEL, 0);
            let low = [
                reg::QUEUE_DESC_LOW,
                reg::QUEUE_DRIVER_LOW,
                reg::QUEUE_DEVICE_LOW,
            ];
            for (low, addr) in low.into_iter().zip(addresses) {
                write(low, addr as u32);
                write(low + 4, (addr >> 32) as u32);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 800, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_accesses_leave_the_registers_as_the_model_says(
        accesses in prop::collection::vec(access(), 1..60)
    ) {
        let mut driver = Driver::cold(memory_disk(), config());
        let mut model = Model::new(driver.offered());
        driver.write(reg::DEVICE_FEATURES_SEL, 0);
        for access in accesses {
            apply(&driver, &mut model, access);
            for (offset, wanted) in model.registers() {
                let found = driver.read(offset);
                prop_assert_eq!(found, wanted, "{:#x} after {:?}: {:?}", offset, access, model);
            }
        }
        driver.assert_recovers();
    }
}
