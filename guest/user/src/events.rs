//! Waiting for many things at once: devices, channels, and clients that want to connect.

use crate::{Errno, Result, syscall};
use alloc::vec::Vec;
use iolite_guest_abi::{Event, ready};

/// What can be waited for.
pub trait Pollable {
    /// Its descriptor.
    fn fd(&self) -> u64;
}

/// What something that was waited for has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ready(u32);

impl Ready {
    /// An interrupt, a notification, a client to accept.
    pub fn has_event(self) -> bool {
        self.0 & ready::EVENT != 0
    }

    /// The other side is gone.
    pub fn is_hung_up(self) -> bool {
        self.0 & ready::HANGUP != 0
    }
}

/// Waits until one of `things` has something, and says what each has got, in order.
///
/// # Errors
///
/// `ETIMEDOUT` after `timeout_ns` nanoseconds (`FOREVER`: never), `EINVAL` for no or too many
/// things.
pub fn wait_events<'a>(
    things: impl IntoIterator<Item = &'a dyn Pollable>,
    timeout_ns: u64,
) -> Result<Vec<Ready>> {
    let mut events: Vec<Event> = things
        .into_iter()
        .map(|thing| Event {
            fd: thing.fd() as u32,
            ready: 0,
        })
        .collect();
    if events.is_empty() {
        return Err(Errno::EINVAL);
    }
    syscall::wait_events(&mut events, timeout_ns)?;
    Ok(events.iter().map(|event| Ready(event.ready)).collect())
}
