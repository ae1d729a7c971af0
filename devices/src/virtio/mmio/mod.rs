//! virtio over MMIO, version 2 (virtio 1.2, section 4.2): the register window of one device.
//!
//! The driver walks the device status field up, one step at a time (section 3.1.1): ACKNOWLEDGE,
//! DRIVER, the negotiation of features, FEATURES_OK, the set-up of queues, DRIVER_OK. Only then the
//! device is activated and owns its queues. Writing 0 resets: the device stops popping, drains, and
//! lets go of the queues. The vCPU waits for that only for [`RESET_WAIT`]; if the disk is slower,
//! Status goes on reading nonzero until the drain is over, and other writes are ignored.
//!
//! Whatever the driver does out of turn is ignored; a queue that cannot be used sets
//! DEVICE_NEEDS_RESET. What concerns one queue is in `queues`.

mod queues;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use iolite_devices_abi::mmio as reg;
use iolite_devices_abi::status::{
    ACKNOWLEDGE, DEVICE_NEEDS_RESET, DRIVER, DRIVER_OK, F_VERSION_1, FAILED, FEATURES_OK,
};
use vm_memory::GuestMemoryMmap;

use super::device::{Activation, QueueStart, VirtioDevice};
use super::notifier::Notifier;
use super::registers::{Phase, Registers, half};
use super::setup::{QueueRegisters, SetupError};
use crate::bus::BusDevice;
use crate::lines::{Guard, Lines, Lock, debug_later};
use crate::throttle::{Budget, Throttle};

/// How long a vCPU waits for requests in flight when the driver resets the device.
pub const RESET_WAIT: Duration = Duration::from_millis(50);

/// VendorID.
const VENDOR: u32 = u32::from_le_bytes(*b"iolt");

/// The register window of a virtio device.
pub struct VirtioMmio {
    name: String,
    memory: Arc<GuestMemoryMmap>,
    device: Arc<dyn VirtioDevice>,
    notifier: Arc<Notifier>,
    registers: Lock<Registers>,
    /// What the guest did wrong.
    complaints: Throttle,
}

impl VirtioMmio {
    /// A window for `device`, which notifies through `notifier`. `name` is for log lines, of which
    /// there may be as many as `budget` says.
    pub fn new(
        name: &str,
        memory: Arc<GuestMemoryMmap>,
        device: Arc<dyn VirtioDevice>,
        notifier: Arc<Notifier>,
        budget: &Budget,
    ) -> Self {
        let registers = Lock::new(Registers::after_reset(&*device));
        let complaints = budget.share(name);
        VirtioMmio {
            name: name.to_owned(),
            memory,
            device,
            notifier,
            registers,
            complaints,
        }
    }

    fn lock(&self) -> Guard<'_, Registers> {
        let mut registers = self.registers.lock();
        match registers.phase {
            Phase::Draining if self.device.reset(Duration::ZERO) => {
                self.finish_reset(&mut registers);
            }
            Phase::Live => self.drain_queues(&mut registers),
            Phase::Draining | Phase::SetUp => {}
        }
        registers
    }

    fn read_register(&self, offset: u64) -> u32 {
        let registers = self.lock();
        match offset {
            reg::MAGIC_VALUE => reg::MAGIC,
            reg::VERSION => reg::VERSION_2,
            reg::DEVICE_ID => self.device.device_type(),
            reg::VENDOR_ID => VENDOR,
            reg::DEVICE_FEATURES => {
                half(self.device.device_features(), registers.device_features_sel)
            }
            reg::QUEUE_NUM_MAX => registers.queue().map_or(0, |queue| queue.max_size.into()),
            reg::QUEUE_READY => registers.queue().is_some_and(|queue| queue.ready).into(),
            reg::QUEUE_RESET => registers.is_resetting().into(),
            reg::INTERRUPT_STATUS => self.notifier.interrupt_status(),
            reg::STATUS if self.notifier.needs_reset() => registers.status | DEVICE_NEEDS_RESET,
            reg::STATUS => registers.status,
            // No shared memory regions: length and base read all ones (section 4.2.2).
            reg::SHM_LEN_LOW | reg::SHM_LEN_HIGH | reg::SHM_BASE_LOW | reg::SHM_BASE_HIGH => {
                u32::MAX
            }
            reg::CONFIG_GENERATION => self.device.config_generation(),
            // Reserved or write-only.
            _ => 0,
        }
    }

    fn write_register(&self, offset: u64, value: u32) {
        let mut registers = self.lock();
        match (offset, registers.phase) {
            (_, Phase::Draining) => {}
            (reg::STATUS, _) => self.write_status(&mut registers, value),
            (reg::DEVICE_FEATURES_SEL, _) => registers.device_features_sel = value,
            (reg::DRIVER_FEATURES_SEL, _) => registers.driver_features_sel = value,
            (reg::QUEUE_SEL, _) => registers.queue_sel = value,
            (reg::INTERRUPT_ACK, _) => self
                .notifier
                .acknowledge(value & (reg::INTERRUPT_USED_RING | reg::INTERRUPT_CONFIG_CHANGE)),
            (reg::DRIVER_FEATURES, Phase::SetUp) => registers.set_driver_features(value),
            (reg::QUEUE_NOTIFY, Phase::Live) => self.notify(&registers, value),
            _ => self.write_queue(&mut registers, offset, value),
        }
    }

    /// The device status field. Steps up in order, FAILED at any time, 0 at any time.
    fn write_status(&self, registers: &mut Guard<'_, Registers>, value: u32) {
        if value == 0 {
            return self.reset(registers);
        }
        if registers.status & FAILED != 0 {
            return;
        }
        // Only the device sets DEVICE_NEEDS_RESET (section 2.1.2).
        let value = value & !DEVICE_NEEDS_RESET;
        let steps = value & !FAILED;
        let in_order = [
            0,
            ACKNOWLEDGE,
            ACKNOWLEDGE | DRIVER,
            ACKNOWLEDGE | DRIVER | FEATURES_OK,
            ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK,
        ];
        if !in_order.contains(&steps) || steps & registers.status != registers.status {
            let status = registers.status;
            let what = format_args!("status {value:#x} does not follow {status:#x}: ignored");
            return self.complain(&mut registers.lines, what);
        }
        if value & FAILED != 0 {
            registers.status |= FAILED;
            self.device.stop();
            let what = format_args!("the driver gave up (FAILED)");
            return self.complain(&mut registers.lines, what);
        }
        let new = steps & !registers.status;
        if new & DRIVER_OK != 0 {
            // Features must be settled by a write of their own, and read back.
            if registers.status & FEATURES_OK != 0 {
                self.activate(registers);
            }
            return;
        }
        registers.status |= new & !FEATURES_OK;
        if new & FEATURES_OK != 0 && self.features_acceptable(registers) {
            registers.status |= FEATURES_OK;
            self.device.settle(registers.driver_features);
        }
    }

    fn features_acceptable(&self, registers: &mut Guard<'_, Registers>) -> bool {
        let accepted = registers.driver_features;
        let offered = self.device.device_features();
        if accepted & !offered != 0 {
            let alien = accepted & !offered;
            let what = format_args!("the driver accepts features that are not offered: {alien:#x}");
            self.complain(&mut registers.lines, what);
        } else if accepted & F_VERSION_1 == 0 {
            let what = format_args!("the driver does not accept VERSION_1");
            self.complain(&mut registers.lines, what);
        }
        accepted & !offered == 0 && accepted & F_VERSION_1 != 0
    }

    fn activate(&self, registers: &mut Guard<'_, Registers>) {
        if self.notifier.needs_reset() {
            return;
        }
        let features = registers.driver_features;
        let mut queues = Vec::with_capacity(registers.queues.len());
        for queue in &registers.queues {
            let built = queue.ready.then(|| self.start(queue)).transpose();
            match built {
                Ok(queue) => queues.push(queue),
                Err(error) => return self.refuse_queue(registers, &error),
            }
        }
        let (registers, lines) = registers.split();
        debug_later!(lines, "{}: live, features {features:#x}", self.name);
        registers.status |= DRIVER_OK;
        registers.phase = Phase::Live;
        self.device.activate(Activation { features, queues }, lines);
    }

    /// The queue that these registers describe, from its beginning.
    fn start(&self, queue: &QueueRegisters) -> Result<QueueStart, SetupError> {
        Ok(QueueStart::fresh(queue.check(&self.memory)?, &self.memory))
    }

    fn reset(&self, registers: &mut Guard<'_, Registers>) {
        let inactive = registers.phase == Phase::SetUp || self.device.reset(RESET_WAIT);
        if inactive {
            self.finish_reset(registers);
        } else {
            let (registers, lines) = registers.split();
            debug_later!(
                lines,
                "{}: reset goes on while requests are in flight",
                self.name
            );
            registers.phase = Phase::Draining;
        }
    }

    fn finish_reset(&self, registers: &mut Guard<'_, Registers>) {
        let (registers, lines) = registers.split();
        debug_later!(lines, "{}: reset", self.name);
        *registers = Registers::after_reset(&*self.device);
        self.notifier.reset();
        self.device.settle(0);
    }

    /// What can be written belongs to features, which are settled first.
    fn write_config(&self, offset: u64, data: &[u8]) {
        let registers = self.lock();
        if registers.phase != Phase::Draining && registers.status & FEATURES_OK != 0 {
            self.device.write_config(offset, data);
        }
    }

    fn complain(&self, lines: &mut Lines, what: fmt::Arguments<'_>) {
        let line = format_args!("{}: {what}", self.name);
        self.complaints.warn(lines, module_path!(), line);
    }
}

impl BusDevice for VirtioMmio {
    fn read(&self, offset: u64, data: &mut [u8]) {
        data.fill(0);
        if offset >= reg::CONFIG {
            self.device.read_config(offset - reg::CONFIG, data);
        } else if data.len() == 4 && offset.is_multiple_of(4) {
            data.copy_from_slice(&self.read_register(offset).to_le_bytes());
        }
        log::trace!("{}: read {offset:#x} -> {data:02x?}", self.name);
    }

    fn write(&self, offset: u64, data: &[u8]) {
        log::trace!("{}: write {offset:#x} <- {data:02x?}", self.name);
        // Registers are accessed whole (section 4.2.2.2).
        if offset >= reg::CONFIG {
            self.write_config(offset - reg::CONFIG, data);
        } else if let Ok(bytes) = data.try_into()
            && offset.is_multiple_of(4)
        {
            self.write_register(offset, u32::from_le_bytes(bytes));
        }
    }
}
