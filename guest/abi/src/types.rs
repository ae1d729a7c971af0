//! Structures and flags that cross the border. Each is `repr(C)` with explicit sizes, and plain
//! data: any bit pattern is valid.

/// Size in bytes of a page.
pub const PAGE_BYTES: usize = 4096;
/// Size in bytes of a process's first stack.
pub const STACK_BYTES: usize = 64 * 1024;
/// Lowest address a mapping can have: page zero and what is near it stay empty.
pub const USER_START: u64 = 0x1_0000;
/// First address above a process's half of the address space.
pub const USER_END: u64 = 0x0000_7fff_ffff_f000;
/// The interrupt vector of the system-call gate.
pub const GATE_VECTOR: u8 = 0x80;
/// "No descriptor": an [`crate::Number::Mmap`] of zeroes.
pub const NO_FD: u64 = u64::MAX;
/// Longest path in bytes.
pub const PATH_BYTES: usize = 100;
/// Longest total of a program's arguments in bytes.
pub const ARGS_BYTES: usize = 2048;
/// Most requests of a process that are submitted by [`crate::Number::IoSubmit`] and not collected.
pub const MAX_IO: usize = 512;
/// Most buffers that a process has registered by [`crate::Number::IoRegister`].
pub const MAX_IO_BUFFERS: usize = 8;
/// Most bytes of one of them.
pub const MAX_IO_BUFFER_BYTES: u64 = 8 << 20;
/// Longest request of [`crate::Number::IoSubmit`] in bytes.
pub const MAX_IO_BYTES: u64 = 128 * 1024;
/// A timeout that does not come.
pub const FOREVER: u64 = u64::MAX;
/// How many descriptors a process can have open.
pub const MAX_FDS: usize = 32;
/// Most descriptors that a process is started with, beside the console.
pub const MAX_PASSED: usize = 8;
/// Most bytes of one [`crate::Number::DmaAlloc`].
pub const MAX_DMA_BYTES: u64 = 1 << 20;
/// Most bytes of one [`crate::Number::DmaMap`].
pub const MAX_DMA_MAP_BYTES: u64 = 8 << 20;
/// Most bytes that a driver has mapped at a time.
pub const MAX_DMA_MAPPED_BYTES: u64 = 32 << 20;
/// Most bytes of a channel's memory.
pub const MAX_CHANNEL_BYTES: u64 = 8 << 20;
/// Most channels of a port that wait to be accepted.
pub const MAX_PENDING: usize = 16;
/// Most descriptors of one [`crate::Number::WaitEvents`].
pub const MAX_EVENTS: usize = MAX_FDS;

/// Flags of [`crate::Number::Open`].
pub mod open {
    /// For writing as well as reading.
    pub const WRITE: u64 = 1 << 0;
    /// Past the page cache: buffers, offsets and lengths are multiples of 512 bytes, and the device
    /// reads and writes the process's memory itself. Disks only.
    pub const DIRECT: u64 = 1 << 1;
    /// The device itself, to be driven by a process: see [`crate::Number::DeviceStart`]. Disks only,
    /// and only for processes with [`crate::rights::DEVICES`]; EACCES for others. Beside no other
    /// flag.
    pub const DEVICE: u64 = 1 << 2;
}

/// Rights of a process. The first one has all of them, others what they were started with.
pub mod rights {
    /// Opening devices to drive them. Whoever drives a device can have it read and write all memory:
    /// there is no IOMMU.
    pub const DEVICES: u64 = 1 << 0;
    /// All there are.
    pub const ALL: u64 = DEVICES;
}

/// Protections of [`crate::Number::Mmap`]. Write and execute exclude each other.
pub mod prot {
    /// Pages can be read.
    pub const READ: u64 = 1 << 0;
    /// Pages can be written.
    pub const WRITE: u64 = 1 << 1;
    /// Pages can be executed.
    pub const EXEC: u64 = 1 << 2;
}

/// Flags of [`crate::Number::Mmap`].
pub mod map {
    /// Writes reach the file or disk and every process that maps it.
    pub const SHARED: u64 = 1 << 0;
    /// Writes stay in this mapping.
    pub const PRIVATE: u64 = 1 << 1;
    /// Beside one of the two above: a fault reads its own page and no other.
    pub const NO_READ_AHEAD: u64 = 1 << 2;
}

/// Flags of [`crate::Number::DiskStats`].
pub mod stats {
    /// Starts the counts, and `max_in_flight`, anew after they have been read.
    pub const RESET: u64 = 1 << 0;
}

/// What a new process gets from the one that starts it.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SpawnOptions {
    /// Descriptors of the parent that the child has too, from 3 on.
    pub fds: [u32; MAX_PASSED],
    /// How many of them there are.
    pub fd_count: u32,
    /// Padding.
    pub reserved: u32,
    /// `rights::*`: the child gets those of them that the parent has.
    pub rights: u64,
}

/// What [`crate::Number::DeviceStart`] gives the driver of a device.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DeviceGrant {
    /// Address of its registers, mapped uncached.
    pub registers: u64,
    /// Their length in bytes.
    pub register_bytes: u64,
    /// The disk's number: 0 for `/dev/vda`.
    pub disk: u64,
}

/// What [`crate::Number::WaitEvents`] looks at.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Event {
    /// The descriptor: a device, a channel, or the accepting side of a port.
    pub fd: u32,
    /// What it has: `ready::*`.
    pub ready: u32,
}

/// Values of [`Event::ready`].
pub mod ready {
    /// The device has interrupted, the other side has notified, or there is a channel to accept.
    pub const EVENT: u32 = 1 << 0;
    /// The other side of the channel or port is gone.
    pub const HANGUP: u32 = 1 << 1;
}

/// What a program is handed at its start. It and what it points to lie on the program's stack.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct StartInfo {
    /// Ticks of the time stamp counter (`rdtsc`) in a second.
    pub tsc_hz: u64,
    /// The arguments, each ended by a NUL byte, the program's name first.
    pub args: *const u8,
    /// Length of `args` in bytes.
    pub args_len: usize,
    /// Number of disks: `/dev/vda` is the first.
    pub disks: u64,
}

/// What [`crate::Number::Stat`] says of an open descriptor.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stat {
    /// Size in bytes; 0 for the console and for ports.
    pub size: u64,
    /// `kind::*`.
    pub kind: u32,
    /// 1 if it cannot be written.
    pub read_only: u32,
    /// A disk's identification string, NUL-padded; zeroes for anything else.
    pub id: [u8; 20],
    /// A channel's number, the same on both of its sides; 0 for anything else.
    pub channel: u32,
}

/// Values of [`Stat::kind`].
pub mod kind {
    /// The console.
    pub const CONSOLE: u32 = 0;
    /// A file of the system disk.
    pub const FILE: u32 = 1;
    /// A disk, or the device of one.
    pub const DISK: u32 = 2;
    /// A side of a port.
    pub const PORT: u32 = 3;
    /// A side of a channel.
    pub const CHANNEL: u32 = 4;
}

/// What [`crate::Number::List`] says of a file of the system disk.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct DirEntry {
    /// Size in bytes.
    pub size: u64,
    /// Length of the name in bytes.
    pub name_len: u64,
    /// The name.
    pub name: [u8; PATH_BYTES],
    /// Padding.
    pub reserved: u32,
}

impl Default for DirEntry {
    fn default() -> Self {
        DirEntry {
            size: 0,
            name_len: 0,
            name: [0; PATH_BYTES],
            reserved: 0,
        }
    }
}

/// What [`crate::Number::DiskStats`] counts, since the last [`stats::RESET`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DiskStats {
    /// Read requests completed.
    pub reads: u64,
    /// Bytes they read.
    pub read_bytes: u64,
    /// Write requests completed.
    pub writes: u64,
    /// Bytes they wrote.
    pub written_bytes: u64,
    /// Flush requests completed.
    pub flushes: u64,
    /// Requests that failed.
    pub errors: u64,
    /// Requests in flight now.
    pub in_flight: u64,
    /// The most there were.
    pub max_in_flight: u64,
    /// Available buffer notifications sent.
    pub notifications: u64,
    /// Used buffer notifications received.
    pub interrupts: u64,
    /// Page faults that waited for a read.
    pub major_faults: u64,
    /// Page faults that found their page in the cache.
    pub minor_faults: u64,
    /// Pages read before anyone asked for them.
    pub pages_read_ahead: u64,
    /// Pages written back.
    pub pages_written_back: u64,
    /// Pages given up to make room for others.
    pub pages_evicted: u64,
    /// Ticks of the time stamp counter during which at least one request was in flight.
    pub in_flight_ticks: u64,
    /// Those of them during which a program ran: the work that was done beside the I/O.
    /// `cpu_overlap = work_ticks / in_flight_ticks`.
    pub work_ticks: u64,
}

/// Values of [`IoRequest::operation`].
pub mod io {
    /// Reads `len` bytes at `offset` into `buf`. The three are multiples of 512, and all of it lies
    /// on the disk.
    pub const READ: u32 = 0;
    /// Writes `len` bytes of `buf` at `offset`.
    pub const WRITE: u32 = 1;
    /// Makes durable every write that completed before. `buf`, `len` and `offset` are 0.
    pub const FLUSH: u32 = 2;

    /// How far to the left the number of a registered buffer is in an operation.
    pub const BUFFER_SHIFT: u32 = 16;

    /// A read or write of the registered buffer with this number: `buf` is where in the buffer, in
    /// bytes.
    pub const fn in_buffer(operation: u32, buffer: u16) -> u32 {
        operation | (buffer as u32) << BUFFER_SHIFT
    }
}

/// A request for [`crate::Number::IoSubmit`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct IoRequest {
    /// `io::*`, perhaps [`io::in_buffer`].
    pub operation: u32,
    /// The disk's descriptor.
    pub fd: u32,
    /// Address of the memory; or where it begins in the registered buffer.
    pub buf: u64,
    /// Its length in bytes, at most [`MAX_IO_BYTES`].
    pub len: u64,
    /// Where on the disk, in bytes.
    pub offset: u64,
    /// Comes back in the completion.
    pub user_data: u64,
}

/// How a request of [`crate::Number::IoSubmit`] ended.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct IoCompletion {
    /// What the request said.
    pub user_data: u64,
    /// Bytes read or written, 0 for a flush; or a negated [`crate::Errno`].
    pub result: i64,
}

/// Where the processor's time went since boot, and what the kernel holds now.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CpuStats {
    /// Running no thread at all, in ticks of the time stamp counter.
    pub idle: u64,
    /// From one thread to another: how often.
    pub switches: u64,
    /// Frames of memory that nobody holds.
    pub free_frames: u64,
    /// Frames that hold a page of the page cache: together with the free ones, what a process that
    /// ends has to leave as it found it.
    pub cached_pages: u64,
    /// Those of them that are to be written back.
    pub dirty_pages: u64,
    /// Threads, the kernel's own among them; ended ones count until they are joined.
    pub threads: u64,
    /// Processes; ended ones count until they are waited for.
    pub processes: u64,
}

/// A fault, and the registers of the thread that has it, as a fault handler finds them.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FaultFrame {
    /// [`Fault`] by its number.
    pub fault: u64,
    /// The address that was touched; 0 if the fault is not about one.
    pub address: u64,
    /// Register `r11`; the callee-saved registers have their values.
    pub r11: u64,
    /// Register `r10`.
    pub r10: u64,
    /// Register `r9`.
    pub r9: u64,
    /// Register `r8`.
    pub r8: u64,
    /// Register `rdi`.
    pub rdi: u64,
    /// Register `rsi`.
    pub rsi: u64,
    /// Register `rdx`.
    pub rdx: u64,
    /// Register `rcx`.
    pub rcx: u64,
    /// Register `rax`.
    pub rax: u64,
    /// Where the thread was.
    pub rip: u64,
    /// Its code segment.
    pub cs: u64,
    /// Its flags.
    pub rflags: u64,
    /// Its stack pointer.
    pub rsp: u64,
    /// Its stack segment.
    pub ss: u64,
}

/// How a process ended, as [`crate::Number::Wait`] encodes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// It exited with this status (its low 8 bits).
    Exited(u8),
    /// The kernel ended it after a fault it could not handle.
    Killed(Fault),
}

/// Why the kernel ends a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Fault {
    /// It touched an address that is not mapped, or not in that way.
    BadAddress = 1,
    /// A page could not be read from its disk.
    Io = 2,
    /// No memory was left for a page.
    OutOfMemory = 3,
    /// It executed an instruction that does not exist or is not allowed.
    BadInstruction = 4,
    /// It divided by zero or met another arithmetic exception.
    Arithmetic = 5,
}

impl Fault {
    /// The fault with this number, if there is one.
    pub const fn from_raw(raw: u64) -> Option<Fault> {
        Some(match raw {
            1 => Fault::BadAddress,
            2 => Fault::Io,
            3 => Fault::OutOfMemory,
            4 => Fault::BadInstruction,
            5 => Fault::Arithmetic,
            _ => return None,
        })
    }

    /// What happened, in a few words.
    pub const fn message(self) -> &'static str {
        match self {
            Fault::BadAddress => "bad address",
            Fault::Io => "input/output error on a page",
            Fault::OutOfMemory => "out of memory",
            Fault::BadInstruction => "bad instruction",
            Fault::Arithmetic => "arithmetic exception",
        }
    }
}

impl Ended {
    /// The number that [`crate::Number::Wait`] returns.
    pub const fn to_raw(self) -> u64 {
        match self {
            Ended::Exited(status) => status as u64,
            Ended::Killed(fault) => 0x100 | fault as u64,
        }
    }

    /// The inverse of [`Ended::to_raw`].
    pub const fn from_raw(raw: u64) -> Ended {
        if raw & 0x100 == 0 {
            return Ended::Exited(raw as u8);
        }
        Ended::Killed(match Fault::from_raw(raw & 0xff) {
            Some(fault) => fault,
            None => Fault::BadAddress,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::{Ended, Fault};

    #[test]
    fn how_a_process_ended_survives_its_encoding() {
        for ended in [
            Ended::Exited(0),
            Ended::Exited(255),
            Ended::Killed(Fault::BadAddress),
            Ended::Killed(Fault::Io),
            Ended::Killed(Fault::OutOfMemory),
            Ended::Killed(Fault::BadInstruction),
            Ended::Killed(Fault::Arithmetic),
        ] {
            assert_eq!(Ended::from_raw(ended.to_raw()), ended);
        }
    }
}
