//! Making threads, and their end.

#![allow(unsafe_code)]

use super::{
    CURRENT_PROCESS, MAX_THREADS, SCHEDULER, State, Thread, ThreadId, Wait, attention, fpu_area,
    switch_away,
};
use crate::arch::context::Context;
use crate::arch::fpu;
use crate::arch::trap::Frame;
use crate::mm::kstack;
use crate::mm::paging::{self, Root};
use crate::task::process::ProcessId;
use crate::trace;
use core::sync::atomic::Ordering;
use iolite_guest_abi::Errno;

/// Makes a thread of `process` that begins with the registers of `frame`.
pub fn spawn_user(process: ProcessId, root: Root, frame: Frame) -> Result<ThreadId, Errno> {
    spawn(Some(process), Some(root), |stack_top| {
        let area = fpu_area(stack_top);
        // SAFETY: `spawn` has mapped the stack, whose top is the thread's own.
        unsafe {
            fpu::init(area);
            Context::user(area as u64, frame)
        }
    })
}

/// Makes a kernel thread that runs `body(argument)`.
pub fn spawn_kernel(body: extern "C" fn(u64), argument: u64) -> Result<ThreadId, Errno> {
    // SAFETY: `spawn` has mapped the stack.
    spawn(None, None, |stack_top| unsafe {
        Context::kernel(stack_top, body, argument)
    })
}

fn spawn(
    process: Option<ProcessId>,
    root: Option<Root>,
    context: impl FnOnce(u64) -> Context,
) -> Result<ThreadId, Errno> {
    let mut scheduler = SCHEDULER.borrow_mut();
    let free = |thread: &Thread| thread.state == State::Free;
    let slot = scheduler.threads[..scheduler.used].iter().position(free);
    let slot = slot.unwrap_or(scheduler.used);
    if slot == MAX_THREADS {
        return Err(Errno::EAGAIN);
    }
    kstack::map(slot).ok_or(Errno::ENOMEM)?;
    let context = context(kstack::top(slot));
    let thread = ThreadId::at(slot);
    scheduler.used = scheduler.used.max(slot + 1);
    scheduler.threads[slot] = Thread {
        context,
        process,
        root,
        ..Thread::FREE
    };
    trace::name(thread.number(), process.map_or(0, ProcessId::number), "");
    scheduler.make_ready(thread);
    Ok(thread)
}

/// Ends the running thread. Its status waits to be collected by [`collect`] if it has a process.
pub fn exit_current(status: u64) -> ! {
    {
        let mut scheduler = SCHEDULER.borrow_mut();
        let current = ThreadId::at(scheduler.current);
        scheduler.leaving = Some(current);
        let thread = scheduler.running();
        thread.state = match thread.process {
            Some(_) => State::Ended { status },
            None => State::Free,
        };
        thread.root = None;
        scheduler.wake_if(|wait| wait == Wait::Thread(current));
    }
    switch_away();
    unreachable!("an ended thread was resumed");
}

/// Makes the running thread a kernel thread: its process, and with it its address space, is about to
/// go.
pub fn leave_process() {
    let mut scheduler = SCHEDULER.borrow_mut();
    let thread = scheduler.running();
    thread.root = None;
    thread.process = None;
    CURRENT_PROCESS.store(0, Ordering::Relaxed);
    scheduler.loaded_root = Some(paging::kernel_root());
    paging::kernel_root().load();
}

/// The status of a thread of `process` that has ended, which frees its number; `None` while it has
/// not.
pub fn collect(thread: ThreadId, process: ProcessId) -> Result<Option<u64>, Errno> {
    let mut scheduler = SCHEDULER.borrow_mut();
    let slot = &mut scheduler.threads[thread.slot()];
    if slot.process != Some(process) {
        return Err(Errno::ESRCH);
    }
    match slot.state {
        State::Free => Err(Errno::ESRCH),
        State::Ended { status } => {
            *slot = Thread::FREE;
            Ok(Some(status))
        }
        _ => Ok(None),
    }
}

/// Frees the numbers of the threads of `process` that have ended and were not collected.
pub fn collect_all(process: ProcessId) {
    let mut scheduler = SCHEDULER.borrow_mut();
    for slot in scheduler.slots() {
        let thread = &mut scheduler.threads[slot.slot()];
        if thread.process == Some(process) && matches!(thread.state, State::Ended { .. }) {
            thread.process = None;
            thread.state = State::Free;
        }
    }
}

/// Marks every thread of `process` as one that must end, and wakes those that can be woken early.
pub fn kill_all(process: ProcessId) {
    let mut scheduler = SCHEDULER.borrow_mut();
    for id in scheduler.slots() {
        let thread = &mut scheduler.threads[id.slot()];
        if thread.process != Some(process) {
            continue;
        }
        thread.killed = true;
        if matches!(thread.state, State::Blocked(wait) if wait.can_end_early()) {
            scheduler.make_ready(id);
        }
    }
    attention();
}
