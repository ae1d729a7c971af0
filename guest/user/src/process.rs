//! Processes: starting one, waiting for it, ending this one.

use crate::{Errno, Result, console, syscall};
use iolite_guest_abi::{ARGS_BYTES, Ended, MAX_PASSED, SpawnOptions};

/// What a process passes on to one that it starts: nothing by default.
#[derive(Clone, Debug, Default)]
pub struct Passing(SpawnOptions);

impl Passing {
    /// These rights (`abi::rights`), as far as this process has them.
    pub fn rights(mut self, rights: u64) -> Passing {
        self.0.rights |= rights;
        self
    }

    /// Another descriptor: the first one is the child's number 3.
    ///
    /// # Panics
    ///
    /// If there are more than `MAX_PASSED`.
    pub(crate) fn fd(mut self, fd: u64) -> Passing {
        let count = self.0.fd_count as usize;
        assert!(count < MAX_PASSED, "too many descriptors to pass on");
        self.0.fds[count] = fd as u32;
        self.0.fd_count += 1;
        self
    }
}

/// A process that this one started.
#[derive(Debug)]
pub struct Process {
    id: u64,
}

impl Process {
    /// Starts the program at `path` of the system disk. `args` are its arguments, its name first.
    ///
    /// # Errors
    ///
    /// `ENOENT` if there is no such program, `ENOEXEC` if the file is none, `E2BIG` if the
    /// arguments are too long, `EINVAL` if one of them holds a NUL byte, `ENOMEM`.
    pub fn spawn<'a>(path: &str, args: impl IntoIterator<Item = &'a str>) -> Result<Process> {
        Process::spawn_with(path, args, &Passing::default())
    }

    /// As [`Process::spawn`], with what this process passes on.
    ///
    /// # Errors
    ///
    /// As [`Process::spawn`].
    pub fn spawn_with<'a>(
        path: &str,
        args: impl IntoIterator<Item = &'a str>,
        passing: &Passing,
    ) -> Result<Process> {
        let mut bytes = [0; ARGS_BYTES];
        let mut len = 0;
        for arg in args {
            if arg.as_bytes().contains(&0) {
                return Err(Errno::EINVAL);
            }
            let end = len + arg.len();
            bytes
                .get_mut(len..end)
                .ok_or(Errno::E2BIG)?
                .copy_from_slice(arg.as_bytes());
            len = end + 1;
        }
        let args = bytes.get(..len).ok_or(Errno::E2BIG)?;
        console::flush();
        syscall::spawn(path, args, &passing.0).map(|id| Process { id })
    }

    /// Waits until it has ended, and says how.
    ///
    /// # Errors
    ///
    /// `ECHILD` if the kernel knows of no such child.
    pub fn wait(self) -> Result<Ended> {
        syscall::wait(self.id).map(Ended::from_raw)
    }
}

/// Ends this process and all its threads.
pub fn exit(status: u8) -> ! {
    console::flush_at_exit();
    syscall::exit(status)
}
