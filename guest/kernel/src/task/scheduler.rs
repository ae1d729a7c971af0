//! One processor, many threads: preemptive round robin.
//!
//! A thread is ready, running, blocked or ended. Ready threads stand in one queue; who blocks,
//! yields or uses its quantum up lets the first of them run. An interrupt that wakes a thread makes
//! the running program yield to it at once: it was waiting, and it will soon wait again. With
//! nothing ready the processor sleeps in `hlt`, on the stack of the thread that ran last: if that
//! is the next one to run, no stacks need to be switched.
//!
//! The timer is armed only when somebody could be preempted in favour of somebody, or sleeps.

#![allow(unsafe_code)]

use crate::arch::context::{self, Context};
use crate::arch::trap::Frame;
use crate::arch::{cpu, fpu, gdt, time};
use crate::block;
use crate::mm::paging::{self, Root};
use crate::mm::{cache, frame, kstack, layout};
use crate::sync::{CpuCell, WaitQueue};
use crate::task::process::{self, ProcessId};
use alloc::vec::Vec;
use core::num::NonZeroU16;
use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicU16, AtomicU64, Ordering};
use iolite_guest_abi::{CpuStats, Errno, FOREVER};

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

/// Ticks during which no thread ran.
static IDLE: AtomicU64 = AtomicU64::new(0);

/// When the running program was last returned to while a disk had requests in flight.
static USER_SINCE: AtomicU64 = AtomicU64::new(0);

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

// Making threads, and their end.

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
    let slot = scheduler.threads.iter().position(free);
    let slot = slot.unwrap_or(scheduler.threads.len());
    if slot == MAX_THREADS {
        return Err(Errno::EAGAIN);
    }
    kstack::map(slot).ok_or(Errno::ENOMEM)?;
    let context = context(kstack::top(slot));
    let thread = ThreadId::at(slot);
    let made = Thread {
        context,
        process,
        root,
        ..Thread::FREE
    };
    match scheduler.threads.get_mut(slot) {
        Some(free) => *free = made,
        None => scheduler.threads.push(made),
    }
    scheduler.make_ready(thread);
    Ok(thread)
}

/// Ends the running thread. Its status waits to be collected by [`collect`] if it has a process.
pub fn exit_current(status: u64) -> ! {
    {
        let mut scheduler = SCHEDULER.borrow_mut();
        let current = scheduler.current;
        let thread = &mut scheduler.threads[current.slot()];
        thread.state = State::Ended { status };
        thread.root = None;
        scheduler.leaving = Some(current);
        scheduler.wake_matching(Wait::Thread(current));
        if scheduler.threads[current.slot()].process.is_none() {
            scheduler.threads[current.slot()].state = State::Free;
        }
    }
    switch_away();
    unreachable!("an ended thread was resumed");
}

/// Leaves the running thread's address space, which is about to be freed.
pub fn leave_address_space() {
    let mut scheduler = SCHEDULER.borrow_mut();
    let current = scheduler.current;
    scheduler.threads[current.slot()].root = None;
    scheduler.loaded_root = Some(paging::kernel_root());
    paging::kernel_root().load();
}

/// The status of a thread of `process` that has ended, which frees its number; `None` while it has
/// not.
pub fn collect(thread: ThreadId, process: ProcessId) -> Result<Option<u64>, Errno> {
    let mut scheduler = SCHEDULER.borrow_mut();
    let slot = scheduler
        .threads
        .get_mut(thread.slot())
        .ok_or(Errno::ESRCH)?;
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
    for thread in &mut scheduler.threads {
        if thread.process == Some(process) && matches!(thread.state, State::Ended { .. }) {
            thread.process = None;
            thread.state = State::Free;
        }
    }
}

/// Marks every thread of `process` as one that must end, and wakes those that can be woken early.
pub fn kill_all(process: ProcessId) {
    let mut scheduler = SCHEDULER.borrow_mut();
    for slot in 0..scheduler.threads.len() {
        let thread = &mut scheduler.threads[slot];
        if thread.process != Some(process) {
            continue;
        }
        thread.killed = true;
        if matches!(thread.state, State::Blocked(wait) if wait.can_end_early()) {
            scheduler.make_ready(ThreadId::at(slot));
        }
    }
    ATTENTION.store(true, Ordering::Relaxed);
}

// Blocking and waking.

/// Puts the running thread at the end of `queue`.
pub(crate) fn enqueue_current(queue: &mut WaitQueue) {
    let mut scheduler = SCHEDULER.borrow_mut();
    let current = scheduler.current;
    scheduler.enqueue(queue, current);
}

/// Blocks the running thread, which has joined a queue, until the queue is woken.
pub fn block_queued() {
    block(Wait::Queue);
}

/// Blocks the running thread until [`wake_matching`] or a kill. The caller checks again what it
/// waits for.
pub fn block(wait: Wait) {
    {
        let mut scheduler = SCHEDULER.borrow_mut();
        let current = scheduler.current;
        scheduler.threads[current.slot()].state = State::Blocked(wait);
    }
    switch_away();
}

/// When `nanoseconds` from now are over; [`iolite_guest_abi::FOREVER`] never are.
pub fn deadline(nanoseconds: u64) -> u64 {
    match nanoseconds {
        FOREVER => NEVER,
        _ => cpu::tsc().saturating_add(time::ticks(nanoseconds)),
    }
}

/// Is a [`deadline`] over?
pub fn is_past(deadline: u64) -> bool {
    deadline != NEVER && cpu::tsc() >= deadline
}

/// As [`block`], but not after the time stamp counter has reached `tsc`.
pub fn block_until(wait: Wait, tsc: u64) {
    {
        let mut scheduler = SCHEDULER.borrow_mut();
        let current = scheduler.current;
        let thread = &mut scheduler.threads[current.slot()];
        thread.state = State::Blocked(wait);
        thread.wake_at = tsc;
        if tsc != NEVER {
            scheduler.sleepers += 1;
        }
    }
    switch_away();
}

/// Wakes every thread that waits for `wait`.
pub fn wake_matching(wait: Wait) {
    SCHEDULER.borrow_mut().wake_matching(wait);
}

pub(crate) fn wake_queue(queue: &mut WaitQueue) {
    let mut scheduler = SCHEDULER.borrow_mut();
    let mut waiting = queue.first.take();
    while let Some(thread) = waiting {
        waiting = scheduler.threads[thread.slot()].link;
        scheduler.make_ready(thread);
    }
}

/// Lets every other ready thread run first.
pub fn yield_now() {
    {
        let mut scheduler = SCHEDULER.borrow_mut();
        if scheduler.ready.is_empty() {
            return;
        }
        let current = scheduler.current;
        scheduler.make_ready(current);
    }
    switch_away();
}

// A thread's own request.

/// Marks the running thread as one that waits for its request, which it is about to submit. The
/// request cannot end before [`wait_for_request`] lets interrupts in.
#[inline(always)]
pub fn request_starts() -> ThreadId {
    let mut scheduler = SCHEDULER.borrow_mut();
    let current = scheduler.current;
    scheduler.threads[current.slot()].state = State::Blocked(Wait::Request);
    current
}

/// Takes back [`request_starts`]: the request was not taken.
pub fn request_not_started() {
    let mut scheduler = SCHEDULER.borrow_mut();
    let current = scheduler.current;
    scheduler.threads[current.slot()].state = State::Running;
}

/// The request of `thread` has completed.
#[inline(always)]
pub fn request_ended(thread: ThreadId, ok: bool) {
    let mut scheduler = SCHEDULER.borrow_mut();
    let Some(waiting) = scheduler.threads.get_mut(thread.slot()) else {
        return;
    };
    waiting.request_failed = !ok;
    if waiting.state == State::Blocked(Wait::Request) {
        scheduler.make_ready(thread);
    }
}

/// Blocks the running thread until its request has completed. Did it succeed?
#[inline(always)]
pub fn wait_for_request() -> bool {
    switch_away();
    let scheduler = SCHEDULER.borrow_mut();
    !scheduler.threads[scheduler.current.slot()].request_failed
}

// Traps.

/// The first step of a trap that comes from ring 3: what the program has done since it was returned
/// to counts as work beside the requests that are in flight. They all were, all the while: requests
/// begin and end in ring 0.
#[inline(always)]
pub fn after_user() {
    if block::in_flight() != 0 {
        block::count_work(cpu::tsc() - USER_SINCE.load(Ordering::Relaxed));
    }
}

/// The last step of a trap that returns to ring 3.
#[inline(always)]
pub fn before_user() {
    if ATTENTION.load(Ordering::Relaxed) {
        attend();
    }
    // SAFETY: a user thread's area was initialised when it was made, and lives as long as it.
    unsafe { fpu::load(CURRENT_FPU.load(Ordering::Relaxed)) };
    if block::in_flight() != 0 {
        USER_SINCE.store(cpu::tsc(), Ordering::Relaxed);
    }
}

#[cold]
fn attend() {
    ATTENTION.store(false, Ordering::Relaxed);
    if !current_is_killed() {
        yield_now();
    }
    if current_is_killed() {
        process::exit_thread(0);
    }
}

/// The timer interrupt: a quantum is used up, or a sleeper's time has come.
pub fn timer_expired() {
    let mut scheduler = SCHEDULER.borrow_mut();
    scheduler.timer_at = NEVER;
    scheduler.wake_sleepers();
    if scheduler.ready.is_empty() {
        scheduler.arm_timer();
    } else {
        ATTENTION.store(true, Ordering::Relaxed);
    }
}

/// The first thing a new thread does, on its own stack.
#[unsafe(no_mangle)]
extern "C" fn thread_starts() {
    after_switch();
    let user = current_process().is_some();
    if user {
        before_user();
    }
}

/// The last thing a kernel thread does.
#[unsafe(no_mangle)]
extern "C" fn thread_ends() -> ! {
    exit_current(0)
}

// The switch itself.

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
        slot.link = None;
        if self.ready.first.is_none() {
            self.ready.first = Some(thread);
        } else {
            self.threads[self.ready.last.slot()].link = Some(thread);
        }
        self.ready.last = thread;
        ATTENTION.store(true, Ordering::Relaxed);
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
