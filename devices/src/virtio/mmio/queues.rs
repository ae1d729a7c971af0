//! The registers of one queue, the one that QueueSel chooses.
//!
//! A queue is the driver's until DRIVER_OK: it places the rings and sets QueueReady. Then it is the
//! device's, and what is written to its registers means nothing, but for two ways to get it back.
//!
//! Writing 0 to QueueReady takes the queue away for good: nothing more is popped, and it stays ready
//! until it is drained.
//!
//! With RING_RESET, writing 1 to QueueReset resets the queue alone (virtio 1.2, sections 2.6.1 and
//! 4.2.2): QueueReset reads 1 until the queue is drained and the device has let go of it; then it and
//! QueueReady read 0, and the driver may place the queue anew. The other queues go on.

use std::time::Duration;

use iolite_devices_abi::mmio as reg;
use iolite_devices_abi::status::{F_RING_RESET, FAILED};

use super::{RESET_WAIT, VirtioMmio};
use crate::lines::Guard;
use crate::virtio::registers::{Phase, Registers};
use crate::virtio::setup::{Holder, QueueRegisters, SetupError};

impl VirtioMmio {
    /// QueueNotify.
    pub(super) fn notify(&self, registers: &Registers, queue: u32) {
        if let Ok(index) = u16::try_from(queue)
            && usize::from(index) < registers.queues.len()
        {
            self.device.notify(index);
        }
    }

    /// A write to any other register of the queue.
    pub(super) fn write_queue(
        &self,
        registers: &mut Guard<'_, Registers>,
        offset: u64,
        value: u32,
    ) {
        match (offset, value) {
            (reg::QUEUE_READY, 0) => self.disable(registers),
            (reg::QUEUE_READY, 1) => self.enable(registers),
            (reg::QUEUE_RESET, 1) if registers.has(F_RING_RESET) => self.reset_queue(registers),
            (reg::QUEUE_READY | reg::QUEUE_RESET, _) => {}
            _ => self.place(registers, offset, value),
        }
    }

    fn disable(&self, registers: &mut Registers) {
        let (phase, number) = (registers.phase, registers.queue_number());
        let Some(queue) = registers.queue_mut().filter(|queue| queue.ready) else {
            return;
        };
        match (phase, queue.holder) {
            (Phase::Live, Holder::Device) => {
                queue.holder = Holder::TakenAway;
                self.drain(number, queue, Duration::ZERO);
            }
            (Phase::Live, _) => {}
            _ => queue.ready = false,
        }
    }

    fn enable(&self, registers: &mut Guard<'_, Registers>) {
        let (phase, number) = (registers.phase, registers.queue_number());
        let features = registers.driver_features;
        let (free, lines) = registers.split();
        let Some(queue) = free.free_queue() else {
            return;
        };
        let start = match self.start(queue) {
            Ok(start) => start,
            Err(error) => return self.refuse_queue(registers, &error),
        };
        queue.ready = true;
        if phase == Phase::Live {
            queue.holder = Holder::Device;
            self.device.activate_queue(number, start, features, lines);
        }
    }

    fn place(&self, registers: &mut Guard<'_, Registers>, offset: u64, value: u32) {
        // Section 4.2.2.2: the driver does not touch these while the queue is ready.
        let Some(queue) = registers.free_queue() else {
            return;
        };
        match offset {
            reg::QUEUE_NUM => {
                if let Err(error) = queue.set_size(value) {
                    self.refuse_queue(registers, &error);
                }
            }
            reg::QUEUE_DESC_LOW => queue.desc.set_low(value),
            reg::QUEUE_DESC_HIGH => queue.desc.set_high(value),
            reg::QUEUE_DRIVER_LOW => queue.driver.set_low(value),
            reg::QUEUE_DRIVER_HIGH => queue.driver.set_high(value),
            reg::QUEUE_DEVICE_LOW => queue.device.set_low(value),
            reg::QUEUE_DEVICE_HIGH => queue.device.set_high(value),
            _ => {}
        }
    }

    fn reset_queue(&self, registers: &mut Registers) {
        if registers.status & FAILED != 0 {
            return;
        }
        let (phase, number) = (registers.phase, registers.queue_number());
        let Some(queue) = registers.queue_mut() else {
            return;
        };
        match (phase, queue.holder) {
            (Phase::SetUp, _) => queue.forget(Holder::Device),
            (_, Holder::Resetting) => {}
            _ => {
                queue.holder = Holder::Resetting;
                self.drain(number, queue, RESET_WAIT);
            }
        }
    }

    /// Goes on with the queues that are being drained.
    pub(super) fn drain_queues(&self, registers: &mut Registers) {
        for (number, queue) in (0..).zip(&mut registers.queues) {
            self.drain(number, queue, Duration::ZERO);
        }
    }

    /// Waits at most `wait` until the device has let go of a queue that it is to let go of.
    fn drain(&self, number: u16, queue: &mut QueueRegisters, wait: Duration) {
        let next = match queue.holder {
            Holder::TakenAway => Holder::Nobody,
            Holder::Resetting => Holder::Driver,
            Holder::Device | Holder::Nobody | Holder::Driver => return,
        };
        if self.device.release_queue(number, wait) {
            queue.forget(next);
        }
    }

    pub(super) fn refuse_queue(&self, registers: &mut Guard<'_, Registers>, error: &SetupError) {
        let (registers, lines) = registers.split();
        self.complain(lines, format_args!("{error}: the device needs a reset"));
        match registers.phase {
            Phase::Live => self.notifier.fail(lines),
            // No notification is due before DRIVER_OK.
            Phase::SetUp | Phase::Draining => self.notifier.fail_silently(),
        }
    }
}
