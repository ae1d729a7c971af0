//! What goes back to the driver: the status byte, and how many bytes the device wrote.

use iolite_devices_abi::blk::{S_IOERR, S_OK};
use vm_memory::GuestAddress;

use super::ram::Ram;
use crate::block::request::{Kind, Outcome};

/// What the queue remembers of a request in flight.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pending {
    /// Where the status byte goes.
    pub(super) status: GuestAddress,
    /// What was asked for.
    pub(super) kind: Kind,
    /// How many bytes of data.
    pub(super) bytes: u64,
}

impl Pending {
    /// The answer when the request has ended like this.
    pub(super) fn answer(self, outcome: Outcome) -> Answer {
        let (code, data) = match (outcome, self.kind) {
            (Outcome::Done, Kind::Read) => (S_OK, self.bytes),
            (Outcome::Done, _) => (S_OK, 0),
            // How much of a failed read arrived is unknown: none of it is promised.
            (Outcome::Failed, _) => (S_IOERR, 0),
        };
        Answer::new(self.status, code, data)
    }
}

/// A status byte and a used length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Answer {
    /// The status byte and its place; none if the chain has no place for it.
    status: Option<(GuestAddress, u8)>,
    /// Bytes written, status included (section 2.7.8.2).
    len: u32,
}

impl Answer {
    /// A chain that cannot be answered.
    pub(super) const NONE: Answer = Answer {
        status: None,
        len: 0,
    };

    /// `code` goes to `status`; `data` bytes were written besides.
    pub(super) fn new(status: GuestAddress, code: u8, data: u64) -> Self {
        // A chain holds at most 2^32 bytes, 16 of them header: this fits.
        Answer {
            status: Some((status, code)),
            len: u32::try_from(data + 1).unwrap_or(u32::MAX),
        }
    }

    /// Used length.
    pub(super) fn len(&self) -> u32 {
        self.len
    }

    /// The status byte, for log lines; none if there is no place for it.
    pub(super) fn code(&self) -> Option<u8> {
        self.status.map(|(_, code)| code)
    }

    /// Writes the status byte. To be called before the chain goes into the used ring.
    pub(super) fn write_status(&self, ram: &Ram) {
        if let Some((addr, code)) = self.status {
            // The address was found in guest memory when the request was parsed.
            ram.write_byte(addr, code);
        }
    }
}
