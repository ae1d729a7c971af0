//! One processor, many threads: preemptive round robin.
//!
//! A thread is ready, running, blocked or ended. Ready threads stand in one queue; who blocks,
//! yields or uses its quantum up lets the first of them run. An interrupt that wakes a thread makes
//! the running program yield to it at once: it was waiting, and it will soon wait again. With
//! nothing ready the processor sleeps in `hlt`, on the stack of the thread that ran last: if that
//! is the next one to run, no stacks need to be switched.
//!
//! The timer is armed only when somebody could be preempted in favour of somebody, or sleeps.
//!
//! This file holds the threads and the switch between them. `life` makes and ends them, `waiting`
//! blocks and wakes them, `border` is what they pass on their way from and to ring 3.

#![allow(unsafe_code)]

mod border;
mod life;
mod thread;
mod waiting;

use crate::arch::context::{self, Context};
use crate::arch::{cpu, fpu, gdt, time};
use crate::mm::paging::{self, Root};
use crate::mm::{cache, frame, kstack, layout};
use crate::sync::{CpuCell, WaitQueue};
use crate::task::process::{self, ProcessId};
use crate::trace::{self, event};
use core::num::NonZeroU16;
use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicU16, AtomicU64, Ordering};
use iolite_guest_abi::CpuStats;
use iolite_guest_core::timers::Timers;
use thread::{MAX_THREADS, State, Thread};

pub use border::{after_user, before_user, timer_expired};
pub use life::{
    collect, collect_all, exit_current, kill_all, leave_process, spawn_kernel, spawn_user,
};
pub use thread::{ThreadId, Wait};
pub use waiting::{
    block, block_queued, block_until, deadline, is_past, pause, request_ended, take_failed,
    wait_for_request, wake_matching, wake_watchers, yield_now,
};
pub(crate) use waiting::{enqueue_current, wake_queue};

/// How long a thread runs while others are ready.
const QUANTUM_NS: u64 = 10_000_000;
/// A time that does not come.
pub const NEVER: u64 = u64::MAX;

struct Scheduler {
    threads: [Thread; MAX_THREADS],
    /// How many slots were ever used.
    used: usize,
    ready: WaitQueue,
    /// The first of the threads that are woken by what they wait for.
    watching: Option<ThreadId>,
    /// The running thread's slot.
    current: usize,
    /// A thread that has ended and whose stack can be given back once nobody stands on it.
    leaving: Option<ThreadId>,
    /// Blocked threads that are woken at a time whatever they wait for, by slot.
    timers: Timers<MAX_THREADS>,
    /// When the timer interrupts; 0 if it is not armed.
    timer_at: u64,
    quantum: u64,
    loaded_root: Option<Root>,
    switches: u64,
}

/// All zeroes.
static SCHEDULER: CpuCell<Scheduler> = CpuCell::new(Scheduler {
    threads: [const { Thread::FREE }; MAX_THREADS],
    used: 0,
    ready: WaitQueue::new(),
    watching: None,
    current: 0,
    leaving: None,
    timers: Timers::new(),
    timer_at: 0,
    quantum: 0,
    loaded_root: None,
    switches: 0,
});

/// The last request that each thread has waited for has failed; by slot.
static FAILED: [AtomicBool; MAX_THREADS] = [const { AtomicBool::new(false) }; MAX_THREADS];

/// Something keeps the running thread from simply returning to ring 3.
static ATTENTION: AtomicBool = AtomicBool::new(false);

/// Has the running thread look around before it returns to ring 3.
#[inline(always)]
fn attention() {
    ATTENTION.store(true, Ordering::Relaxed);
}

/// Ticks during which no thread ran.
static IDLE: AtomicU64 = AtomicU64::new(0);

// What every trap asks, kept beside the table: the running thread, its process (0: none), and
// where its floating-point registers belong.
static CURRENT: AtomicU16 = AtomicU16::new(ThreadId::BOOT.number());
static CURRENT_PROCESS: AtomicU16 = AtomicU16::new(0);
static CURRENT_FPU: AtomicPtr<fpu::Registers> = AtomicPtr::new(core::ptr::null_mut());

/// Makes the code that runs the boot thread.
pub fn init() {
    let mut scheduler = SCHEDULER.borrow_mut();
    scheduler.quantum = time::ticks(QUANTUM_NS);
    scheduler.threads[ThreadId::BOOT.slot()].state = State::Running;
    scheduler.used = 1;
    scheduler.loaded_root = Some(paging::kernel_root());
}

/// The running thread.
#[inline(always)]
pub fn current() -> ThreadId {
    let number = u64::from(CURRENT.load(Ordering::Relaxed));
    ThreadId::from_number(number).unwrap_or(ThreadId::BOOT)
}

/// The running thread's process, if it has one.
#[inline(always)]
pub fn current_process() -> Option<ProcessId> {
    NonZeroU16::new(CURRENT_PROCESS.load(Ordering::Relaxed)).map(ProcessId::new)
}

/// Must the running thread end instead of waiting?
pub fn current_is_killed() -> bool {
    SCHEDULER.borrow_mut().running().killed
}

/// What [`iolite_guest_abi::Number::CpuStats`] tells.
pub fn stats() -> CpuStats {
    let scheduler = SCHEDULER.borrow();
    let threads = scheduler.threads[..scheduler.used]
        .iter()
        .filter(|thread| thread.state != State::Free);
    let (cached_pages, dirty_pages) = cache::counts();
    CpuStats {
        idle: IDLE.load(Ordering::Relaxed),
        switches: scheduler.switches,
        free_frames: frame::free_count(),
        cached_pages,
        dirty_pages,
        threads: threads.count() as u64,
        processes: process::count(),
    }
}

/// Runs the first ready thread. The running one is ready, blocked or ended.
fn switch_away() {
    loop {
        let choice = SCHEDULER.borrow_mut().choose();
        match choice {
            Choice::Idle => idle(),
            Choice::Same => return,
            Choice::Switch { save, next } => return switch(save, next),
        }
    }
}

fn switch(save: *mut Context, next: Context) {
    // SAFETY: `save` is in a static table and its thread is not running any more; `next` is a ready
    // thread's context, now marked as running; no borrow is alive.
    unsafe { context::switch(save, next) };
    after_switch();
}

enum Choice {
    Idle,
    Same,
    Switch { save: *mut Context, next: Context },
}

/// Sleeps until an interrupt has been handled.
#[inline(always)]
fn idle() {
    trace::record(event::IDLE, 0, 0);
    // The difference of two readings, added one by one: nothing has to be kept across the sleep.
    let count = |idle| IDLE.store(idle, Ordering::Relaxed);
    count(IDLE.load(Ordering::Relaxed).wrapping_sub(cpu::tsc()));
    cpu::wait_for_interrupt();
    count(IDLE.load(Ordering::Relaxed).wrapping_add(cpu::tsc()));
}

/// What is left to do for the thread that was switched away from.
fn after_switch() {
    let leaving = SCHEDULER.borrow_mut().leaving.take();
    if let Some(thread) = leaving {
        fpu::forget(fpu_area(kstack::top(thread.slot())));
        kstack::unmap(thread.slot());
    }
}

impl Scheduler {
    /// The running thread.
    #[inline(always)]
    fn running(&mut self) -> &mut Thread {
        &mut self.threads[self.current % MAX_THREADS]
    }

    /// The slots that were ever used.
    fn slots(&self) -> impl Iterator<Item = ThreadId> + use<> {
        (0..self.used).map(ThreadId::at)
    }

    fn choose(&mut self) -> Choice {
        let Some(next) = self.dequeue_ready() else {
            self.arm_timer();
            return Choice::Idle;
        };
        self.arm_timer();
        let thread = &mut self.threads[next.slot()];
        thread.state = State::Running;
        // Those who are ready have had their turn before this one, or have the timer.
        ATTENTION.store(thread.killed, Ordering::Relaxed);
        trace::record(event::RUN, next.number(), 0);
        if next.slot() == self.current {
            return Choice::Same;
        }
        let context = thread.context;
        if let Some(root) = thread.root
            && self.loaded_root != Some(root)
        {
            root.load();
            self.loaded_root = Some(root);
        }
        let process = thread.process.map_or(0, ProcessId::number);
        CURRENT.store(next.number(), Ordering::Relaxed);
        CURRENT_PROCESS.store(process, Ordering::Relaxed);
        // The kernel stack begins below the floating-point registers.
        let fpu_area = fpu_area(kstack::top(next.slot()));
        CURRENT_FPU.store(fpu_area, Ordering::Relaxed);
        gdt::set_kernel_stack(fpu_area as u64);
        self.switches += 1;
        let save = &raw mut self.running().context;
        self.current = next.slot();
        Choice::Switch {
            save,
            next: context,
        }
    }

    /// Makes a thread ready that is blocked, running or new.
    fn make_ready(&mut self, thread: ThreadId) {
        if let State::Blocked(wait) = self.threads[thread.slot()].state {
            if wait.is_matched() {
                self.unwatch(thread);
            }
            self.timers.remove(thread.slot() as u16);
        }
        self.add_ready(thread);
    }

    #[inline(always)]
    fn add_ready(&mut self, thread: ThreadId) {
        self.threads[thread.slot()].state = State::Ready;
        trace::record(event::WAKE, thread.number(), 0);
        let mut ready = self.ready;
        self.enqueue(&mut ready, thread);
        self.ready = ready;
        attention();
    }

    #[inline(always)]
    fn enqueue(&mut self, queue: &mut WaitQueue, thread: ThreadId) {
        self.threads[thread.slot()].link = None;
        match queue.last {
            Some(last) if queue.first.is_some() => {
                self.threads[last.slot()].link = Some(thread);
            }
            _ => queue.first = Some(thread),
        }
        queue.last = Some(thread);
    }

    #[inline]
    fn dequeue_ready(&mut self) -> Option<ThreadId> {
        let first = self.ready.first?;
        self.ready.first = self.threads[first.slot()].link;
        Some(first)
    }

    /// Adds the running thread to those that are woken by what they wait for.
    fn watch(&mut self) {
        let thread = ThreadId::at(self.current);
        let next = self.watching.replace(thread);
        self.running().link = next;
        self.running().back_link = None;
        if let Some(next) = next {
            self.threads[next.slot()].back_link = Some(thread);
        }
    }

    fn unwatch(&mut self, thread: ThreadId) {
        let Thread {
            link, back_link, ..
        } = self.threads[thread.slot()];
        match back_link {
            Some(before) => self.threads[before.slot()].link = link,
            None => self.watching = link,
        }
        if let Some(after) = link {
            self.threads[after.slot()].back_link = back_link;
        }
    }

    /// Wakes the threads that wait for something that `wanted` says yes to.
    fn wake_if(&mut self, wanted: impl Fn(Wait) -> bool) {
        let mut next = self.watching;
        while let Some(thread) = next {
            let slot = &self.threads[thread.slot()];
            next = slot.link;
            if let State::Blocked(wait) = slot.state
                && wanted(wait)
            {
                self.make_ready(thread);
            }
        }
    }

    fn wake_sleepers(&mut self) {
        if self.timers.is_empty() {
            return;
        }
        let now = cpu::tsc();
        while let Some(slot) = self.timers.take_due(now) {
            self.make_ready(ThreadId::at(slot.into()));
        }
    }

    /// One interrupt at the end of the quantum if somebody else is ready, or when the first sleeper
    /// wants to be woken.
    #[inline(always)]
    fn arm_timer(&mut self) {
        if !self.ready.is_empty() || !self.timers.is_empty() {
            self.set_timer();
        } else if self.timer_at != 0 {
            self.timer_at = 0;
            time::stop_timer();
        }
    }

    fn set_timer(&mut self) {
        let mut at = self.timers.first().unwrap_or(NEVER);
        if !self.ready.is_empty() {
            at = at.min(cpu::tsc() + self.quantum);
        }
        if at != self.timer_at {
            self.timer_at = at;
            time::set_timer(at);
        }
    }
}

/// Where a user thread's floating-point registers are kept: at the top of its kernel stack.
#[inline(always)]
fn fpu_area(stack_top: u64) -> *mut fpu::Registers {
    const { assert!(layout::KERNEL_STACK_BYTES > 4096 + size_of::<fpu::Registers>() as u64) };
    (stack_top - size_of::<fpu::Registers>() as u64) as *mut fpu::Registers
}
