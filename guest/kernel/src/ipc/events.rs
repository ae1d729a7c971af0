//! Waiting for many things at once.

use crate::arch::user_access;
use crate::block::lent;
use crate::fs::file::File;
use crate::task::process;
use crate::task::scheduler::{self, Wait};
use arrayvec::ArrayVec;
use iolite_guest_abi::{Errno, Event, MAX_EVENTS};

/// What a thread waits for, as a set of bits. Two things may share a bit: who is woken looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Watch(u64);

impl Watch {
    /// Nothing.
    const NONE: Watch = Watch(0);

    /// The thing with this number.
    pub const fn of(number: usize) -> Watch {
        Watch(1 << (number % 64))
    }

    /// Has it anything in common with `other`?
    pub const fn meets(self, other: Watch) -> bool {
        self.0 & other.0 != 0
    }

    fn add(&mut self, other: Watch) {
        self.0 |= other.0;
    }
}

/// Wakes the threads that wait for what `watch` stands for.
pub fn wake(watch: Watch) {
    scheduler::wake_watchers(watch);
}

/// Waits for an event of one of the `count` descriptors in the array at `address`, and writes what
/// each has got. Gives the number of those that have something.
pub fn wait(address: u64, count: u64, timeout_ns: u64) -> Result<u64, Errno> {
    let mut events = read(address, count)?;
    let deadline = scheduler::deadline(timeout_ns);
    loop {
        let (ready, watch) = look(&mut events)?;
        if ready > 0 {
            user_access::write_values(address, &events)?;
            return Ok(ready);
        }
        if scheduler::current_is_killed() {
            return Err(Errno::EINTR);
        }
        if timeout_ns == 0 || scheduler::is_past(deadline) {
            return Err(Errno::ETIMEDOUT);
        }
        scheduler::block_until(Wait::Events(watch), deadline);
    }
}

fn read(address: u64, count: u64) -> Result<ArrayVec<Event, MAX_EVENTS>, Errno> {
    if count == 0 || count > MAX_EVENTS as u64 {
        return Err(Errno::EINVAL);
    }
    (0..count)
        .map(|i| address.wrapping_add(i * size_of::<Event>() as u64))
        .map(user_access::read_value::<Event>)
        .collect()
}

/// Takes what has happened, and says how many have something, and what to watch if none has.
fn look(events: &mut [Event]) -> Result<(u64, Watch), Errno> {
    let process = process::current();
    let mut watch = Watch::NONE;
    // Nothing is taken before every descriptor has proved good.
    for event in &*events {
        watch.add(match process.files.get(u64::from(event.fd))? {
            File::Device(disk) => lent::watch(disk),
            File::Port(end) => end.watch(),
            File::Channel(end) => end.watch(),
            File::Console | File::Object(_) => return Err(Errno::ENODEV),
        });
    }
    let mut ready = 0;
    for event in events {
        event.ready = match process.files.get(u64::from(event.fd))? {
            File::Device(disk) => lent::take_interrupt(disk),
            File::Port(end) => end.events(),
            File::Channel(end) => end.take_events(),
            File::Console | File::Object(_) => 0,
        };
        ready += u64::from(event.ready != 0);
    }
    Ok((ready, watch))
}
