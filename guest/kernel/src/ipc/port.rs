//! Ports: where clients find a server without knowing its process. A port outlives the server that
//! accepts: whoever started it may keep the accepting side and hand it to the next one, and clients
//! that connect meanwhile wait.

use super::channel;
use super::events::{self, Watch};
use crate::mm::heap;
use crate::sync::CpuCell;
use alloc::collections::VecDeque;
use alloc::vec::Vec;
use iolite_guest_abi::{Errno, MAX_PENDING, ready};

/// Most ports at a time.
const MAX_PORTS: usize = 64;
/// Ports are watched from here on, channels below.
const FIRST_WATCH: usize = 512;

/// One side of a port. Whoever has a descriptor of it has counted it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct End {
    port: u16,
    /// It accepts; the other side connects.
    accepts: bool,
}

struct Port {
    accepting: u32,
    connecting: u32,
    /// The servers' sides of channels that wait to be accepted.
    pending: VecDeque<channel::End>,
}

static PORTS: CpuCell<Vec<Option<Port>>> = CpuCell::new(Vec::new());

/// A port: the accepting side and the connecting one, each held once.
pub fn new() -> Result<(End, End), Errno> {
    heap::check_room()?;
    let mut ports = PORTS.borrow_mut();
    let free = ports.iter().position(Option::is_none);
    let slot = free.unwrap_or(ports.len());
    if slot == MAX_PORTS {
        return Err(Errno::EAGAIN);
    }
    if free.is_none() {
        ports.push(None);
    }
    ports[slot] = Some(Port {
        accepting: 1,
        connecting: 1,
        pending: VecDeque::new(),
    });
    let end = |accepts| End {
        port: slot as u16,
        accepts,
    };
    Ok((end(true), end(false)))
}

impl End {
    /// A channel of `bytes` bytes to whoever accepts it: the client's side, held once.
    pub fn connect(self, bytes: u64) -> Result<channel::End, Errno> {
        if self.accepts {
            return Err(Errno::ENODEV);
        }
        self.with(|port| match port {
            Port { accepting: 0, .. } => Err(Errno::EPIPE),
            Port { pending, .. } if pending.len() == MAX_PENDING => Err(Errno::EAGAIN),
            _ => Ok(()),
        })?;
        let (client, server) = channel::new(bytes)?;
        self.with(|port| port.pending.push_back(server));
        events::wake(self.watch());
        Ok(client)
    }

    /// The server's side of the channel that has waited longest, held once.
    pub fn accept(self) -> Result<channel::End, Errno> {
        if !self.accepts {
            return Err(Errno::ENODEV);
        }
        self.with(|port| match port.pending.pop_front() {
            Some(channel) => Ok(channel),
            None if port.connecting == 0 => Err(Errno::EPIPE),
            None => Err(Errno::EAGAIN),
        })
    }

    /// What there is for who accepts: `ready::*`. Nothing ever happens on the connecting side.
    pub fn events(self) -> u32 {
        if !self.accepts {
            return 0;
        }
        self.with(|port| {
            if !port.pending.is_empty() {
                ready::EVENT
            } else if port.connecting == 0 {
                ready::HANGUP
            } else {
                0
            }
        })
    }

    /// What a thread that waits to accept watches.
    pub fn watch(self) -> Watch {
        Watch::of(FIRST_WATCH + usize::from(self.port))
    }

    /// Counts another holder.
    pub fn hold(self) {
        self.with(|port| *port.holders(self.accepts) += 1);
    }

    /// Lets go of it. What waits to be accepted when nobody can accept any more is hung up on.
    pub fn release(self) {
        let (gone, unused) = self.with(|port| {
            let holders = port.holders(self.accepts);
            *holders -= 1;
            let gone = *holders == 0;
            (gone, port.accepting == 0 && port.connecting == 0)
        });
        if !gone {
            return;
        }
        let refused = match self.accepts {
            true => self.with(|port| core::mem::take(&mut port.pending)),
            false => VecDeque::new(),
        };
        refused.into_iter().for_each(channel::End::release);
        if unused {
            PORTS.borrow_mut()[usize::from(self.port)] = None;
        } else {
            events::wake(self.watch());
        }
    }

    fn with<T>(self, action: impl FnOnce(&mut Port) -> T) -> T {
        match &mut PORTS.borrow_mut()[usize::from(self.port)] {
            Some(port) => action(port),
            None => panic!("port {} is gone", self.port),
        }
    }
}

impl Port {
    fn holders(&mut self, accepts: bool) -> &mut u32 {
        match accepts {
            true => &mut self.accepting,
            false => &mut self.connecting,
        }
    }
}
