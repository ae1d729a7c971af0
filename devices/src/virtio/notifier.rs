//! The way from a device to its driver: InterruptStatus, DEVICE_NEEDS_RESET, and the interrupt
//! line. Shared by the transport, which shows the registers, and the device, which notifies.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use iolite_devices_abi::mmio::{INTERRUPT_CONFIG_CHANGE, INTERRUPT_USED_RING};

use crate::interrupt::Interrupt;
use crate::lines::Lines;
use crate::throttle::{Budget, Throttle};

/// Who hears of what: the queues may share one line with changes of the configuration, or have one
/// each.
pub struct Notifiers {
    /// Configuration change notifications.
    pub config: Arc<Notifier>,
    /// Used buffer notifications of each queue.
    pub queues: Vec<Arc<Notifier>>,
}

impl Notifiers {
    /// One for all `queues` queues and the configuration.
    pub fn shared(notifier: &Arc<Notifier>, queues: u16) -> Self {
        Notifiers {
            config: Arc::clone(notifier),
            queues: vec![Arc::clone(notifier); queues.into()],
        }
    }
}

/// Sends notifications to the driver.
pub struct Notifier {
    /// The device's, for log lines.
    name: String,
    interrupt: Arc<dyn Interrupt>,
    interrupt_status: AtomicU32,
    needs_reset: AtomicBool,
    failures: Throttle,
}

impl Notifier {
    /// A notifier with nothing pending that raises `interrupt`, for the device called `name`.
    pub fn new(name: &str, interrupt: Arc<dyn Interrupt>, budget: &Budget) -> Self {
        Notifier {
            interrupt,
            interrupt_status: AtomicU32::new(0),
            needs_reset: AtomicBool::new(false),
            name: name.to_owned(),
            failures: budget.share(name),
        }
    }

    /// Sends a used buffer notification.
    pub(crate) fn used_buffer(&self, lines: &mut Lines) {
        self.raise(INTERRUPT_USED_RING, lines, |line| line.trigger());
    }

    /// Sends a configuration change notification (virtio 1.2, section 2.3).
    pub(crate) fn config_changed(&self, lines: &mut Lines) {
        self.raise(INTERRUPT_CONFIG_CHANGE, lines, |line| line.trigger());
    }

    /// Sets DEVICE_NEEDS_RESET and sends a configuration change notification (virtio 1.2, section
    /// 2.1.2), once until the next reset.
    pub(crate) fn fail(&self, lines: &mut Lines) {
        if !self.needs_reset.swap(true, Ordering::AcqRel) {
            self.raise(INTERRUPT_CONFIG_CHANGE, lines, |line| line.broken());
        }
    }

    /// Sets DEVICE_NEEDS_RESET alone: before DRIVER_OK no notification is due.
    pub(super) fn fail_silently(&self) {
        self.needs_reset.store(true, Ordering::Release);
    }

    /// Whether DEVICE_NEEDS_RESET is set.
    pub fn needs_reset(&self) -> bool {
        self.needs_reset.load(Ordering::Acquire)
    }

    /// InterruptStatus.
    pub fn interrupt_status(&self) -> u32 {
        self.interrupt_status.load(Ordering::Acquire)
    }

    /// InterruptACK.
    pub(super) fn acknowledge(&self, bits: u32) {
        self.interrupt_status.fetch_and(!bits, Ordering::AcqRel);
    }

    /// Forgets everything, as a device reset does.
    pub(super) fn reset(&self) {
        self.interrupt_status.store(0, Ordering::Release);
        self.needs_reset.store(false, Ordering::Release);
    }

    /// The driver's handler reads InterruptStatus, so the bit comes before the edge.
    fn raise(&self, bit: u32, lines: &mut Lines, edge: impl Fn(&dyn Interrupt) -> io::Result<()>) {
        self.interrupt_status.fetch_or(bit, Ordering::AcqRel);
        if let Err(error) = edge(&*self.interrupt) {
            let what = format_args!("{}: an interrupt cannot be raised: {error}", self.name);
            self.failures.warn(lines, module_path!(), what);
        }
    }
}
