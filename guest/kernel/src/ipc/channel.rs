//! Channels: memory that two sides map, and an event each way.
//!
//! A side is there as long as anyone has a descriptor of it; a side that is gone stays an event for
//! the other. The memory lives as long as a side, a mapping or a device holds it.

use super::events::{self, Watch};
use crate::mm::frame::{self, Frame};
use crate::mm::heap;
use crate::mm::layout::PAGE;
use crate::sync::CpuCell;
use alloc::vec::Vec;
use iolite_guest_abi::{Errno, MAX_CHANNEL_BYTES, ready};

/// Most channels at a time.
const MAX_CHANNELS: usize = 256;

/// One of the two sides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The one that connected.
    Client,
    /// The one that accepts.
    Server,
}

/// One side of a channel. Whoever has a descriptor of it has counted it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct End {
    channel: u16,
    side: Side,
}

#[derive(Default)]
struct State {
    /// Descriptors of this side, and one while it waits to be accepted.
    holders: u32,
    /// The other side has notified.
    notified: bool,
}

struct Channel {
    memory: Vec<Frame>,
    sides: [State; 2],
}

static CHANNELS: CpuCell<Vec<Option<Channel>>> = CpuCell::new(Vec::new());

/// A channel with `bytes` bytes of zeroed memory: the client's side and the server's, each held
/// once.
pub fn new(bytes: u64) -> Result<(End, End), Errno> {
    if bytes == 0 || bytes > MAX_CHANNEL_BYTES {
        return Err(Errno::EINVAL);
    }
    let number = free_number()?;
    let held = || State {
        holders: 1,
        notified: false,
    };
    CHANNELS.borrow_mut()[usize::from(number)] = Some(Channel {
        memory: zeroed(bytes.div_ceil(PAGE) as usize)?,
        sides: [held(), held()],
    });
    let end = |side| End {
        channel: number,
        side,
    };
    Ok((end(Side::Client), end(Side::Server)))
}

fn free_number() -> Result<u16, Errno> {
    let mut channels = CHANNELS.borrow_mut();
    let free = channels.iter().position(Option::is_none);
    let slot = free.unwrap_or(channels.len());
    if slot == MAX_CHANNELS {
        return Err(Errno::EAGAIN);
    }
    if free.is_none() {
        channels.push(None);
    }
    Ok(slot as u16)
}

fn zeroed(pages: usize) -> Result<Vec<Frame>, Errno> {
    heap::check_room()?;
    let mut memory = Vec::new();
    memory.try_reserve_exact(pages).map_err(|_| Errno::ENOMEM)?;
    while memory.len() < pages {
        let Some(frame) = frame::alloc_zeroed() else {
            memory.into_iter().for_each(frame::release);
            return Err(Errno::ENOMEM);
        };
        memory.push(frame);
    }
    Ok(memory)
}

impl End {
    /// Counts another holder.
    pub fn hold(self) {
        self.with(|own, _| own.holders += 1);
    }

    /// Lets go of it. The last holder is noticed by the other side; when both are gone, so is the
    /// channel.
    pub fn release(self) {
        let (gone, other_gone) = self.with(|own, other| {
            own.holders -= 1;
            (own.holders == 0, other.holders == 0)
        });
        if gone && other_gone {
            let channel = CHANNELS.borrow_mut()[usize::from(self.channel)].take();
            let memory = channel.map(|channel| channel.memory);
            memory.into_iter().flatten().for_each(frame::release);
        } else if gone {
            events::wake(self.other().watch());
        }
    }

    /// An event for the other side.
    pub fn notify(self) -> Result<u64, Errno> {
        self.with(|_, other| {
            if other.holders == 0 {
                return Err(Errno::EPIPE);
            }
            other.notified = true;
            Ok(())
        })?;
        events::wake(self.other().watch());
        Ok(0)
    }

    /// What has happened on this side since it was last asked: `ready::*`.
    pub fn take_events(self) -> u32 {
        self.with(|own, other| {
            let notified = core::mem::take(&mut own.notified);
            let event = if notified { ready::EVENT } else { 0 };
            let hangup = if other.holders == 0 { ready::HANGUP } else { 0 };
            event | hangup
        })
    }

    /// What a thread that waits for this side watches.
    pub fn watch(self) -> Watch {
        Watch::of(2 * usize::from(self.channel) + self.side as usize)
    }

    /// Its memory in bytes: a multiple of the page size.
    pub fn bytes(self) -> u64 {
        CHANNELS.borrow()[usize::from(self.channel)]
            .as_ref()
            .map_or(0, |channel| channel.memory.len() as u64 * PAGE)
    }

    /// The number of the channel, for both sides.
    pub fn number(self) -> u16 {
        self.channel
    }

    /// The frame at a page of its memory.
    pub fn frame(self, page: u64) -> Option<Frame> {
        let channels = CHANNELS.borrow();
        let channel = channels[usize::from(self.channel)].as_ref()?;
        channel.memory.get(page as usize).copied()
    }

    fn other(self) -> End {
        let side = match self.side {
            Side::Client => Side::Server,
            Side::Server => Side::Client,
        };
        End { side, ..self }
    }

    fn with<T>(self, action: impl FnOnce(&mut State, &mut State) -> T) -> T {
        let mut channels = CHANNELS.borrow_mut();
        let Some(channel) = &mut channels[usize::from(self.channel)] else {
            panic!("channel {} is gone", self.channel);
        };
        let [client, server] = &mut channel.sides;
        match self.side {
            Side::Client => action(client, server),
            Side::Server => action(server, client),
        }
    }
}
