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
        }
    };
}

numbers! {
    /// `exit(status)`: ends the process with all its threads. Does not return. When the first
    /// process exits, the machine stops: with status 0 by the i8042 reset, else by writing the
    /// status to the exit port.
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
    /// `fsync(fd)`: returns when every write that completed before is durable.
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
    /// `spawn(path, path_len, args, args_len) -> process`: starts a program of the system disk.
    /// `args` holds its arguments, each ended by a NUL byte, the program's name first.
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
}
