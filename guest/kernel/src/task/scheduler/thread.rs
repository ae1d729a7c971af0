//! Threads: their numbers, what they wait for, what is kept of each.

use crate::arch::context::Context;
use crate::ipc::events::Watch;
use crate::mm::paging::Root;
use crate::task::process::ProcessId;
use core::num::NonZeroU16;

/// Most threads at a time.
pub const MAX_THREADS: usize = 512;

/// A thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ThreadId(NonZeroU16);

impl ThreadId {
    /// The thread that boots.
    pub const BOOT: ThreadId = ThreadId(NonZeroU16::MIN);

    /// The thread in a slot.
    #[inline(always)]
    pub(super) const fn at(slot: usize) -> ThreadId {
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

    /// Its place among the threads.
    #[inline(always)]
    pub(super) const fn slot(self) -> usize {
        (self.0.get() as usize - 1) % MAX_THREADS
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
    /// A device about which something has changed: the keeper.
    Keeper,
    /// Completions of the process's asynchronous requests.
    Completions(ProcessId),
    /// An event of one of these.
    Events(Watch),
}

impl Wait {
    /// May the thread be woken before what it waits for has come?
    pub(super) fn can_end_early(self) -> bool {
        !matches!(self, Wait::Queue | Wait::Request)
    }

    /// Is it something that threads are woken by name for?
    pub(super) fn is_matched(self) -> bool {
        !matches!(self, Wait::Queue | Wait::Request | Wait::Sleep)
    }
}

/// With a tag of its own: 0 is a free slot, and a table of them need not be part of the image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum State {
    Free,
    Ready,
    Running,
    Blocked(Wait),
    Ended { status: u64 },
}

pub(super) struct Thread {
    pub state: State,
    pub context: Context,
    /// The next one in the queue or list this one is in.
    pub link: Option<ThreadId>,
    /// The one before it in the list of those that are woken by what they wait for.
    pub back_link: Option<ThreadId>,
    pub process: Option<ProcessId>,
    pub root: Option<Root>,
    /// Its process is being ended: it must not return to ring 3.
    pub killed: bool,
}

impl Thread {
    /// All zeroes.
    pub const FREE: Thread = Thread {
        state: State::Free,
        context: Context::EMPTY,
        link: None,
        back_link: None,
        process: None,
        root: None,
        killed: false,
    };
}
