//! The trace rings: how a guest tells the VMM what it does, without a VM exit (docs/tracing.md).
//!
//! With `--trace` there is a window of memory at [`TRACE_BASE`] that the memory map does not show.
//! The command line names it: `iolite.trace=SIZE@ADDRESS`. It holds rings, one after the other: the
//! first is the kernel's, the others are for programs that the kernel lends one to. Each has one
//! writer, a page of header, and after it [`header::CAPACITY`] events of [`EVENT_BYTES`] bytes. To
//! report an event, the writer
//!
//! 1. takes the number `n` of events it has written so far,
//! 2. fills in the event at place `n % capacity`,
//! 3. stores `n + 1` to [`header::WRITTEN`], after the event (x86 keeps the order of stores).
//!
//! It never waits and never looks what has been read: the oldest events are overwritten, and the
//! reader counts what it has missed.
//!
//! ```text
//! event   0x00 u64  time stamp counter
//!         0x08 u8   kind
//!         0x09 u8   processor
//!         0x0a u16  a
//!         0x0c u32  b
//!         0x10 u64  c
//!         0x18 u64  d
//! ```
//!
//! What `a` to `d` mean is said at each kind; what a kind does not name may hold anything.

/// Guest physical address of the window.
pub const TRACE_BASE: u64 = 0xe000_0000;
/// What the command line calls the window: `iolite.trace=SIZE@ADDRESS`.
pub const TRACE_WORD: &str = "iolite.trace";

/// Size of an event in bytes.
pub const EVENT_BYTES: usize = 32;
/// How many events the kernel's ring holds as iolite makes it.
pub const TRACE_EVENTS: u32 = 1 << 16;
/// How many rings for programs follow it.
pub const PROGRAM_RINGS: usize = 7;
/// How many events each of those holds.
pub const PROGRAM_EVENTS: u32 = 1 << 14;
/// Size in bytes of the window as iolite makes it.
pub const TRACE_BYTES: u64 = ring_at(PROGRAM_RINGS + 1);

/// Size in bytes of a ring with room for so many events.
pub const fn ring_bytes(events: u32) -> u64 {
    header::BYTES + events as u64 * EVENT_BYTES as u64
}

/// Where ring `number` begins in the window as iolite makes it; 0 is the kernel's.
pub const fn ring_at(number: usize) -> u64 {
    match number {
        0 => 0,
        _ => ring_bytes(TRACE_EVENTS) + (number as u64 - 1) * ring_bytes(PROGRAM_EVENTS),
    }
}

/// The header of a ring: the VMM fills it in before the guest's first instruction, the writer changes
/// [`WRITTEN`](header::WRITTEN) alone.
pub mod header {
    /// u32: "iotr".
    pub const MAGIC: u64 = 0x00;
    /// u32: the version of this layout, 2.
    pub const VERSION: u64 = 0x04;
    /// u32: how many events the ring holds, a power of two.
    pub const CAPACITY: u64 = 0x08;
    /// u64: how many events have been written since the start.
    pub const WRITTEN: u64 = 0x40;
    /// Size of the header in bytes; the events follow.
    pub const BYTES: u64 = 0x1000;

    /// The value of [`MAGIC`].
    pub const MAGIC_VALUE: u32 = u32::from_le_bytes(*b"iotr");
    /// The value of [`VERSION`].
    pub const VERSION_VALUE: u32 = 2;
}

/// Kinds of events. Threads and processes have numbers of the guest's own choice; a disk is the
/// number of its virtio-mmio window; a request is named by its disk, its queue and the head index of
/// its descriptor chain, which are its own from [`ADD`](kind::ADD) to [`HARVEST`](kind::HARVEST).
/// Both are found in `b`: the disk in its low byte, the queue in its second highest.
///
/// In a program's ring only [`ADD`](kind::ADD), [`NOTIFY`](kind::NOTIFY) and
/// [`HARVEST`](kind::HARVEST) of a disk that was lent to the program count, and what is from
/// [`SEND`](kind::SEND) on; and only while one of its threads runs.
pub mod kind {
    /// The processor runs thread `a` from now on.
    pub const RUN: u8 = 1;
    /// The processor has nothing to run, until the next [`RUN`].
    pub const IDLE: u8 = 2;
    /// The running thread enters the kernel: `a` is one of [`super::ask`], `b` a system call's
    /// number or 0, `c` its first argument or the address of a fault.
    pub const ENTER: u8 = 3;
    /// The running thread goes back to its program.
    pub const LEAVE: u8 = 4;
    /// A request is in the descriptor table: `a` is its head, `b` its disk and queue, and in its
    /// second lowest byte one of [`super::purpose`]. Of [`super::purpose::SERVER`], `c` is the
    /// client's channel and `d` the number of its request, as in [`SEND`].
    pub const ADD: u8 = 5;
    /// What was added to the queue in `b` is about to be made available, and the device notified if it
    /// wants that.
    pub const NOTIFY: u8 = 6;
    /// An interrupt has arrived on line `b`.
    pub const INTERRUPT: u8 = 7;
    /// The used entry of the request with head `a` of the queue in `b` has been taken.
    pub const HARVEST: u8 = 8;
    /// Thread `a` may run again.
    pub const WAKE: u8 = 9;
    /// Thread `a` belongs to process `b` (0: the kernel) and is called `c` and `d`: 16 bytes of
    /// text, padded with NUL.
    pub const NAME: u8 = 10;
    /// The system call with number `b` is called `c` and `d`: text as in [`NAME`].
    pub const CALL_NAME: u8 = 11;
    /// The disk in `b` is driven by process `a` from now on (0: the kernel).
    pub const LEND: u8 = 12;
    /// Ring `b` is written by process `a` from now on (0: nobody).
    pub const WRITER: u8 = 13;
    /// A client is about to show its server request number `c` of channel `b`, counted from 0.
    pub const SEND: u8 = 14;
    /// The server has taken it.
    pub const RECEIVE: u8 = 15;
    /// A server is about to answer the request whose head `a`, of the queue in `b`, it has taken from
    /// the used ring: this is answer number `d` of channel `c`, counted from 0.
    pub const ANSWER: u8 = 16;
    /// The client has taken answer number `c` of channel `b`.
    pub const COLLECT: u8 = 17;

    /// The last one.
    pub const LAST: u8 = COLLECT;
}

/// Why a thread enters the kernel.
pub mod ask {
    /// A system call.
    pub const CALL: u16 = 0;
    /// A page fault.
    pub const FAULT: u16 = 1;
}

/// What a request is for, where its asker does not say it all.
pub mod purpose {
    /// A thread waits for it.
    pub const WAIT: u8 = 0;
    /// A process goes on and asks later.
    pub const ASYNC: u8 = 1;
    /// A page that a thread waits for.
    pub const PAGE: u8 = 2;
    /// Pages that nobody waits for yet.
    pub const READ_AHEAD: u8 = 3;
    /// Dirty pages.
    pub const WRITE_BACK: u8 = 4;
    /// A client of the program that drives the disk.
    pub const SERVER: u8 = 5;
}

/// The word of an event that holds its kind, processor 0, `a` and `b`.
#[inline(always)]
pub const fn event_word(kind: u8, a: u16, b: u32) -> u64 {
    kind as u64 | (a as u64) << 16 | (b as u64) << 32
}
