//! Ports, and the channels between a server and its clients.
//!
//! A channel's memory is written by another process at any moment: there are no references into it
//! but to atomics, and bytes are copied in and out.
#![allow(unsafe_code)]

use crate::mapping::Region;
use crate::{Passing, Pollable, Result, syscall};
use core::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use iolite_guest_abi::{map, prot};

/// The side of a port where clients are accepted.
#[derive(Debug)]
pub struct Listener(Fd);

/// The side of a port where clients connect.
#[derive(Debug)]
pub struct Connector(Fd);

/// One side of a channel: memory that two processes share, and an event each way. Closed when
/// dropped; the other side notices.
#[derive(Debug)]
pub struct Channel {
    region: Region,
    fd: Fd,
    number: u32,
}

#[derive(Debug)]
struct Fd(u64);

impl Drop for Fd {
    fn drop(&mut self) {
        let _ = syscall::close(self.0);
    }
}

/// Makes a port.
///
/// # Errors
///
/// `EAGAIN` if there are too many, `EMFILE`.
pub fn port() -> Result<(Listener, Connector)> {
    let [accepting, connecting] = syscall::port_create()?;
    let listener = Listener(Fd(accepting.into()));
    Ok((listener, Connector(Fd(connecting.into()))))
}

impl Listener {
    /// The descriptor `fd`, which this process was started with.
    pub fn from_fd(fd: u64) -> Listener {
        Listener(Fd(fd))
    }

    /// Accepts the client that has waited longest.
    ///
    /// # Errors
    ///
    /// `EAGAIN` if there is none, `EMFILE`, `EPIPE` if there never can be one, `ENODEV` if this is no
    /// port.
    pub fn accept(&self) -> Result<Channel> {
        Channel::of(syscall::accept(self.0.0)?)
    }

    /// `passing`, and this after what it has.
    pub fn pass(&self, passing: Passing) -> Passing {
        passing.fd(self.0.0)
    }
}

impl Connector {
    /// Connects, with `bytes` bytes of shared memory. Does not wait to be accepted.
    ///
    /// # Errors
    ///
    /// `EPIPE` if nobody can accept, `EAGAIN` if too many wait for it, `ENOMEM`, `EMFILE`, `EINVAL`
    /// for a length of 0 or too large a one.
    pub fn connect(&self, bytes: usize) -> Result<Channel> {
        Channel::of(syscall::connect(self.0.0, bytes)?)
    }

    /// `passing`, and this after what it has.
    pub fn pass(&self, passing: Passing) -> Passing {
        passing.fd(self.0.0)
    }

    /// The descriptor `fd`, which this process was started with.
    pub fn from_fd(fd: u64) -> Connector {
        Connector(Fd(fd))
    }
}

impl Channel {
    fn of(fd: u64) -> Result<Channel> {
        let fd = Fd(fd);
        let stat = syscall::stat(fd.0)?;
        let rights = prot::READ | prot::WRITE;
        let region = Region::map(fd.0, 0, stat.size as usize, rights, map::SHARED)?;
        Ok(Channel {
            region,
            fd,
            number: stat.channel,
        })
    }

    /// Length of the memory in bytes.
    pub fn len(&self) -> usize {
        self.region.len
    }

    /// The channel's number, the same on both sides.
    pub fn number(&self) -> u32 {
        self.number
    }

    /// Never: there is always a page.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// An event for the other side.
    ///
    /// # Errors
    ///
    /// `EPIPE` if it is gone.
    pub fn notify(&self) -> Result<()> {
        syscall::channel_notify(self.fd.0)
    }

    /// The memory as words.
    pub fn words(&self) -> &[AtomicU64] {
        // SAFETY: mapped, page-aligned, as long as `self`; all access to it is atomic.
        unsafe { core::slice::from_raw_parts(self.region.address.cast(), self.len() / 8) }
    }

    /// Copies `to.len()` bytes out, from byte `at` on.
    ///
    /// # Panics
    ///
    /// If they are not all in the memory.
    pub fn read(&self, at: usize, to: &mut [u8]) {
        assert!(
            at.checked_add(to.len())
                .is_some_and(|end| end <= self.len())
        );
        // SAFETY: the bytes are mapped, and `to` is ours. Who writes to them at the same time is
        // another process or a device: what arrives is some bytes, and nothing here relies on which.
        unsafe {
            let from = self.region.address.add(at);
            core::ptr::copy_nonoverlapping(from, to.as_mut_ptr(), to.len());
        }
    }

    /// Copies `from` in, from byte `at` on.
    ///
    /// # Panics
    ///
    /// If they are not all in the memory.
    pub fn write(&self, at: usize, from: &[u8]) {
        assert!(
            at.checked_add(from.len())
                .is_some_and(|end| end <= self.len())
        );
        for (byte, to) in from.iter().zip(&self.bytes()[at..]) {
            to.store(*byte, Ordering::Relaxed);
        }
    }

    fn bytes(&self) -> &[AtomicU8] {
        // SAFETY: as in `words`.
        unsafe { core::slice::from_raw_parts(self.region.address.cast(), self.len()) }
    }

    /// Its address, for who has a device reach it.
    pub(crate) fn address(&self) -> u64 {
        self.region.address as u64
    }
}

impl Pollable for Listener {
    fn fd(&self) -> u64 {
        self.0.0
    }
}

impl Pollable for Connector {
    /// Nothing ever happens on this side.
    fn fd(&self) -> u64 {
        self.0.0
    }
}

impl Pollable for Channel {
    fn fd(&self) -> u64 {
        self.fd.0
    }
}
