//! The signals that stop a machine, and SIGUSR1, which makes it look at the size of its disks: the main
//! thread reads them from a descriptor.
//!
//! They are blocked from [`Signals::take`] on, in every thread started after it. Dropping the guard
//! restores them: then they end the process at once.

#![allow(unsafe_code)]

use std::os::fd::{AsRawFd, RawFd};

use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use crate::error::Error;

/// The signals, while they are ours.
pub struct Signals {
    before: SigSet,
    fd: SignalFd,
}

impl Signals {
    /// Takes SIGINT, SIGTERM, SIGQUIT, SIGTSTP, SIGUSR1, and SIGHUP unless it is ignored (nohup).
    ///
    /// # Errors
    /// If the system refuses.
    pub fn take() -> Result<Self, Error> {
        let mut set = SigSet::empty();
        for signal in [
            Signal::SIGINT,
            Signal::SIGTERM,
            Signal::SIGQUIT,
            Signal::SIGTSTP,
            Signal::SIGUSR1,
        ] {
            set.add(signal);
        }
        if !is_ignored(Signal::SIGHUP) {
            set.add(Signal::SIGHUP);
        }
        let cannot = || Error::host("cannot receive signals");
        let before = SigSet::thread_get_mask().map_err(cannot())?;
        let fd = SignalFd::with_flags(&set, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)
            .map_err(cannot())?;
        set.thread_block().map_err(cannot())?;
        Ok(Signals { before, fd })
    }

    /// The number of the next signal that has come.
    pub fn pending(&mut self) -> Option<i32> {
        let info = self.fd.read_signal().ok()??;
        i32::try_from(info.ssi_signo).ok()
    }
}

impl AsRawFd for Signals {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

impl Drop for Signals {
    fn drop(&mut self) {
        // It cannot fail for a mask that was the thread's.
        let _ = self.before.thread_set_mask();
    }
}

/// While this is there, a signal that stops a machine ends the process at once: for a thread that may
/// have to wait for ever, when there is no machine any more.
pub struct AtOnce {
    before: Option<SigSet>,
}

impl AtOnce {
    /// From now on.
    #[allow(clippy::new_without_default, reason = "it does something")]
    pub fn new() -> Self {
        let stops = [
            Signal::SIGINT,
            Signal::SIGTERM,
            Signal::SIGQUIT,
            Signal::SIGHUP,
        ];
        let before = SigSet::thread_get_mask().ok();
        // It cannot fail for signals that there are.
        let _ = SigSet::from_iter(stops).thread_unblock();
        AtOnce { before }
    }
}

impl Drop for AtOnce {
    fn drop(&mut self) {
        // It cannot fail for a mask that was the thread's.
        let _ = self.before.map(|before| before.thread_set_mask());
    }
}

fn is_ignored(signal: Signal) -> bool {
    // SAFETY: sigaction is plain data for which zero is valid; a null new action changes nothing.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        libc::sigaction(signal as libc::c_int, std::ptr::null(), &mut action) == 0
            && action.sa_sigaction == libc::SIG_IGN
    }
}
