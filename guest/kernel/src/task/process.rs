//! Processes: an address space, open files, and the threads that share them.
//!
//! A process ends when its last thread has ended. `exit`, or a fault that nobody can handle, marks
//! every thread; each ends at the latest when it would return to ring 3, and one that waits for its
//! own requests ends after them: a device never writes into memory that has been given back.

use crate::arch::power;
use crate::block;
use crate::fs::Files;
use crate::fs::async_io::{self, AsyncIo, IoBuffers};
use crate::fs::file;
use crate::mm::cache::write_back;
use crate::mm::heap;
use crate::mm::space::Space;
use crate::println;
use crate::sync::CpuCell;
use crate::task::scheduler::{self, Wait};
use crate::trace;
use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec::Vec;
use core::cell::RefMut;
use core::num::NonZeroU16;
use iolite_guest_abi::{Ended, Errno, Fault};

/// Most processes at a time.
pub const MAX_PROCESSES: usize = 256;

/// A process. The first one is number 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProcessId(NonZeroU16);

impl ProcessId {
    /// The first process: when it ends, the machine stops.
    pub const FIRST: ProcessId = ProcessId(NonZeroU16::MIN);

    /// The process with this number.
    #[inline(always)]
    pub(super) const fn new(number: NonZeroU16) -> ProcessId {
        ProcessId(number)
    }

    /// Its number.
    #[inline(always)]
    pub const fn number(self) -> u16 {
        self.0.get()
    }

    /// The process with a number, if there can be one.
    pub fn from_number(number: u64) -> Option<ProcessId> {
        let number = u16::try_from(number)
            .ok()
            .filter(|n| usize::from(*n) <= MAX_PROCESSES)?;
        NonZeroU16::new(number).map(ProcessId)
    }

    /// The process with this slot.
    #[inline(always)]
    pub fn at(slot: u32) -> ProcessId {
        ProcessId(NonZeroU16::MIN.saturating_add(slot as u16))
    }

    /// Its number, counted from 0.
    #[inline(always)]
    pub fn slot(self) -> usize {
        usize::from(self.0.get()) - 1
    }
}

/// What the threads of a process share.
pub struct Process {
    /// Its memory.
    pub space: Space,
    /// Its descriptors.
    pub files: Files,
    /// Its asynchronous requests.
    pub async_io: AsyncIo,
    /// The memory that it has registered for them.
    pub io_buffers: IoBuffers,
    /// Where its threads go on after a fault that nobody can resolve; 0 if it is to end.
    pub fault_handler: u64,
    /// What it may do: `rights::*`.
    pub rights: u64,
    name: String,
    parent: Option<ProcessId>,
    threads: usize,
    /// How it ends, once that is certain.
    ended: Option<Ended>,
    /// It has ended, and nothing is left of it but how.
    over: bool,
}

static PROCESSES: CpuCell<Vec<Option<Box<Process>>>> = CpuCell::new(Vec::new());

/// Adds a process without threads; [`thread_added`] counts them.
pub fn add(
    name: &str,
    space: Space,
    parent: Option<ProcessId>,
    files: Files,
    rights: u64,
) -> Result<ProcessId, (Errno, Space)> {
    if let Err(error) = heap::check_room() {
        return Err((error, space));
    }
    let mut processes = PROCESSES.borrow_mut();
    let slot = match processes.iter().position(Option::is_none) {
        Some(slot) => slot,
        None if processes.len() < MAX_PROCESSES => {
            processes.push(None);
            processes.len() - 1
        }
        None => return Err((Errno::EAGAIN, space)),
    };
    let name = String::from(name);
    processes[slot] = Some(Box::new(Process {
        space,
        files,
        async_io: AsyncIo::new(),
        io_buffers: IoBuffers::new(),
        fault_handler: 0,
        rights,
        name,
        parent,
        threads: 0,
        ended: None,
        over: false,
    }));
    Ok(ProcessId(NonZeroU16::MIN.saturating_add(slot as u16)))
}

/// Takes back a process that never had a thread.
pub fn remove(process: ProcessId) {
    let removed = PROCESSES.borrow_mut()[process.slot()].take();
    if let Some(mut process) = removed {
        process.space.clear();
        process.space.free();
    }
}

/// Counts another thread of `process`.
pub fn thread_added(process: ProcessId) {
    with(process, |process| process.threads += 1);
}

/// The running thread's process.
///
/// # Panics
/// In a kernel thread.
#[inline(always)]
pub fn current() -> RefMut<'static, Process> {
    match scheduler::current_process() {
        Some(id) => get(id),
        None => panic!("a kernel thread has no process"),
    }
}

/// A process that is known to be there.
#[inline(always)]
pub fn get(id: ProcessId) -> RefMut<'static, Process> {
    RefMut::map(PROCESSES.borrow_mut(), |processes| {
        match &mut processes[id.slot()] {
            Some(process) => &mut **process,
            None => panic!("process {} is gone", id.0),
        }
    })
}

/// All processes, borrowed once for many looks.
pub struct Table(RefMut<'static, Vec<Option<Box<Process>>>>);

/// All processes.
#[inline(always)]
pub fn table() -> Table {
    Table(PROCESSES.borrow_mut())
}

impl Table {
    /// A process, if it is there.
    #[inline(always)]
    pub fn get(&mut self, id: ProcessId) -> Option<&mut Process> {
        self.0.get_mut(id.slot())?.as_deref_mut()
    }
}

/// How many processes there are; ended ones count until they are waited for.
pub fn count() -> u64 {
    PROCESSES.borrow().iter().flatten().count() as u64
}

/// Calls `action` with every process.
pub fn for_each(mut action: impl FnMut(ProcessId, &mut Process)) {
    for (slot, process) in PROCESSES.borrow_mut().iter_mut().enumerate() {
        if let Some(process) = process {
            action(
                ProcessId(NonZeroU16::MIN.saturating_add(slot as u16)),
                process,
            );
        }
    }
}

fn with<T>(process: ProcessId, action: impl FnOnce(&mut Process) -> T) -> Option<T> {
    PROCESSES
        .borrow_mut()
        .get_mut(process.slot())?
        .as_mut()
        .map(|process| action(process))
}

/// Says on the console that the running process ends for a fault at `rip`, and has it end.
pub fn kill_current(fault: Fault, rip: u64, address: u64) {
    let Some(id) = scheduler::current_process() else {
        return;
    };
    let name = core::mem::take(&mut get(id).name);
    match fault {
        Fault::BadAddress | Fault::Io | Fault::OutOfMemory => println!(
            "iolite: process {} ({name}) killed: {} {address:#x} at {rip:#x}",
            id.0,
            fault.message()
        ),
        Fault::BadInstruction | Fault::Arithmetic => println!(
            "iolite: process {} ({name}) killed: {} at {rip:#x}",
            id.0,
            fault.message()
        ),
    }
    get(id).name = name;
    end_current(Ended::Killed(fault));
}

/// Settles how the running process ends, unless that is settled, and has its threads end.
pub fn end_current(ended: Ended) {
    let Some(id) = scheduler::current_process() else {
        return;
    };
    get(id).ended.get_or_insert(ended);
    scheduler::kill_all(id);
}

/// Ends the running thread, and with the last one its process.
pub fn exit_thread(status: u64) -> ! {
    let Some(id) = scheduler::current_process() else {
        scheduler::exit_current(status)
    };
    let last = {
        let mut process = get(id);
        process.threads -= 1;
        process.threads == 0
    };
    if last {
        process_ends(id, status);
    }
    scheduler::exit_current(status)
}

fn process_ends(id: ProcessId, status: u64) {
    async_io::drain();
    file::close_all();
    trace::take_ring_back(id);
    scheduler::leave_process();
    let ended = {
        let mut process = get(id);
        process.space.clear();
        process.space.free();
        *process.ended.get_or_insert(Ended::Exited(status as u8))
    };
    if id == ProcessId::FIRST {
        machine_ends(ended);
    }
    scheduler::collect_all(id);
    let mut processes = PROCESSES.borrow_mut();
    // Nobody can wait for the children any more: those that have ended go now.
    for slot in 0..processes.len() {
        let Some(child) = &mut processes[slot] else {
            continue;
        };
        if child.parent == Some(id) {
            child.parent = None;
            if child.over {
                processes[slot] = None;
            }
        }
    }
    if let Some(process) = &mut processes[id.slot()] {
        process.over = true;
    }
    if processes[id.slot()]
        .as_ref()
        .is_some_and(|process| process.parent.is_none())
    {
        processes[id.slot()] = None;
    }
    drop(processes);
    scheduler::wake_matching(Wait::Process(id));
}

/// How a child ended, which frees its number; `None` while it has not.
pub fn collect(child: ProcessId, parent: ProcessId) -> Result<Option<Ended>, Errno> {
    let mut processes = PROCESSES.borrow_mut();
    let slot = processes.get_mut(child.slot()).ok_or(Errno::ECHILD)?;
    match slot {
        Some(process) if process.parent == Some(parent) => {
            if !process.over {
                return Ok(None);
            }
            let ended = process.ended;
            *slot = None;
            Ok(ended)
        }
        _ => Err(Errno::ECHILD),
    }
}

/// The first process has ended, and the machine with it. Status 0 is a clean stop; a fault is status
/// 101, and 102 is data that could not be written where the process itself had nothing to say.
fn machine_ends(ended: Ended) -> ! {
    const KILLED: u8 = 101;
    const NOT_WRITTEN: u8 = 102;
    let failed = write_back::sync_all();
    for disk in (0..block::disks()).filter(|disk| failed & 1 << disk != 0) {
        let letter = char::from(b'a' + disk as u8);
        println!("iolite: /dev/vd{letter}: data written to the page cache is lost: write error");
    }
    match ended {
        Ended::Exited(0) if failed != 0 => power::off(NOT_WRITTEN),
        Ended::Exited(status) => power::off(status),
        Ended::Killed(_) => power::off(KILLED),
    }
}
