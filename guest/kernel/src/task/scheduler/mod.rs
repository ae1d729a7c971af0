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
mod waiting;

use crate::arch::context::{self, Context};
use crate::arch::{cpu, fpu, gdt, time};
use crate::ipc::events::Watch;
use crate::mm::paging::{self, Root};
use crate::mm::{cache, frame, kstack, layout};
use crate::sync::{CpuCell, WaitQueue};
use crate::task::process::{self, ProcessId};
use crate::trace::{self, event};
use alloc::vec::Vec;
use core::num::NonZeroU16;
use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicU16, AtomicU64, Ordering};
use iolite_guest_abi::CpuStats;

pub use border::{after_user, before_user, timer_expired};
pub use life::{
    collect, collect_all, exit_current, kill_all, leave_process, spawn_kernel, spawn_user,
};
pub use waiting::{
    block, block_queued, block_until, deadline, is_past, pause, request_ended, request_not_started,
    request_starts, wait_for_request, wake_matching, wake_watchers, yield_now,
};
pub(crate) use waiting::{enqueue_current, wake_queue};

/// Most threads at a time.
pub const MAX_THREADS: usize = 512;
/// How long a thread runs while others are ready.
const QUANTUM_NS: u64 = 10_000_000;
/// A time that does not come.
pub const NEVER: u64 = u64::MAX;

/// A thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ThreadId(NonZeroU16);

impl ThreadId {
    /// The thread that boots.
    pub const BOOT: ThreadId = ThreadId(NonZeroU16::MIN);

    const fn at(slot: usize) -> ThreadId {
        ThreadId(NonZeroU16::MIN.saturating_add(slot as u16))
    }

    /// Its number, from 1 to [`MAX_THREADS`].
    #[inline(always)]
    pub const fn number(self) -> u16 {
        self.0.get()
    }

    /// The thread with a number, if there can be one.
    pub fn from_number(number: u64) -> Option<ThreadId> {
        let number = u16::try_from(number)
            .ok()
            .filter(|n| usize::from(*n) <= MAX_THREADS)?;
        NonZeroU16::new(number).map(ThreadId)
    }

    #[inline(always)]
    fn slot(self) -> usize {
        usize::from(self.0.get()) - 1
    }
}

/// What a blocked thread waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// Its place in a [`WaitQueue`]. Nothing else wakes it: the queue would keep its name.
    Queue,
    /// Its own request. Nothing else wakes it: a device may be using its memory.
    Request,
    /// A process to end.
    Process(ProcessId),
    /// A thread to end.
    Thread(ThreadId),
    /// Input.
    Console,
    /// The time.
    Sleep,
    /// Dirty pages: the flusher.
    Flusher,
    /// Completions of the process's asynchronous requests.
    Completions(ProcessId),
    /// An event of one of these.
    Events(Watch),
}

impl Wait {
    /// May the thread be woken before what it waits for has come?
    fn can_end_early(self) -> bool {
        !matches!(self, Wait::Queue | Wait::Request)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Free,
    Ready,
    Running,
    Blocked(Wait),
    Ended { status: u64 },
}

struct Thread {
    state: State,
    context: Context,
    /// The next one in the queue this one is in.
    link: Option<ThreadId>,
    process: Option<ProcessId>,
    root: Option<Root>,
    /// Its process is being ended: it must not return to ring 3.
    killed: bool,
    /// When a blocked thread is woken whatever it waits for; `NEVER` if not.
    wake_at: u64,
    /// Its last request has failed.
    request_failed: bool,
}

impl Thread {
    const FREE: Thread = Thread {
        state: State::Free,
        context: Context::EMPTY,
        link: None,
        process: None,
        root: None,
        killed: false,
        wake_at: NEVER,
        request_failed: false,
    };
}

struct Scheduler {
    /// Every slot that was ever used. It never outgrows what [`init`] reserves: contexts stay where
    /// they are.
    threads: Vec<Thread>,
    ready: WaitQueue,
    current: ThreadId,
    /// A thread that has ended and whose stack can be given back once nobody stands on it.
    leaving: Option<ThreadId>,
    sleepers: usize,
    timer_at: u64,
    quantum: u64,
    loaded_root: Option<Root>,
    switches: u64,
}

static SCHEDULER: CpuCell<Scheduler> = CpuCell::new(Scheduler {
    threads: Vec::new(),
    ready: WaitQueue::new(),
    current: ThreadId::BOOT,
    leaving: None,
    sleepers: 0,
    timer_at: NEVER,
    quantum: 0,
    loaded_root: None,
    switches: 0,
});

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
    scheduler.threads.reserve_exact(MAX_THREADS);
    scheduler.threads.push(Thread {
        state: State::Running,
        ..Thread::FREE
    });
    scheduler.loaded_root = Some(paging::kernel_root());
}

/// The running thread.
#[inline(always)]
pub fn current() -> ThreadId {
    match NonZeroU16::new(CURRENT.load(Ordering::Relaxed)) {
        Some(number) => ThreadId(number),
        None => ThreadId::BOOT,
    }
}

/// The running thread's process, if it has one.
#[inline(always)]
pub fn current_process() -> Option<ProcessId> {
    NonZeroU16::new(CURRENT_PROCESS.load(Ordering::Relaxed)).map(ProcessId::new)
}

/// Must the running thread end instead of waiting?
pub fn current_is_killed() -> bool {
    let scheduler = SCHEDULER.borrow();
    scheduler.threads[scheduler.current.slot()].killed
}

/// What [`iolite_guest_abi::Number::CpuStats`] tells.
pub fn stats() -> CpuStats {
    let scheduler = SCHEDULER.borrow();
    let threads = scheduler
        .threads
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
        let switched = {
            let mut scheduler = SCHEDULER.borrow_mut();
            scheduler.choose()
        };
        match switched {
            Choice::Idle => idle(),
            Choice::Same => return,
            Choice::Switch { save, next } => {
                // SAFETY: `save` is in a static table and its thread is not running any more;
                // `next` is a ready thread's context, now marked as running; no borrow is alive.
                unsafe { context::switch(save, next) };
                return after_switch();
            }
        }
    }
}

enum Choice {
    Idle,
    Same,
    Switch { save: *mut Context, next: Context },
}

fn idle() {
    trace::record(event::IDLE, 0, 0);
    let start = cpu::tsc();
    cpu::wait_for_interrupt();
    let idle = IDLE.load(Ordering::Relaxed) + (cpu::tsc() - start);
    IDLE.store(idle, Ordering::Relaxed);
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
        if next == self.current {
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
        let save = &raw mut self.threads[self.current.slot()].context;
        self.current = next;
        Choice::Switch {
            save,
            next: context,
        }
    }

    #[inline]
    fn make_ready(&mut self, thread: ThreadId) {
        let slot = &mut self.threads[thread.slot()];
        if slot.wake_at != NEVER {
            slot.wake_at = NEVER;
            self.sleepers -= 1;
        }
        slot.state = State::Ready;
        trace::record(event::WAKE, thread.number(), 0);
        slot.link = None;
        if self.ready.first.is_none() {
            self.ready.first = Some(thread);
        } else {
            self.threads[self.ready.last.slot()].link = Some(thread);
        }
        self.ready.last = thread;
        attention();
    }

    #[inline]
    fn enqueue(&mut self, queue: &mut WaitQueue, thread: ThreadId) {
        self.threads[thread.slot()].link = None;
        if queue.first.is_none() {
            queue.first = Some(thread);
        } else {
            self.threads[queue.last.slot()].link = Some(thread);
        }
        queue.last = thread;
    }

    #[inline]
    fn dequeue_ready(&mut self) -> Option<ThreadId> {
        let first = self.ready.first?;
        self.ready.first = self.threads[first.slot()].link;
        Some(first)
    }

    fn wake_matching(&mut self, wait: Wait) {
        for slot in 0..self.threads.len() {
            if self.threads[slot].state == State::Blocked(wait) {
                self.make_ready(ThreadId::at(slot));
            }
        }
    }

    fn wake_watchers(&mut self, watch: Watch) {
        for slot in 0..self.threads.len() {
            if let State::Blocked(Wait::Events(watched)) = self.threads[slot].state
                && watched.meets(watch)
            {
                self.make_ready(ThreadId::at(slot));
            }
        }
    }

    fn wake_sleepers(&mut self) {
        if self.sleepers == 0 {
            return;
        }
        let now = cpu::tsc();
        for slot in 0..self.threads.len() {
            let thread = &self.threads[slot];
            if thread.wake_at <= now {
                self.make_ready(ThreadId::at(slot));
            }
        }
    }

    /// One interrupt at the end of the quantum if somebody else is ready, or when the first sleeper
    /// wants to be woken.
    #[inline(always)]
    fn arm_timer(&mut self) {
        if !self.ready.is_empty() || self.sleepers != 0 {
            self.set_timer();
        } else if self.timer_at != NEVER {
            self.timer_at = NEVER;
            time::stop_timer();
        }
    }

    fn set_timer(&mut self) {
        let now = cpu::tsc();
        let mut at = if self.ready.is_empty() {
            NEVER
        } else {
            now + self.quantum
        };
        if self.sleepers > 0 {
            for thread in &self.threads {
                at = at.min(thread.wake_at);
            }
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
