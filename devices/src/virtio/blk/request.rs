//! Parsing a descriptor chain into a request (virtio 1.2, section 5.2.6). Pure: it reads guest
//! memory (the header, once) and changes nothing.
//!
//! A chain is a device-readable part followed by a device-writable part, and where one descriptor
//! ends and the next begins means nothing (section 2.7.4.1): the header is the first 16 readable
//! bytes, the status byte is the last writable one, the data is what lies between.

use std::sync::Arc;

use iolite_devices_abi::blk::{
    ID_BYTES, RequestHeader, S_IOERR, S_UNSUPP, SECTOR_SIZE, T_FLUSH, T_GET_ID, T_IN, T_OUT,
};
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryMmap};

use super::chain::Buffer;
use crate::block::buffers::GuestBuffers;
use crate::block::request::Kind;

/// The longest chain in bytes (section 2.7.5.2: no more than 2^32).
const MAX_BYTES: u64 = 1 << 32;

/// What a request is checked against.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Size of the disk in bytes.
    pub capacity: u64,
    /// Writes are refused.
    pub read_only: bool,
    /// The driver did not accept VIRTIO_BLK_F_FLUSH: writes are durable when they complete
    /// (section 5.2.6.2).
    pub write_through: bool,
}

/// What a chain asks for.
#[derive(Debug)]
pub enum Parsed {
    /// Work for the backend.
    Transfer(Transfer),
    /// GET_ID: the identification string goes into the buffers.
    Identify {
        /// [`ID_BYTES`] bytes of memory.
        buffers: GuestBuffers,
        /// Where the status byte goes.
        status: GuestAddress,
    },
    /// Nothing to do but to say no.
    Refused {
        /// Why.
        reason: Refusal,
        /// Where the status byte goes.
        status: GuestAddress,
    },
    /// There is no place for a status byte: the chain goes back with a used length of 0.
    NoStatus,
}

/// A request that the backend is to carry out.
#[derive(Debug)]
pub struct Transfer {
    /// What to do.
    pub kind: Kind,
    /// First byte on the disk.
    pub offset: u64,
    /// The data's memory.
    pub buffers: GuestBuffers,
    /// Where the status byte goes.
    pub status: GuestAddress,
}

/// Why a request is refused.
#[derive(Clone, Copy, Debug, thiserror::Error, PartialEq, Eq)]
pub enum Refusal {
    /// More than 2^32 bytes.
    #[error("its buffers are longer than 2^32 bytes")]
    TooLong,
    /// A readable buffer behind a writable one.
    #[error("a device-readable buffer follows a device-writable one")]
    Order,
    /// Fewer than 16 readable bytes.
    #[error("its header is incomplete or unreadable")]
    Header,
    /// Data outside guest memory.
    #[error("its data is outside guest memory")]
    Memory,
    /// Data of the wrong direction.
    #[error("its data has the wrong direction")]
    Direction,
    /// Not a whole number of sectors; or another length than 20 for GET_ID.
    #[error("its length is not possible")]
    Length,
    /// Past the end of the disk.
    #[error("it reaches past the end of the disk")]
    Range,
    /// A write to a read-only disk.
    #[error("it writes to a read-only disk")]
    ReadOnly,
    /// A request type that does not exist or was not offered.
    #[error("its type {0} is not supported")]
    Unsupported(u32),
}

impl Refusal {
    /// VIRTIO_BLK_S_*.
    pub fn status(self) -> u8 {
        match self {
            Refusal::Unsupported(_) => S_UNSUPP,
            _ => S_IOERR,
        }
    }
}

/// Parses a chain of `buffers`.
pub fn parse(memory: &Arc<GuestMemoryMmap>, buffers: &[Buffer], limits: Limits) -> Parsed {
    let Some(status) = status_byte(memory, buffers) else {
        return Parsed::NoStatus;
    };
    match Parts::split(buffers).and_then(|parts| parts.interpret(memory, limits, status)) {
        Ok(parsed) => parsed,
        Err(reason) => Parsed::Refused { reason, status },
    }
}

/// The status byte: the chain's last byte, if the device may write it.
fn status_byte(memory: &GuestMemoryMmap, buffers: &[Buffer]) -> Option<GuestAddress> {
    let last = buffers.iter().rev().find(|buffer| buffer.len > 0)?;
    let addr = GuestAddress(last.addr.0.checked_add(u64::from(last.len) - 1)?);
    (last.writable && memory.address_in_range(addr)).then_some(addr)
}

/// A chain's two parts, and how long they are in bytes.
struct Parts<'a> {
    readable: &'a [Buffer],
    readable_bytes: u64,
    writable: &'a [Buffer],
    writable_bytes: u64,
}

impl<'a> Parts<'a> {
    fn split(buffers: &'a [Buffer]) -> Result<Self, Refusal> {
        let border = buffers
            .iter()
            .position(|buffer| buffer.writable)
            .unwrap_or(buffers.len());
        let (readable, writable) = buffers.split_at(border);
        if writable.iter().any(|buffer| !buffer.writable) {
            return Err(Refusal::Order);
        }
        let bytes = |part: &[Buffer]| part.iter().map(|buffer| u64::from(buffer.len)).sum();
        let parts = Parts {
            readable,
            readable_bytes: bytes(readable),
            writable,
            writable_bytes: bytes(writable),
        };
        match parts.readable_bytes + parts.writable_bytes {
            0..=MAX_BYTES => Ok(parts),
            _ => Err(Refusal::TooLong),
        }
    }

    fn interpret(
        &self,
        memory: &Arc<GuestMemoryMmap>,
        limits: Limits,
        status: GuestAddress,
    ) -> Result<Parsed, Refusal> {
        let header = self.header(memory)?;
        let kind = match header.request_type {
            T_IN => Kind::Read,
            T_OUT => Kind::Write {
                durable: limits.write_through,
            },
            T_FLUSH => {
                // Sector and data mean nothing here; a driver that sends them still gets its flush.
                let (kind, buffers) = (Kind::Flush, GuestBuffers::new(Arc::clone(memory)));
                return Ok(Parsed::Transfer(Transfer {
                    kind,
                    offset: 0,
                    buffers,
                    status,
                }));
            }
            T_GET_ID => return self.identify(memory, status),
            other => return Err(Refusal::Unsupported(other)),
        };
        let (data, bytes) = self.data(kind)?;
        let offset = check_range(header.sector, bytes, limits)?;
        if kind != Kind::Read && limits.read_only {
            return Err(Refusal::ReadOnly);
        }
        let buffers = gather(memory, data)?;
        Ok(Parsed::Transfer(Transfer {
            kind,
            offset,
            buffers,
            status,
        }))
    }

    fn header(&self, memory: &Arc<GuestMemoryMmap>) -> Result<RequestHeader, Refusal> {
        let mut bytes = [0; RequestHeader::SIZE];
        let mut read = 0;
        for buffer in self.readable {
            let len = (buffer.len as usize).min(bytes.len() - read);
            memory
                .read_slice(&mut bytes[read..read + len], buffer.addr)
                .map_err(|_| Refusal::Header)?;
            read += len;
        }
        if read < bytes.len() {
            return Err(Refusal::Header);
        }
        Ok(RequestHeader::from_le_bytes(bytes))
    }

    /// The data between header and status byte, and its length.
    fn data(&self, kind: Kind) -> Result<(impl Iterator<Item = Buffer> + use<'_>, u64), Refusal> {
        let behind_header = self.readable_bytes - RequestHeader::SIZE as u64;
        let before_status = self.writable_bytes - 1;
        let (part, skip, bytes, others) = match kind {
            Kind::Read => (self.writable, 0, before_status, behind_header),
            _ => (
                self.readable,
                RequestHeader::SIZE as u64,
                behind_header,
                before_status,
            ),
        };
        if others > 0 {
            return Err(Refusal::Direction);
        }
        Ok((window(part, skip, bytes), bytes))
    }

    fn identify(
        &self,
        memory: &Arc<GuestMemoryMmap>,
        status: GuestAddress,
    ) -> Result<Parsed, Refusal> {
        let (data, bytes) = self.data(Kind::Read)?;
        if bytes != ID_BYTES as u64 {
            return Err(Refusal::Length);
        }
        Ok(Parsed::Identify {
            buffers: gather(memory, data)?,
            status,
        })
    }
}

/// The `bytes` bytes of `buffers` that follow the first `skip`.
fn window(
    buffers: &[Buffer],
    mut skip: u64,
    mut bytes: u64,
) -> impl Iterator<Item = Buffer> + use<'_> {
    buffers.iter().filter_map(move |buffer| {
        let skipped = skip.min(buffer.len.into());
        skip -= skipped;
        let len = (u64::from(buffer.len) - skipped).min(bytes);
        bytes -= len;
        // An address that wraps is outside guest memory either way.
        let addr = GuestAddress(buffer.addr.0.wrapping_add(skipped));
        (len > 0).then_some(Buffer {
            addr,
            len: len as u32,
            writable: buffer.writable,
        })
    })
}

/// The position in bytes of `bytes` bytes from `sector` on, if they are a whole number of sectors
/// within the disk.
fn check_range(sector: u64, bytes: u64, limits: Limits) -> Result<u64, Refusal> {
    if !bytes.is_multiple_of(SECTOR_SIZE) {
        return Err(Refusal::Length);
    }
    let offset = sector.checked_mul(SECTOR_SIZE).ok_or(Refusal::Range)?;
    match offset.checked_add(bytes) {
        Some(end) if end <= limits.capacity => Ok(offset),
        _ => Err(Refusal::Range),
    }
}

fn gather(
    memory: &Arc<GuestMemoryMmap>,
    data: impl Iterator<Item = Buffer>,
) -> Result<GuestBuffers, Refusal> {
    let mut buffers = GuestBuffers::new(Arc::clone(memory));
    for Buffer { addr, len, .. } in data {
        buffers.push(addr, len).map_err(|_| Refusal::Memory)?;
    }
    Ok(buffers)
}
