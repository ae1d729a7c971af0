//! How the process ends: one number for each way a machine can end.
//!
//! Odd codes belong to the guest: what it writes to the exit port, as QEMU's `isa-debug-exit`
//! maps it. Even codes are ours. A machine that a signal stopped ends as a shell would say it,
//! 128 + the signal's number.

use crate::crash::Crash;
use crate::error::Error;
use crate::loader::LoaderError;
use crate::output_file::OutputError;
use crate::trace::read::ReadError;

/// Why the process ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExitCode {
    /// The guest reset itself, the demo passed, the check found nothing wrong.
    Clean,
    /// The guest wrote this value to the exit port.
    Guest(u32),
    /// A signal stopped the machine (SIGPIPE: whoever read the guest's console went away).
    Signal(i32),
    /// The command line is wrong. (The number is the one that clap uses.)
    Usage,
    /// The host refused something: memory, a thread, a file to write.
    Host,
    /// `/dev/kvm` is missing, not permitted, or lacks something.
    Kvm,
    /// The kernel or initrd cannot be loaded.
    Kernel,
    /// A disk cannot be attached.
    Disk,
    /// The guest crashed: a triple fault, or an instruction that the platform cannot run.
    Crash,
    /// The guest did not stop within `--timeout`.
    Timeout,
    /// The demo's or the benchmark's guest failed, or a digest of the disk is not the host's.
    Demo,
    /// A thread of iolite's panicked.
    Panic,
}

impl ExitCode {
    /// The process exit code. Only eight bits leave a process, as with QEMU.
    pub const fn code(self) -> u8 {
        match self {
            ExitCode::Clean => 0,
            ExitCode::Guest(value) => (value as u8).wrapping_mul(2).wrapping_add(1),
            ExitCode::Signal(number) => 128u8.wrapping_add(number as u8),
            ExitCode::Usage => 2,
            ExitCode::Host => 4,
            ExitCode::Kvm => 6,
            ExitCode::Kernel => 8,
            ExitCode::Disk => 10,
            ExitCode::Crash => 12,
            ExitCode::Timeout => 14,
            ExitCode::Demo => 16,
            ExitCode::Panic => 18,
        }
    }
}

impl From<&Error> for ExitCode {
    fn from(error: &Error) -> Self {
        match error {
            Error::Config(_) | Error::Memory(_) | Error::TooManyForQemu(_) => ExitCode::Usage,
            Error::Trace(ReadError::Io(..)) => ExitCode::Host,
            Error::Trace(_) => ExitCode::Usage,
            Error::Output(OutputError::Unfit { .. }) => ExitCode::Host,
            Error::Output(_) => ExitCode::Usage,
            Error::Host { .. } | Error::Machine(_) | Error::Socket(_) => ExitCode::Host,
            Error::Kvm(_) | Error::NoProcessor(_) | Error::NoQemu | Error::OnlyKvm(_) => {
                ExitCode::Kvm
            }
            Error::Loader(LoaderError::Cmdline(_)) => ExitCode::Usage,
            Error::Loader(_) => ExitCode::Kernel,
            Error::Image(_)
            | Error::SystemDisk { .. }
            | Error::SharedDisk { .. }
            | Error::Disk { .. } => ExitCode::Disk,
            Error::Crash(Crash::Host(_)) => ExitCode::Host,
            Error::Crash(_) => ExitCode::Crash,
            Error::Timeout(_) => ExitCode::Timeout,
            Error::Demo(_) | Error::Bench(_) => ExitCode::Demo,
        }
    }
}

impl From<ExitCode> for std::process::ExitCode {
    fn from(exit: ExitCode) -> Self {
        exit.code().into()
    }
}

/// The table that `--help` ends with.
pub const HELP: &str = "\
Exit codes:
    0  the guest stopped cleanly (reset through port 0x64), or the demo passed
  odd  the guest wrote V to the exit port 0xf4: V * 2 + 1
    2  wrong usage: an option, a size, a disk key, too many disks, too little memory,
       a file that is no trace, a file that is to be read and written
    4  the host refused something: memory, a file, room for what is printed, a disk's
       last flush
    6  /dev/kvm is missing or not usable
    8  the kernel or initrd cannot be loaded
   10  a disk cannot be attached
   12  the guest crashed
   14  the guest did not stop within --timeout
   16  the demo or bench failed: the guest reported an error, or a digest differs
   18  a mistake in iolite itself: one of its threads panicked
128+N  stopped by signal N (SIGINT 130, SIGTERM 143)";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_guest_has_the_odd_codes() {
        for value in 0..=255 {
            assert_eq!(ExitCode::Guest(value).code() % 2, 1);
        }
        assert_eq!(ExitCode::Guest(0x10).code(), 0x21);
        assert_eq!(ExitCode::Guest(0xffff_ffff).code(), 0xff);
    }

    #[test]
    fn our_codes_are_even_and_in_the_help() {
        let ours = [
            ExitCode::Clean,
            ExitCode::Usage,
            ExitCode::Host,
            ExitCode::Kvm,
            ExitCode::Kernel,
            ExitCode::Disk,
            ExitCode::Crash,
            ExitCode::Timeout,
            ExitCode::Demo,
            ExitCode::Panic,
        ];
        for (i, exit) in ours.into_iter().enumerate() {
            assert_eq!(usize::from(exit.code()), 2 * i);
            assert!(HELP.contains(&format!("\n{:5}  ", exit.code())), "{exit:?}");
        }
    }
}
