//! What the device must answer to a chain, worked out a second time: from virtio 1.2, sections 2.7
//! and 5.2.6, and the table of hostile inputs, on a picture of memory, with none of the device's
//! code.

use std::ops::Range;

use iolite_devices_abi::blk::*;
use iolite_devices_abi::ring::{DESC_F_INDIRECT, DESC_F_NEXT, DESC_F_WRITE, Descriptor};
use iolite_devices_abi::status::F_INDIRECT_DESC;

use super::driver::{DESC, Driver, RAM};

/// What must come of a chain.
#[derive(Debug, PartialEq)]
pub enum Verdict {
    /// DEVICE_NEEDS_RESET, and nothing is written.
    Broken,
    /// It comes back.
    Used(Answer),
}

#[derive(Debug, Default, PartialEq)]
pub struct Answer {
    /// Used length.
    pub len: u32,
    /// What is written to memory, in this order.
    pub writes: Vec<(u64, Vec<u8>)>,
}

/// What the model knows of the device.
pub struct Model {
    /// The bytes of the disk.
    pub disk: Vec<u8>,
    pub id: [u8; ID_BYTES],
    pub queue_size: u16,
    pub features: u64,
}

#[derive(Clone, Copy)]
struct Segment {
    addr: u64,
    len: u64,
    writable: bool,
}

impl Model {
    /// Judges the chain that begins at `head`, and carries it out on the model's disk.
    pub fn judge(&mut self, driver: &Driver, head: u16) -> Verdict {
        let Some(chain) = self.follow(driver, head) else {
            return Verdict::Broken;
        };
        // The status byte is the last of all, and must be one that the device can write.
        let status = chain
            .iter()
            .rfind(|segment| segment.len > 0)
            .filter(|segment| segment.writable)
            .and_then(|segment| segment.addr.checked_add(segment.len - 1))
            .filter(|&addr| in_memory(addr, 1));
        let Some(status) = status else {
            return Verdict::Used(Answer::default());
        };
        let (code, mut writes) = match self.carry_out(driver, &chain) {
            Ok(writes) => (S_OK, writes),
            Err(code) => (code, Vec::new()),
        };
        let data: usize = writes.iter().map(|(_, bytes)| bytes.len()).sum();
        writes.push((status, vec![code]));
        Verdict::Used(Answer {
            len: data as u32 + 1,
            writes,
        })
    }

    fn follow(&self, driver: &Driver, head: u16) -> Option<Vec<Segment>> {
        let (mut table, mut size, mut indirect) = (DESC, u64::from(self.queue_size), false);
        let (mut index, mut chain) = (u64::from(head), Vec::new());
        loop {
            let addr = table.checked_add(16 * index)?;
            if index >= size || !in_memory(addr, 16) {
                return None;
            }
            let bytes = driver.bytes(addr, 16).try_into().unwrap();
            let Descriptor {
                addr,
                len,
                flags,
                next,
            } = Descriptor::from_le_bytes(bytes);
            if flags & DESC_F_INDIRECT != 0 {
                let allowed = self.features & F_INDIRECT_DESC != 0 && !indirect;
                if !allowed || flags & DESC_F_NEXT != 0 || len == 0 || len % 16 != 0 {
                    return None;
                }
                (table, size, indirect, index) = (addr, u64::from(len) / 16, true, 0);
                continue;
            }
            chain.push(Segment {
                addr,
                len: len.into(),
                writable: flags & DESC_F_WRITE != 0,
            });
            if chain.len() > self.queue_size.into() {
                return None;
            }
            if flags & DESC_F_NEXT == 0 {
                return Some(chain);
            }
            index = next.into();
        }
    }

    /// What is written besides the status byte, or the status of a failure.
    fn carry_out(&mut self, driver: &Driver, chain: &[Segment]) -> Result<Vec<(u64, Vec<u8>)>, u8> {
        let total: u64 = chain.iter().map(|segment| segment.len).sum();
        if total > 1 << 32 || !chain.is_sorted_by_key(|segment| segment.writable) {
            return Err(S_IOERR);
        }
        let (readable, writable): (Vec<_>, Vec<_>) =
            chain.iter().partition(|segment| !segment.writable);
        let header = read(driver, &cut(&readable, 0..16)).ok_or(S_IOERR)?;
        let header = RequestHeader::from_le_bytes(header.try_into().map_err(|_| S_IOERR)?);
        let to_device = cut(&readable, 16..u64::MAX);
        let room = length(&writable) - 1;
        let from_device = cut(&writable, 0..room);
        let offered = |feature| self.features & feature != 0;
        let kind = header.request_type;
        match kind {
            T_FLUSH => return Ok(Vec::new()),
            T_IN | T_GET_ID if length(&to_device) > 0 => return Err(S_IOERR),
            T_IN | T_GET_ID => {}
            T_OUT if room > 0 => return Err(S_IOERR),
            T_OUT => {}
            T_DISCARD if !offered(F_DISCARD) => return Err(S_UNSUPP),
            T_WRITE_ZEROES if !offered(F_WRITE_ZEROES) => return Err(S_UNSUPP),
            T_DISCARD | T_WRITE_ZEROES if room > 0 => return Err(S_IOERR),
            T_DISCARD | T_WRITE_ZEROES => {}
            _ => return Err(S_UNSUPP),
        }
        match kind {
            T_IN => {
                let place = self.place(header.sector, room)?;
                scatter(&from_device, &self.disk[place])
            }
            T_GET_ID if room != ID_BYTES as u64 => Err(S_IOERR),
            T_GET_ID => scatter(&from_device, &self.id),
            T_OUT => {
                let place = self.place(header.sector, length(&to_device))?;
                let data = read(driver, &to_device).ok_or(S_IOERR)?;
                self.disk[place].copy_from_slice(&data);
                Ok(Vec::new())
            }
            _ => self.zero(driver, kind, &to_device),
        }
    }

    /// The memory backend's discard is one of zeros.
    fn zero(
        &mut self,
        driver: &Driver,
        kind: u32,
        payload: &[Segment],
    ) -> Result<Vec<(u64, Vec<u8>)>, u8> {
        let (most, longest, flags) = match kind {
            T_DISCARD => (32, 1 << 21, 0),
            _ => (8, 1 << 17, FLAG_UNMAP),
        };
        let len = length(payload);
        if len == 0 || !len.is_multiple_of(16) || len > 16 * most {
            return Err(S_IOERR);
        }
        let bytes = read(driver, payload).ok_or(S_IOERR)?;
        let mut places = Vec::new();
        for range in bytes.chunks(16) {
            let range = DiscardWriteZeroes::from_le_bytes(range.try_into().unwrap());
            if range.flags & !flags != 0 {
                return Err(S_UNSUPP);
            }
            if range.num_sectors > longest {
                return Err(S_IOERR);
            }
            places.push(self.place(range.sector, 512 * u64::from(range.num_sectors))?);
        }
        for place in places {
            self.disk[place].fill(0);
        }
        Ok(Vec::new())
    }

    fn place(&self, sector: u64, bytes: u64) -> Result<Range<usize>, u8> {
        let start = u128::from(sector) * 512;
        let end = start + u128::from(bytes);
        match bytes.is_multiple_of(512) && end <= self.disk.len() as u128 {
            true => Ok(start as usize..end as usize),
            false => Err(S_IOERR),
        }
    }
}

/// Whether all of it lies in memory, in adjacent regions.
fn in_memory(addr: u64, len: u64) -> bool {
    // The first two regions touch.
    let first = RAM[0].0..RAM[1].0 + RAM[1].1 as u64;
    let second = RAM[2].0..RAM[2].0 + RAM[2].1 as u64;
    let inside = |region: Range<u64>| region.start <= addr && addr + len <= region.end;
    addr.checked_add(len).is_some() && (inside(first) || inside(second))
}

fn length(segments: &[Segment]) -> u64 {
    segments.iter().map(|segment| segment.len).sum()
}

/// The bytes of `segments` from `range.start` to `range.end`.
fn cut(segments: &[Segment], range: Range<u64>) -> Vec<Segment> {
    let (mut at, mut part) = (0, Vec::new());
    for &Segment {
        addr,
        len,
        writable,
    } in segments
    {
        let start = range.start.clamp(at, at + len) - at;
        let end = range.end.clamp(at, at + len) - at;
        if start < end {
            part.push(Segment {
                addr: addr.wrapping_add(start),
                len: end - start,
                writable,
            });
        }
        at += len;
    }
    part
}

fn read(driver: &Driver, segments: &[Segment]) -> Option<Vec<u8>> {
    let all = segments.iter().all(|s| in_memory(s.addr, s.len));
    let bytes = segments
        .iter()
        .filter(|_| all)
        .flat_map(|s| driver.bytes(s.addr, s.len as usize));
    all.then(|| bytes.collect())
}

fn scatter(segments: &[Segment], mut data: &[u8]) -> Result<Vec<(u64, Vec<u8>)>, u8> {
    let mut writes = Vec::new();
    for &Segment { addr, len, .. } in segments {
        if !in_memory(addr, len) {
            return Err(S_IOERR);
        }
        let (piece, rest) = data.split_at(len as usize);
        writes.push((addr, piece.to_vec()));
        data = rest;
    }
    Ok(writes)
}
