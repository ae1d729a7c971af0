//! System-call numbers.

macro_rules! numbers {
    ($($(#[$doc:meta])* $name:ident = $value:literal;)*) => {
        /// Which system call.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u64)]
        pub enum Number {
            $($(#[$doc])* $name = $value,)*
        }

        impl Number {
            /// The system call with this number, if there is one.
            pub const fn from_raw(value: u64) -> Option<Number> {
                match value {
                    $($value => Some(Number::$name),)*
                    _ => None,
                }
            }

            /// What it is called here.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Number::$name => stringify!($name),)*
                }
            }
        }
    };
}

numbers! {
    /// `exit(status)`: ends the process with all its threads. Does not return. When the first
    /// process exits, the machine stops: with status 0 by the i8042 reset, else by writing the
    /// status to the exit port. 0 becomes 102 if data in the page cache cannot be written back.
    Exit = 0;
    /// `read(fd, buf, len) -> bytes`: at the descriptor's position, which it moves. Fewer bytes
    /// than asked for at the end of a file or disk, 0 past it. From the console: at least one byte,
    /// 0 at the end of input (Ctrl-D).
    Read = 1;
    /// `write(fd, buf, len) -> bytes`: at the descriptor's position, which it moves.
    Write = 2;
    /// `open(path, path_len, flags: open::*) -> fd`: a file of the system disk by its name there
    /// (`bin/demo`), or a disk by `/dev/vda`, `/dev/vdb`, ...
    Open = 3;
    /// `close(fd)`.
    Close = 4;
    /// `pread(fd, buf, len, offset) -> bytes`: as [`Number::Read`], at `offset` bytes.
    Pread = 5;
    /// `pwrite(fd, buf, len, offset) -> bytes`: as [`Number::Write`], at `offset` bytes.
    Pwrite = 6;
    /// `fsync(fd)`: returns when every write that completed before is durable. If the device has no
    /// flush, that is as durable as it makes a write that it completes.
    Fsync = 7;
    /// `stat(fd, *mut Stat)`.
    Stat = 8;
    /// `list(index, *mut DirEntry)`: the `index`-th file of the system disk, ENOENT past the last.
    List = 9;
    /// `mmap(fd, offset, len, prot: prot::*, flags: map::*) -> address`: maps `len` bytes from
    /// `offset` (a multiple of the page size) of a file or disk, or zeroes if `fd` is
    /// [`crate::NO_FD`].
    Mmap = 10;
    /// `munmap(address, len)`: a whole mapping, or a run of its pages.
    Munmap = 11;
    /// `msync(address, len)`: returns when the mapping's dirty pages are durable.
    Msync = 12;
    /// `thread_spawn(entry, stack_top, argument) -> thread`: a thread of this process that starts
    /// at `entry` with `rdi` = `argument`.
    ThreadSpawn = 13;
    /// `thread_exit(status)`: ends the calling thread; the last one to end ends the process with
    /// that status.
    ThreadExit = 14;
    /// `thread_join(thread) -> status`: waits until a thread of this process has ended.
    ThreadJoin = 15;
    /// `yield()`: lets the other threads run first.
    Yield = 16;
    /// `sleep(nanoseconds)`.
    Sleep = 17;
    /// `spawn(path, path_len, args, args_len, *const SpawnOptions) -> process`: starts a program of
    /// the system disk. `args` holds its arguments, each ended by a NUL byte, the program's name
    /// first. The options may be null: no descriptors beside the console, no rights.
    Spawn = 18;
    /// `wait(process) -> status`: waits until a child has ended, and gives its [`crate::Ended`]
    /// encoding.
    Wait = 19;
    /// `disk_stats(fd, *mut DiskStats, flags: stats::*)`: what a disk's driver and the pager have
    /// counted.
    DiskStats = 20;
    /// `cpu_stats(*mut CpuStats)`: where the processor's time went.
    CpuStats = 21;
    /// `thread_id() -> thread`.
    ThreadId = 22;
    /// `process_id() -> process`.
    ProcessId = 23;
    /// `io_submit(*const IoRequest, count) -> submitted`: starts `count` requests on disks that are
    /// open with [`crate::open::DIRECT`] and returns at once. Exactly one [`crate::IoCompletion`]
    /// will come for each of the first `submitted`; if that is fewer than `count`, the next one was
    /// refused, and submitting it again says why. EAGAIN when [`crate::MAX_IO`] requests are
    /// submitted and not collected. The device uses the buffers until the completions come.
    IoSubmit = 24;
    /// `io_wait(*mut IoCompletion, max, min, timeout_ns) -> count`: takes up to `max` completions,
    /// in the order in which they came, and blocks until there are `min`; `min` 0 polls. ETIMEDOUT
    /// if there are none after `timeout_ns` ([`crate::FOREVER`]: no limit); fewer than `min` if
    /// there are some. EINVAL if `min` is more than `max` or than what is submitted.
    IoWait = 25;
    /// `io_cancel(user_data)`: a request that the disk has not been given yet completes with
    /// ECANCELED at once. EBUSY if the disk has it (its completion will come), ENOENT if there is
    /// none.
    IoCancel = 26;
    /// `scan(fd, buf, len, offset) -> bytes`: the kernel reads `len` bytes of a disk as it reads
    /// when it mounts: a block at a time into memory of its own, waiting for each; then hands the
    /// pages over to the process at `buf`, which lies in an anonymous mapping. `buf` and `offset`
    /// are multiples of the page size.
    Scan = 27;
    /// `device_start(fd, *mut DeviceGrant)`: lets the process drive the device that `fd` was opened
    /// for with [`crate::open::DEVICE`]: maps its registers, and lends it its interrupt, for which
    /// [`Number::WaitEvents`] waits. The device has been reset. Until the process ends or closes its
    /// last descriptor of the device, the disk belongs to it alone: the kernel lets go of what it
    /// has cached, and opening the disk gives EBUSY. EBUSY if another process drives it or has it
    /// open or mapped.
    DeviceStart = 28;
    /// `dma_alloc(fd, len, *mut u64) -> address`: `len` bytes of zeroed, physically contiguous
    /// memory for the driver of `fd`, at most [`crate::MAX_DMA_BYTES`], which the process can read
    /// and write and the device reach; writes its physical address.
    DmaAlloc = 29;
    /// `dma_map(fd, address, len, *mut u64) -> pages`: holds the process's pages of `[address,
    /// address + len)` for the device, both multiples of the page size, and writes the physical
    /// address of each. They stay held until [`Number::DmaUnmap`], or until the device has been
    /// reset.
    DmaMap = 30;
    /// `dma_unmap(fd, address)`: ends a [`Number::DmaMap`] of the same address. The driver has seen
    /// the completion of every request that uses it.
    DmaUnmap = 31;
    /// `port_create(*mut [u32; 2])`: where servers meet their clients: two descriptors, one that
    /// [`Number::Accept`]s and one that [`Number::Connect`]s.
    PortCreate = 32;
    /// `connect(port, bytes) -> channel`: a channel to whoever accepts it, with `bytes` of zeroed
    /// memory that both sides can map with [`Number::Mmap`] and [`crate::map::SHARED`]; at most
    /// [`crate::MAX_CHANNEL_BYTES`]. EAGAIN while [`crate::MAX_PENDING`] others wait to be accepted,
    /// EPIPE if nobody can ever accept.
    Connect = 33;
    /// `accept(port) -> channel`: the oldest channel that waits. EAGAIN if there is none, EPIPE if
    /// nobody can ever connect.
    Accept = 34;
    /// `channel_notify(channel)`: an event for the other side. EPIPE if it is gone.
    ChannelNotify = 35;
    /// `wait_events(*mut Event, count, timeout_ns) -> ready`: blocks until at least one of the
    /// descriptors has an event, sets the `ready` of each, and takes the events: an interrupt of a
    /// device ([`Number::DeviceStart`]), a notification of a channel, a channel to accept. That the
    /// other side of a channel is gone stays an event. ETIMEDOUT after `timeout_ns`
    /// ([`crate::FOREVER`]: no limit; 0 polls).
    WaitEvents = 36;
    /// `fault_handler(entry)`: a thread of the process whose fault nobody can resolve, such as a page
    /// that cannot be read, goes on at `entry` instead of ending the process: as if it had been
    /// called there, with `rdi` holding the address of a [`crate::FaultFrame`] on its own stack, below
    /// the 128 bytes that a function may use below its stack pointer. The thread goes back by loading
    /// the registers from there and an `iretq` of the last five, which tries again whatever failed;
    /// or it calls [`Number::FaultUnhandled`]. 0 takes the handler away. Gives the one before.
    FaultHandler = 37;
    /// `fault_unhandled(*const FaultFrame)`: ends the process as its fault does where there is no
    /// handler.
    FaultUnhandled = 38;
    /// `trace_ring() -> address`: lends the process a ring for events that the VMM records, until it
    /// ends: a header and the events, as in docs/tracing.md. ENOSYS if nothing is traced, EBUSY if the
    /// process has one already, EAGAIN if all are lent.
    TraceRing = 39;
    /// `io_register(address, len) -> buffer`: holds the process's pages of `[address, address + len)`,
    /// both multiples of the page size, for requests that name them as a buffer
    /// ([`crate::io::in_buffer`]): what is checked and looked up here, once, is not for each of those.
    /// The memory is anonymous or a channel's, and writable. Whatever becomes of the mapping, the
    /// buffer stays the same memory. At most [`crate::MAX_IO_BUFFERS`] of
    /// [`crate::MAX_IO_BUFFER_BYTES`].
    IoRegister = 40;
    /// `io_unregister(buffer)`: ends an [`Number::IoRegister`]. EBUSY while a request names the buffer
    /// and has not completed.
    IoUnregister = 41;
}
