//! Parsing a descriptor chain into a request (virtio 1.2, section 5.2.6). Pure: it reads guest
//! memory (the header, once) and changes nothing.
//!
//! A chain is a device-readable part followed by a device-writable part, and where one descriptor
//! ends and the next begins means nothing (section 2.7.4.1): the header is the first 16 readable
//! bytes, the status byte is the last writable one, the data is what lies between.

use std::ops::Range;
use std::sync::Arc;

use iolite_devices_abi::blk::{
    F_DISCARD, F_WRITE_ZEROES, ID_BYTES, RequestHeader, SECTOR_SIZE, T_DISCARD, T_FLUSH, T_GET_ID,
    T_IN, T_OUT, T_WRITE_ZEROES,
};
use vm_memory::{Bytes, GuestAddress};

use super::chain::Buffer;
use super::ram::Ram;
use super::ranges::{self, RangeLimits, Ranges};
use super::refusal::Refusal;
use crate::block::buffers::GuestBuffers;
use crate::block::request::Kind;

/// The longest chain in bytes (section 2.7.5.2: no more than 2^32).
const MAX_BYTES: u64 = 1 << 32;
const HEADER_BYTES: u64 = RequestHeader::SIZE as u64;

/// What a request is checked against.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Size of the disk in bytes.
    pub capacity: u64,
    /// Writes are refused.
    pub read_only: bool,
    /// Writes are durable when they complete.
    pub write_through: bool,
    /// Flushes are carried out, not only answered.
    pub flushes: bool,
    /// The negotiated features.
    pub features: u64,
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
    /// A flush of a disk whose flushes do nothing.
    Flushed {
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
    /// What to discard or zero.
    pub ranges: Vec<Range<u64>>,
    /// Where the status byte goes.
    pub status: GuestAddress,
}

/// Parses a chain of `buffers`.
#[inline]
pub(super) fn parse(ram: &Ram, buffers: &[Buffer], limits: Limits) -> Parsed {
    let Some(status) = status_byte(ram, buffers) else {
        return Parsed::NoStatus;
    };
    let parts = Parts::split(ram, buffers, limits, status);
    match parts.and_then(|parts| parts.interpret()) {
        Ok(parsed) => parsed,
        Err(reason) => Parsed::Refused { reason, status },
    }
}

/// The status byte: the chain's last byte, if the device may write it.
#[inline]
fn status_byte(ram: &Ram, buffers: &[Buffer]) -> Option<GuestAddress> {
    let last = buffers.iter().rev().find(|buffer| buffer.len > 0)?;
    let addr = GuestAddress(last.addr.0.checked_add(u64::from(last.len) - 1)?);
    (last.writable && ram.has(addr)).then_some(addr)
}

/// A chain's two parts and how long they are in bytes; where they lie and what they may ask for.
struct Parts<'a> {
    readable: &'a [Buffer],
    readable_bytes: u64,
    writable: &'a [Buffer],
    writable_bytes: u64,
    ram: &'a Ram,
    limits: Limits,
    status: GuestAddress,
}

impl<'a> Parts<'a> {
    #[inline]
    fn split(
        ram: &'a Ram,
        buffers: &'a [Buffer],
        limits: Limits,
        status: GuestAddress,
    ) -> Result<Self, Refusal> {
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
            ram,
            limits,
            status,
        };
        match parts.readable_bytes + parts.writable_bytes {
            0..=MAX_BYTES => Ok(parts),
            _ => Err(Refusal::TooLong),
        }
    }

    #[inline]
    fn interpret(&self) -> Result<Parsed, Refusal> {
        let RequestHeader {
            request_type,
            sector,
            ..
        } = self.header()?;
        let durable = self.limits.write_through;
        let negotiated = |feature| self.limits.features & feature != 0;
        match request_type {
            T_IN => self.transfer(Kind::Read, sector),
            T_OUT => self.transfer(Kind::Write { durable }, sector),
            // Sector and data mean nothing here; a driver that sends them still gets its flush.
            T_FLUSH if !self.limits.flushes => Ok(Parsed::Flushed {
                status: self.status,
            }),
            T_FLUSH => Ok(self.without_data(Kind::Flush, Vec::new())),
            T_DISCARD if negotiated(F_DISCARD) => {
                let Ranges { ranges, .. } = self.ranges(ranges::DISCARD)?;
                Ok(self.without_data(Kind::Discard, ranges))
            }
            T_WRITE_ZEROES if negotiated(F_WRITE_ZEROES) => {
                let Ranges { ranges, unmap } = self.ranges(ranges::WRITE_ZEROES)?;
                Ok(self.without_data(Kind::WriteZeroes { unmap, durable }, ranges))
            }
            T_GET_ID => self.identify(),
            other => Err(Refusal::Unsupported(other)),
        }
    }

    #[inline]
    fn header(&self) -> Result<RequestHeader, Refusal> {
        // Nearly always in one piece.
        if let Some(first) = self.readable.first()
            && u64::from(first.len) >= HEADER_BYTES
        {
            let bytes = self.ram.read(first.addr).ok_or(Refusal::Header)?;
            return Ok(RequestHeader::from_le_bytes(bytes));
        }
        let mut bytes = [0; RequestHeader::SIZE];
        let mut read = 0;
        for buffer in self.readable {
            let len = (buffer.len as usize).min(bytes.len() - read);
            self.ram
                .memory()
                .read_slice(&mut bytes[read..read + len], buffer.addr)
                .map_err(|_| Refusal::Header)?;
            read += len;
        }
        if read < bytes.len() {
            return Err(Refusal::Header);
        }
        Ok(RequestHeader::from_le_bytes(bytes))
    }

    /// A read or write.
    #[inline]
    fn transfer(&self, kind: Kind, sector: u64) -> Result<Parsed, Refusal> {
        let data = match kind {
            Kind::Read => self.writable_data()?,
            _ => self.readable_data()?,
        };
        let offset = check_range(sector, data.bytes, self.limits)?;
        if kind != Kind::Read && self.limits.read_only {
            return Err(Refusal::ReadOnly);
        }
        Ok(Parsed::Transfer(Transfer {
            kind,
            offset,
            buffers: self.gather(&data)?,
            ranges: Vec::new(),
            status: self.status,
        }))
    }

    fn without_data(&self, kind: Kind, ranges: Vec<Range<u64>>) -> Parsed {
        Parsed::Transfer(Transfer {
            kind,
            offset: 0,
            buffers: GuestBuffers::new(Arc::clone(self.ram.memory())),
            ranges,
            status: self.status,
        })
    }

    fn ranges(&self, most: RangeLimits) -> Result<Ranges, Refusal> {
        ranges::parse(self.ram.memory(), &self.readable_data()?, most, self.limits)
    }

    fn identify(&self) -> Result<Parsed, Refusal> {
        let data = self.writable_data()?;
        if data.bytes != ID_BYTES as u64 {
            return Err(Refusal::Length);
        }
        Ok(Parsed::Identify {
            buffers: self.gather(&data)?,
            status: self.status,
        })
    }

    /// What lies before the status byte, if nothing lies behind the header.
    #[inline]
    fn writable_data(&self) -> Result<Data<'a>, Refusal> {
        if self.readable_bytes > HEADER_BYTES {
            return Err(Refusal::Direction);
        }
        Ok(Data {
            buffers: self.writable,
            skip: 0,
            bytes: self.writable_bytes - 1,
        })
    }

    /// What lies behind the header, if nothing lies before the status byte.
    #[inline]
    fn readable_data(&self) -> Result<Data<'a>, Refusal> {
        if self.writable_bytes > 1 {
            return Err(Refusal::Direction);
        }
        Ok(Data {
            buffers: self.readable,
            skip: HEADER_BYTES,
            bytes: self.readable_bytes - HEADER_BYTES,
        })
    }

    #[inline]
    fn gather(&self, data: &Data<'_>) -> Result<GuestBuffers, Refusal> {
        let mut buffers = GuestBuffers::new(Arc::clone(self.ram.memory()));
        for Buffer { addr, len, .. } in data.pieces() {
            buffers.push(addr, len).map_err(|_| Refusal::Memory)?;
        }
        Ok(buffers)
    }
}

/// A request's data: the `bytes` bytes of `buffers` that follow the first `skip`.
pub(super) struct Data<'a> {
    buffers: &'a [Buffer],
    skip: u64,
    pub(super) bytes: u64,
}

impl Data<'_> {
    /// The data's pieces, none of them empty. Not checked against guest memory.
    pub(super) fn pieces(&self) -> impl Iterator<Item = Buffer> + use<'_> {
        let (mut skip, mut bytes) = (self.skip, self.bytes);
        self.buffers.iter().filter_map(move |buffer| {
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
}

/// The position in bytes of `bytes` bytes from `sector` on, if they are a whole number of sectors
/// within the disk.
#[inline]
pub(super) fn check_range(sector: u64, bytes: u64, limits: Limits) -> Result<u64, Refusal> {
    if !bytes.is_multiple_of(SECTOR_SIZE) {
        return Err(Refusal::Length);
    }
    let offset = sector.checked_mul(SECTOR_SIZE).ok_or(Refusal::Range)?;
    match offset.checked_add(bytes) {
        Some(end) if end <= limits.capacity => Ok(offset),
        _ => Err(Refusal::Range),
    }
}
