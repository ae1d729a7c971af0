//! The disks, their requests in flight, and the interrupts that complete them.

#![allow(unsafe_code)]

use super::{Owner, keeper, lent};
use crate::arch::{apic, cpu, idt};
use crate::fs::async_io;
use crate::mm::cache;
use crate::mm::layout::PAGE;
use crate::mm::{frame, mmio};
use crate::println;
use crate::sync::{CpuCell, WaitQueue};
use crate::task::process;
use crate::task::scheduler;
use crate::trace::{self, event};
use alloc::vec::Vec;
use core::cell::RefMut;
use core::ops::Range;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicU32, Ordering};
use iolite_devices_abi::blk::ID_BYTES;
use iolite_devices_abi::machine::COM1_IRQ;
use iolite_guest_abi::{DiskStats, Errno};
use iolite_guest_core::cmdline::Window;
use iolite_guest_core::windows;
use iolite_virtio_driver::{
    Disk as Driver, DiskError, DmaRegion, MmioRegisters, Operation, Outcome, Segment, SubmitError,
};

/// A disk: 0 is `/dev/vda`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DiskId(u8);

/// How much of a window there is to see, whatever its size.
const REGISTER_BYTES: u64 = 0x200;

/// Most disks: `/dev/vda` to `/dev/vdz`.
const MAX_DISKS: usize = 26;

struct Disk {
    driver: Driver<MmioRegisters>,
    id: [u8; ID_BYTES],
    waiting_for_room: WaitQueue,
    stats: DiskStats,
    /// When the first of the requests in flight was submitted, while there are any.
    busy_since: u64,
    /// Its bit in [`IN_FLIGHT`].
    bit: u32,
    window: Window,
    owner: DrivenBy,
}

/// Who drives a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum DrivenBy {
    Kernel,
    /// The kernel, which is about to lend it and lets nobody open it.
    KernelAlone,
    /// A process: the kernel passes its interrupts on, and nothing else.
    Process,
    /// Nobody: it could not be initialised anew.
    Nobody,
}

/// The disks on each interrupt line, a bit each.
static ON_LINE: [AtomicU32; idt::LINES as usize] =
    [const { AtomicU32::new(0) }; idt::LINES as usize];

/// The disks that have requests in flight, a bit each.
static IN_FLIGHT: AtomicU32 = AtomicU32::new(0);

static DISKS: CpuCell<Vec<Disk>> = CpuCell::new(Vec::new());

/// Initialises the block device in each window that is in none of the ranges `taken`. What is not one
/// is named and left alone.
pub fn init(windows: &[Window], taken: &[Range<u64>]) {
    let end = cpu::physical_end();
    let mut driven = Vec::<Range<u64>>::new();
    for window in windows {
        let taken = taken.iter().chain(&driven);
        let range = match windows::check(window, (idt::LINES, COM1_IRQ as u8), end, taken) {
            Ok(range) => range,
            Err(refused) => {
                println!("iolite: no disk at {:#x}: {refused}", window.address);
                continue;
            }
        };
        if disks() == MAX_DISKS {
            println!(
                "iolite: no disk at {:#x}: {MAX_DISKS} are the most",
                window.address
            );
            continue;
        }
        match probe(window) {
            Ok(driver) => match add(driver, window) {
                true => driven.push(range),
                false => println!(
                    "iolite: no disk at {:#x}: interrupt line {} is not its own",
                    window.address, window.line
                ),
            },
            Err(DiskError::NotABlockDevice) => {}
            Err(error) => println!("iolite: no disk at {:#x}: {error:?}", window.address),
        }
    }
}

/// Adds a disk, unless it answers without interrupting.
fn add(driver: Driver<MmioRegisters>, window: &Window) -> bool {
    let id = DiskId(disks() as u8);
    let bit = 1 << id.0;
    DISKS.borrow_mut().push(Disk {
        driver,
        id: [0; ID_BYTES],
        waiting_for_room: WaitQueue::new(),
        stats: DiskStats::default(),
        busy_since: 0,
        bit,
        window: *window,
        owner: DrivenBy::Kernel,
    });
    let line = &ON_LINE[usize::from(window.line)];
    line.fetch_or(bit, Ordering::Relaxed);
    apic::route(window.line);
    let identification = super::identify(id);
    if identification == Err(Errno::ETIMEDOUT) {
        line.fetch_and(!bit, Ordering::Relaxed);
        start_reset(id);
        DISKS.borrow_mut().pop();
        return false;
    }
    DISKS.borrow_mut()[id.number()].id = identification.unwrap_or_default();
    if !id.has_flush() && !id.read_only() {
        println!(
            "iolite: /dev/vd{}: the device has no flush: fsync means that the writes have completed",
            char::from(b'a' + id.0)
        );
    }
    true
}

fn probe(window: &Window) -> Result<Driver<MmioRegisters>, DiskError> {
    let base = NonNull::new(mmio::map(window.address, REGISTER_BYTES));
    let base = base.ok_or(DiskError::NotVirtioMmio)?;
    let bytes = Driver::<MmioRegisters>::DMA_BYTES;
    let first = frame::alloc_contiguous(bytes.div_ceil(PAGE as usize) as u32);
    let first = first.ok_or(DiskError::TooLittleMemory)?;
    let memory = NonNull::new(first.address() as *mut u8).ok_or(DiskError::TooLittleMemory)?;
    // SAFETY: the window was just mapped for this driver alone, and the frames, which are zero,
    // physically contiguous and mapped by the direct map, stay its own for good.
    unsafe {
        let registers = MmioRegisters::new(base);
        Driver::new(registers, DmaRegion::new(memory, first.physical(), bytes))
    }
}

/// How many disks there are.
pub fn disks() -> usize {
    DISKS.borrow().len()
}

/// The disk to mount: the one that calls itself `system`, else the first.
pub fn system_disk() -> Option<DiskId> {
    let disks = DISKS.borrow();
    let named = disks
        .iter()
        .position(|disk| disk.id.starts_with(b"system\0"));
    let number = named.or_else(|| (!disks.is_empty()).then_some(0))?;
    Some(DiskId(number as u8))
}

/// Hands a request to the disk, which may take it in parts. It may not notice before [`notify`].
///
/// Whatever the segments name is held until the completion: by `owner`, who learns of it.
pub fn submit(
    disk: DiskId,
    operation: Operation,
    segments: &[Segment],
    owner: Owner,
) -> Result<(), SubmitError> {
    let mut disks = DISKS.borrow_mut();
    let disk = &mut disks[usize::from(disk.0)];
    disk.submit(operation, segments, owner)?;
    disk.begin();
    Ok(())
}

/// A disk to which several requests are submitted one after the other. It is notified of them when
/// the value goes.
pub struct Submitter {
    disk: RefMut<'static, Disk>,
    id: DiskId,
}

/// See [`Submitter`].
#[inline(always)]
pub fn submitter(id: DiskId) -> Submitter {
    let disk = RefMut::map(DISKS.borrow_mut(), |disks| &mut disks[usize::from(id.0)]);
    Submitter { disk, id }
}

impl Submitter {
    /// Which disk.
    pub fn id(&self) -> DiskId {
        self.id
    }

    /// See [`submit`]: for what the disk takes at once.
    #[inline(always)]
    pub fn submit_at_once(
        &mut self,
        operation: Operation,
        segments: &[Segment],
        owner: Owner,
    ) -> Result<(), SubmitError> {
        self.disk.submit_at_once(operation, segments, owner)
    }
}

impl Drop for Submitter {
    #[inline(always)]
    fn drop(&mut self) {
        self.disk.notify();
        self.disk.begin();
    }
}

/// [`submit`] and [`notify`] for one request that the disk takes at once.
#[inline(always)]
pub fn submit_at_once_and_notify(
    disk: DiskId,
    operation: Operation,
    segments: &[Segment],
    owner: Owner,
) -> Result<(), SubmitError> {
    let mut disks = DISKS.borrow_mut();
    let disk = &mut disks[usize::from(disk.0)];
    disk.submit_at_once(operation, segments, owner)?;
    disk.notify();
    disk.begin();
    Ok(())
}

/// Tells the disk of what was submitted, if it wants to be told.
#[inline]
pub fn notify(disk: DiskId) {
    DISKS.borrow_mut()[usize::from(disk.0)].notify();
}

/// Blocks the running thread until the disk may have room for a request. Everything submitted so
/// far is notified first: it is what makes room.
pub fn wait_for_room(disk: DiskId) {
    {
        let mut disks = DISKS.borrow_mut();
        let disk = &mut disks[usize::from(disk.0)];
        disk.notify();
        if disk.driver.has_room() {
            return;
        }
        disk.waiting_for_room.join();
    }
    scheduler::block_queued();
}

/// Interrupt line `line`: harvests the completions of the disks on it.
pub fn interrupt(line: u8) {
    trace::record(event::INTERRUPT, 0, line.into());
    let mut left = ON_LINE[usize::from(line)].load(Ordering::Relaxed);
    if left != 0 {
        let mut disks = DISKS.borrow_mut();
        let mut processes = process::table();
        while left != 0 {
            let number = left.trailing_zeros();
            let disk = &mut disks[number as usize];
            match disk.owner {
                DrivenBy::Kernel | DrivenBy::KernelAlone => disk.harvest(&mut processes),
                DrivenBy::Process | DrivenBy::Nobody => {
                    disk.stats.interrupts += 1;
                    lent::interrupt(DiskId(number as u8));
                }
            }
            left &= left - 1;
        }
    }
    async_io::move_on();
}

/// The disks that have requests in flight, a bit each.
#[inline(always)]
pub fn in_flight() -> u32 {
    IN_FLIGHT.load(Ordering::Relaxed)
}

/// A program ran for `ticks` beside the requests that are in flight.
pub fn count_work(ticks: u64) {
    let mut disks = DISKS.borrow_mut();
    let mut left = in_flight();
    while left != 0 {
        disks[left.trailing_zeros() as usize].stats.work_ticks += ticks;
        left &= left - 1;
    }
}

/// What the disk has counted, anew from zero if `reset`.
pub fn stats(disk: DiskId, reset: bool) -> DiskStats {
    let mut disks = DISKS.borrow_mut();
    let disk = &mut disks[usize::from(disk.0)];
    let notifications = disk.driver.notifications();
    let now = cpu::tsc();
    let mut stats = disk.stats;
    stats.max_in_flight = stats.max_in_flight.max(stats.in_flight);
    if in_flight() & disk.bit != 0 {
        stats.in_flight_ticks += now - disk.busy_since;
    }
    stats.notifications = notifications.wrapping_add(stats.notifications);
    if reset {
        let in_flight = disk.stats.in_flight;
        disk.busy_since = now;
        disk.stats = DiskStats {
            in_flight,
            max_in_flight: in_flight,
            notifications: notifications.wrapping_neg(),
            ..DiskStats::default()
        };
    }
    stats
}

/// Has nobody open the disk any more, or takes that back; the kernel goes on driving it.
pub(super) fn set_closing(disk: DiskId, closing: bool) {
    DISKS.borrow_mut()[usize::from(disk.0)].owner = match closing {
        true => DrivenBy::KernelAlone,
        false => DrivenBy::Kernel,
    };
}

/// Lends a disk, which has been reset, to a process. What it is doing then the kernel cannot see: it
/// counts as if something were in flight all the while.
pub(super) fn lend(disk: DiskId) {
    let mut disks = DISKS.borrow_mut();
    let disk = &mut disks[usize::from(disk.0)];
    disk.owner = DrivenBy::Process;
    disk.busy_since = cpu::tsc();
    IN_FLIGHT.store(in_flight() | disk.bit, Ordering::Relaxed);
}

/// Asks the device to reset itself.
pub(super) fn start_reset(disk: DiskId) {
    disk.with(|disk| disk.driver.start_reset());
}

/// Has the device reset itself?
pub(super) fn is_reset(disk: DiskId) -> bool {
    disk.with(|disk| disk.driver.is_reset())
}

/// Initialises a device anew that has been reset: the disk is the kernel's again.
pub(super) fn restart(disk: DiskId) -> Result<(), DiskError> {
    let mut disks = DISKS.borrow_mut();
    let disk = &mut disks[usize::from(disk.0)];
    IN_FLIGHT.store(in_flight() & !disk.bit, Ordering::Relaxed);
    let restarted = disk.driver.restart();
    disk.owner = match restarted {
        Ok(()) => DrivenBy::Kernel,
        Err(_) => DrivenBy::Nobody,
    };
    restarted
}

/// Has the device of a disk that the kernel drives said that something about it has changed?
pub(super) fn take_change(disk: DiskId) -> bool {
    let mut disks = DISKS.borrow_mut();
    let disk = &mut disks[disk.number()];
    disk.owner == DrivenBy::Kernel && disk.driver.take_change()
}

/// Reads the capacity anew.
pub(super) fn refresh(disk: DiskId) {
    let mut disks = DISKS.borrow_mut();
    let disk = &mut disks[disk.number()];
    if matches!(disk.owner, DrivenBy::Kernel | DrivenBy::KernelAlone) {
        disk.driver.refresh();
    }
}

/// Does the kernel drive the disk, and does its device serve nothing any more until it is reset?
pub(super) fn needs_reset(disk: DiskId) -> bool {
    disk.with(|disk| {
        let ours = matches!(disk.owner, DrivenBy::Kernel | DrivenBy::KernelAlone);
        ours && disk.driver.needs_reset()
    })
}

/// Has what is in flight of a device that has been reset fail, at the next interrupt.
pub(super) fn abandon(disk: DiskId) {
    DISKS.borrow_mut()[disk.number()].driver.abandon();
    raise_interrupt(disk);
}

/// Has completions be looked for as if the device had interrupted.
pub(super) fn raise_interrupt(disk: DiskId) {
    apic::raise(disk.window().line);
}

/// Sets a device going again that has been reset, and has nothing in flight.
pub(super) fn begin_anew(disk: DiskId) -> Result<(), DiskError> {
    DISKS.borrow_mut()[disk.number()].driver.restart()
}

/// How often it has interrupted.
pub(super) fn interrupts(disk: DiskId) -> u64 {
    disk.with(|disk| disk.stats.interrupts)
}

/// Requests in flight of the kernel's own driver.
pub(super) fn requests(disk: DiskId) -> u64 {
    disk.with(|disk| disk.stats.in_flight)
}

/// Counts something about a disk.
#[inline]
pub fn count(disk: DiskId, change: impl FnOnce(&mut DiskStats)) {
    change(&mut DISKS.borrow_mut()[usize::from(disk.0)].stats);
}

impl Disk {
    /// See [`submit`].
    #[inline(always)]
    fn submit(
        &mut self,
        operation: Operation,
        segments: &[Segment],
        owner: Owner,
    ) -> Result<(), SubmitError> {
        match self.submit_at_once(operation, segments, owner) {
            Err(SubmitError::TooManySegments) => self.submit_in_parts(operation, segments, owner),
            result => result,
        }
    }

    #[cold]
    fn submit_in_parts(
        &mut self,
        operation: Operation,
        segments: &[Segment],
        owner: Owner,
    ) -> Result<(), SubmitError> {
        let cookie = owner.to_cookie();
        self.driver.submit(operation, segments, cookie)?;
        self.submitted(operation, segments, owner);
        Ok(())
    }

    /// The same for what the disk takes at once.
    #[inline(always)]
    fn submit_at_once(
        &mut self,
        operation: Operation,
        segments: &[Segment],
        owner: Owner,
    ) -> Result<(), SubmitError> {
        let cookie = owner.to_cookie();
        self.driver.submit_at_once(operation, segments, cookie)?;
        self.submitted(operation, segments, owner);
        Ok(())
    }

    /// Takes note of a request that was just submitted.
    #[inline(always)]
    fn submitted(&mut self, operation: Operation, segments: &[Segment], owner: Owner) {
        let number = self.bit.trailing_zeros() as usize;
        trace::add(self.driver.last_head(), number, owner.purpose(operation));
        let stats = &mut self.stats;
        // Counted when submitted: what is asked for is known here, and a completion says only how
        // it ended.
        let bytes = || match segments {
            [segment] => u64::from(segment.bytes),
            _ => sum_of(segments),
        };
        match operation {
            Operation::Read { .. } => {
                stats.reads += 1;
                stats.read_bytes += bytes();
            }
            Operation::Write { .. } => {
                stats.writes += 1;
                stats.written_bytes += bytes();
            }
            Operation::Flush => stats.flushes += 1,
            Operation::GetId => {}
        }
    }

    #[inline(always)]
    fn notify(&mut self) {
        trace::record(event::NOTIFY, 0, self.bit.trailing_zeros());
        self.driver.notify();
    }

    /// Takes note of what was submitted.
    #[inline(always)]
    fn begin(&mut self) {
        self.stats.in_flight = u64::from(self.driver.in_flight());
        if in_flight() & self.bit == 0 && self.stats.in_flight != 0 {
            self.busy_since = cpu::tsc();
            IN_FLIGHT.store(in_flight() | self.bit, Ordering::Relaxed);
        }
    }

    #[inline(always)]
    fn harvest(&mut self, processes: &mut process::Table) {
        let number = self.bit.trailing_zeros();
        let Disk { driver, stats, .. } = self;
        driver.acknowledge();
        stats.interrupts += 1;
        // There were never more since the last interrupt than there are now.
        if stats.in_flight > stats.max_in_flight {
            stats.max_in_flight = stats.in_flight;
        }
        driver.harvest_all(|done| {
            trace::record(event::HARVEST, done.head, number);
            let ok = done.outcome == Outcome::Ok;
            if !ok {
                stats.errors += 1;
            }
            match Owner::from_cookie(done.cookie) {
                Some(Owner::Thread(thread)) => scheduler::request_ended(thread, ok),
                Some(Owner::Pages(first)) => cache::request_ended(first, ok),
                Some(Owner::Async(process, request)) => {
                    async_io::request_ended(processes, process, request, ok);
                }
                None => {}
            }
        });
        let left = u64::from(self.driver.in_flight());
        if left == 0 {
            let busy = in_flight();
            if busy & self.bit == 0 {
                return self.brought_nothing();
            }
            self.stats.in_flight_ticks += cpu::tsc() - self.busy_since;
            IN_FLIGHT.store(busy ^ self.bit, Ordering::Relaxed);
        } else if left == self.stats.in_flight {
            self.brought_nothing();
        }
        self.stats.in_flight = left;
        self.waiting_for_room.wake_all();
    }

    /// An interrupt without completions: those before it were harvested early, or it is about
    /// something else.
    #[cold]
    #[inline(never)]
    fn brought_nothing(&mut self) {
        if self.driver.take_change() {
            keeper::call(self.bit);
        }
    }
}

#[inline(never)]
fn sum_of(segments: &[Segment]) -> u64 {
    let bytes = segments.iter().map(|segment| u64::from(segment.bytes));
    bytes.sum()
}

impl DiskId {
    /// The first disk.
    pub const FIRST: DiskId = DiskId(0);

    /// The disk with this number, if there is one.
    pub fn from_number(number: usize) -> Option<DiskId> {
        (number < disks()).then_some(DiskId(number as u8))
    }

    /// Its number: `/dev/vda` is 0.
    pub fn number(self) -> usize {
        usize::from(self.0)
    }

    /// Capacity in sectors.
    pub fn sectors(self) -> u64 {
        self.with(|disk| disk.driver.info().sectors)
    }

    /// Are writes refused?
    pub fn read_only(self) -> bool {
        self.with(|disk| disk.driver.info().read_only)
    }

    /// Does it have a cache that a flush empties?
    pub fn has_flush(self) -> bool {
        self.with(|disk| disk.driver.info().flush)
    }

    /// Where its registers are.
    pub fn window(self) -> Window {
        self.with(|disk| Window {
            bytes: disk.window.bytes.clamp(REGISTER_BYTES, PAGE),
            ..disk.window
        })
    }

    /// Is it lent, or about to be, or nobody's?
    pub fn is_lent(self) -> bool {
        self.with(|disk| disk.owner != DrivenBy::Kernel)
    }

    /// Its identification string, NUL-padded.
    pub fn id(self) -> [u8; ID_BYTES] {
        self.with(|disk| disk.id)
    }

    #[inline(always)]
    fn with<T>(self, look: impl FnOnce(&Disk) -> T) -> T {
        look(&DISKS.borrow()[usize::from(self.0)])
    }
}
