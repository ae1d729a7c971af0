//! An eventfd that a front-end shares. To write to it never blocks, whatever the front-end does.
#![allow(unsafe_code)]

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::{AsRawFd, RawFd};

/// A front-end's eventfd.
pub(super) struct SharedEventFd(File);

impl SharedEventFd {
    /// Takes a descriptor that is said to be an eventfd. None if it is something else.
    pub(super) fn new(file: File) -> Option<Self> {
        let fd = file.as_raw_fd();
        // Where there is no /proc, what can be written to without blocking has to do.
        let name = fs::read_link(format!("/proc/self/fd/{fd}"));
        if name.is_ok_and(|name| !name.to_string_lossy().contains("[eventfd]")) {
            return None;
        }
        // SAFETY: the calls take an open descriptor and flags, and no memory.
        let changed = unsafe {
            let flags = libc::fcntl(fd, libc::F_GETFL);
            flags >= 0 && libc::fcntl(fd, libc::F_SETFL, flags | libc::O_NONBLOCK) == 0
        };
        changed.then_some(SharedEventFd(file))
    }

    /// Adds 1.
    pub(super) fn signal(&self) -> io::Result<()> {
        match (&self.0).write_all(&1u64.to_ne_bytes()) {
            // Full: nobody has looked since it was signalled 2^64 times.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
            result => result,
        }
    }
}

impl AsRawFd for SharedEventFd {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::{FromRawFd, IntoRawFd, OwnedFd};
    use vmm_sys_util::eventfd::EventFd;

    #[test]
    fn other_descriptors_are_refused_and_a_full_one_does_not_block() {
        assert!(SharedEventFd::new(tempfile::tempfile().unwrap()).is_none());
        let (_reader, writer) = io::pipe().unwrap();
        assert!(SharedEventFd::new(File::from(OwnedFd::from(writer))).is_none());
        let eventfd = EventFd::new(0).unwrap();
        let clone = eventfd.try_clone().unwrap();
        // SAFETY: the descriptor is given away.
        let file = unsafe { File::from_raw_fd(clone.into_raw_fd()) };
        let shared = SharedEventFd::new(file).unwrap();
        eventfd.write(u64::MAX - 1).unwrap();
        shared.signal().unwrap();
        assert_eq!(eventfd.read().unwrap(), u64::MAX - 1);
        shared.signal().unwrap();
        assert_eq!(eventfd.read().unwrap(), 1);
    }
}
