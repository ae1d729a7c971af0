//! A trace as every view sees it: who did what when (slices on lanes), and the life of each request.
//!
//! Times are nanoseconds since the trace began. A trace is put together from recorded events
//! (`assemble`) or read back from a file (`read`).

use serde::{Deserialize, Serialize};

pub use super::names::{Name, Names};
use super::parts;

/// A trace.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Trace {
    /// Where it comes from and what it lacks.
    pub about: About,
    /// Who can be seen doing something.
    pub lanes: Vec<Lane>,
    /// What slices and paths are called.
    pub names: Names,
    /// What was done, in the order in which it began.
    pub slices: Vec<Slice>,
    /// The requests, in the order of their birth; the n-th has id n + 1.
    pub requests: Vec<Request>,
}

impl Trace {
    /// How many requests have an effect before its cause: none, if the clocks of both sides agree.
    pub fn disordered(&self) -> u64 {
        let torn = self.requests.iter().filter(|r| !parts::is_in_order(r));
        self.about.disordered + torn.count() as u64
    }
}

/// Where a trace comes from and what it lacks.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct About {
    /// Version of the file's layout.
    pub iolite_trace: u32,
    /// The command that was traced.
    pub command: String,
    /// The host's processor and kernel.
    pub host: String,
    /// The machine's memory and disks.
    pub machine: String,
    /// The disks, in the guest's order.
    pub disks: Vec<String>,
    /// How long was traced, in nanoseconds.
    pub duration_ns: u64,
    /// Events of the guest.
    pub guest_events: u64,
    /// Events of the host.
    pub host_events: u64,
    /// Events of the guest that were overwritten before they were read.
    pub guest_lost: u64,
    /// Events of the host that found no room.
    pub host_lost: u64,
    /// Events that came when the trace was as long as it can get.
    pub not_kept: u64,
    /// Events of the guest that say more than a trace has room for.
    #[serde(default)]
    pub left_out: u64,
    /// Requests of which the device had something before the guest said that it gave it, or the guest
    /// before the device: the clocks do not agree.
    pub disordered: u64,
    /// The guest's time stamp counter minus the host's.
    pub tsc_offset: i64,
    /// How the two clocks were found to agree.
    pub clock: String,
}

/// What is said of events that are left out, after their number.
pub const LEFT_OUT: &str =
    "of the guest left out: more threads, names, slices or requests than a trace has room for";

impl About {
    /// What the trace lacks, in words; none if it lacks nothing.
    pub fn lost(&self) -> Option<String> {
        let parts = [
            (self.guest_lost, "lost in the guest's rings"),
            (self.host_lost, "lost on the host"),
            (self.not_kept, "after the trace was full"),
            (self.left_out, LEFT_OUT),
        ];
        let parts = parts.iter().filter(|(count, _)| *count > 0);
        let parts: Vec<String> = parts.map(|(count, how)| format!("{count} {how}")).collect();
        (!parts.is_empty()).then(|| parts.join(", "))
    }
}

/// Which part of the machine a lane belongs to.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Group {
    /// The guest: its processor and its threads.
    Guest,
    /// The host: threads of iolite.
    Host,
}

/// A lane: somebody who does one thing at a time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lane {
    /// Which part of the machine.
    pub group: Group,
    /// Its number there.
    pub tid: u32,
    /// What it is called.
    pub name: String,
}

/// The number that the guest's processor has as a lane, beyond those of threads.
pub const PROCESSOR: u32 = 1_000_000_000;

/// What kind of thing a slice is.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Category {
    /// A program runs, in ring 3.
    Program,
    /// A thread is in the kernel for its program, from entry to return.
    Call,
    /// A thread of the kernel's own runs.
    Kernel,
    /// A thread in a call does not run.
    Wait,
    /// The processor runs a thread.
    Run,
    /// The processor has nothing to run.
    Idle,
    /// The processor handles an interrupt.
    Interrupt,
    /// The vCPU executes guest code, or waits for an interrupt in KVM.
    Guest,
    /// The VMM handles an exit of the vCPU.
    Exit,
    /// A thread of the device does a request.
    Backend,
}

/// Something that was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slice {
    /// Index of the lane.
    pub lane: u16,
    /// What kind of thing.
    pub category: Category,
    /// What it is called.
    pub name: Name,
    /// Beginning.
    pub start: u64,
    /// End.
    pub end: u64,
    /// Where: the address of a page fault, the first argument of a system call, the register or port of
    /// an exit. Only other viewers show it: it is not read back.
    pub place: Option<u64>,
}

/// What a request does.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, Hash, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Op {
    /// A read.
    #[default]
    Read,
    /// A write.
    Write,
    /// A flush.
    Flush,
    /// A range is discarded or zeroed.
    Discard,
    /// Anything else.
    Other,
}

/// The moments of a request's life, in their order.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u8)]
pub enum Moment {
    /// The thread entered the kernel, or went on after its last request; a client is about to show
    /// its request to a server.
    Asked,
    /// The server has taken it.
    Taken,
    /// It lies in the descriptor table.
    Added,
    /// It is about to be made available.
    Notified,
    /// The device's thread has received the notification. Not if it was looking anyway.
    Received,
    /// The device has popped it.
    Popped,
    /// Its chain has been parsed.
    Parsed,
    /// The backend begins.
    Begun,
    /// The backend has ended, and its delay, if there is one.
    Ended,
    /// About to be put into the used ring.
    Used,
    /// The device is about to interrupt. Not if the driver did not want that.
    Signalled,
    /// The guest handles the interrupt.
    Interrupted,
    /// The driver has taken the used entry.
    Harvested,
    /// The server is about to tell its client.
    Answered,
    /// The thread that waits may run again.
    Woken,
    /// It runs.
    Running,
    /// The client has taken the answer.
    Collected,
    /// It is back in its program.
    Returned,
}

/// How many moments there are.
pub const MOMENTS: usize = Moment::Returned as usize + 1;
/// A moment that was not seen.
pub const NEVER: u64 = u64::MAX;

/// What the moments are called in files.
pub const MOMENT_NAMES: [&str; MOMENTS] = [
    "asked",
    "taken",
    "added",
    "notified",
    "received",
    "popped",
    "parsed",
    "begun",
    "ended",
    "used",
    "signalled",
    "interrupted",
    "harvested",
    "answered",
    "woken",
    "running",
    "collected",
    "returned",
];

/// The name of a request while it lives: its disk, its queue, its head.
pub type Key = (u8, u8, u16);

/// One request's life.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// The disk's number.
    pub disk: u8,
    /// The disk's queue.
    pub queue: u8,
    /// Its head index in the queue.
    pub head: u16,
    /// What it does.
    pub op: Op,
    /// Who asked, and how.
    pub path: Name,
    /// Does a thread wait for it?
    pub waited_for: bool,
    /// First sector.
    pub sector: u64,
    /// Bytes.
    pub bytes: u32,
    /// Its status byte, once it is used.
    pub status: Option<u8>,
    /// The lane of the thread that asked.
    pub asker: Option<u16>,
    /// The lane of the thread that drives the disk, if that is a program's.
    pub server: Option<u16>,
    /// The lane of the device's thread that popped it.
    pub device: Option<u16>,
    /// The lane of the thread that carried it out.
    pub worker: Option<u16>,
    /// When each moment was, or [`NEVER`].
    pub at: [u64; MOMENTS],
}

impl Request {
    /// A request of which nothing is known yet.
    pub fn new((disk, queue, head): Key, path: Name) -> Request {
        Request {
            disk,
            queue,
            head,
            op: Op::Other,
            path,
            waited_for: false,
            sector: 0,
            bytes: 0,
            status: None,
            asker: None,
            server: None,
            device: None,
            worker: None,
            at: [NEVER; MOMENTS],
        }
    }

    /// Its name while it lives.
    pub fn key(&self) -> Key {
        (self.disk, self.queue, self.head)
    }

    /// When `moment` was, if it was seen.
    pub fn when(&self, moment: Moment) -> Option<u64> {
        Some(self.at[moment as usize]).filter(|at| *at != NEVER)
    }

    /// Sets a moment that has not been seen before.
    pub fn set(&mut self, moment: Moment, at: u64) {
        let place = &mut self.at[moment as usize];
        if *place == NEVER {
            *place = at;
        }
    }

    /// Its first moment and its last.
    pub fn span(&self) -> Option<(u64, u64)> {
        let seen = || self.at.iter().copied().filter(|at| *at != NEVER);
        Some((seen().min()?, seen().max()?))
    }

    /// Has it been carried out and given back?
    pub fn is_complete(&self) -> bool {
        let used = self.when(Moment::Used).is_some();
        let known_to_guest = self.when(Moment::Added).is_some();
        used && (!known_to_guest || self.when(Moment::Harvested).is_some())
    }
}
