//! What a front-end can ask for: from the bytes of a message to a [`Request`], and nothing else.

use std::fs::File;

use super::channel::Incoming;

/// Numbers of requests (vhost-user, "Front-end message types").
mod number {
    pub const GET_FEATURES: u32 = 1;
    pub const SET_FEATURES: u32 = 2;
    pub const SET_OWNER: u32 = 3;
    pub const RESET_OWNER: u32 = 4;
    pub const SET_MEM_TABLE: u32 = 5;
    pub const SET_VRING_NUM: u32 = 8;
    pub const SET_VRING_ADDR: u32 = 9;
    pub const SET_VRING_BASE: u32 = 10;
    pub const GET_VRING_BASE: u32 = 11;
    pub const SET_VRING_KICK: u32 = 12;
    pub const SET_VRING_CALL: u32 = 13;
    pub const SET_VRING_ERR: u32 = 14;
    pub const GET_PROTOCOL_FEATURES: u32 = 15;
    pub const SET_PROTOCOL_FEATURES: u32 = 16;
    pub const GET_QUEUE_NUM: u32 = 17;
    pub const SET_VRING_ENABLE: u32 = 18;
    pub const SET_BACKEND_REQ_FD: u32 = 21;
    pub const GET_CONFIG: u32 = 24;
    pub const SET_CONFIG: u32 = 25;
    pub const GET_INFLIGHT_FD: u32 = 31;
    pub const SET_INFLIGHT_FD: u32 = 32;
    pub const GET_MAX_MEM_SLOTS: u32 = 36;
    pub const ADD_MEM_REG: u32 = 37;
    pub const REM_MEM_REG: u32 = 38;
}

/// BACKEND_CONFIG_CHANGE_MSG, of a back-end to its front-end.
pub(super) const CONFIG_CHANGE: u32 = 2;

/// The largest configuration space of any device, in bytes.
const MAX_CONFIG: usize = 256;
/// "Invalid FD flag" of a vring's eventfd.
const NO_FD: u64 = 1 << 8;

/// A message that is not what its number says.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(super) enum MessageError {
    #[error("request {0} is none that this back-end knows")]
    Unknown(u32),
    #[error("request {0} has another size")]
    Size(u32),
    #[error("request {0} has other descriptors")]
    Files(u32),
}

/// A part of the guest's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct RegionSpec {
    /// Where the guest has it.
    pub(super) guest: u64,
    /// Bytes.
    pub(super) bytes: u64,
    /// Where the front-end has it: ring addresses are of this kind.
    pub(super) user: u64,
    /// Where it begins in its file.
    pub(super) offset: u64,
}

/// The memory for what is in flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct InFlightSpec {
    pub(super) bytes: u64,
    pub(super) offset: u64,
    pub(super) queues: u16,
    pub(super) queue_size: u16,
}

/// Addresses of a ring's parts in the front-end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct RingAddresses {
    pub(super) desc_table: u64,
    pub(super) used_ring: u64,
    pub(super) avail_ring: u64,
}

/// What a front-end asks for.
#[derive(Debug)]
pub(super) enum Request {
    GetFeatures,
    SetFeatures(u64),
    SetOwner,
    ResetOwner,
    SetMemTable(Vec<(RegionSpec, File)>),
    SetVringNum {
        index: u32,
        size: u32,
    },
    SetVringAddr {
        index: u32,
        flags: u32,
        addresses: RingAddresses,
    },
    SetVringBase {
        index: u32,
        base: u32,
    },
    GetVringBase {
        index: u32,
    },
    SetVringKick {
        index: u8,
        eventfd: Option<File>,
    },
    SetVringCall {
        index: u8,
        eventfd: Option<File>,
    },
    SetVringErr {
        index: u8,
        eventfd: Option<File>,
    },
    GetProtocolFeatures,
    SetProtocolFeatures(u64),
    GetQueueNum,
    SetVringEnable {
        index: u32,
        on: bool,
    },
    SetBackendReqFd(File),
    GetConfig {
        offset: u32,
        bytes: u32,
        flags: u32,
    },
    SetConfig {
        offset: u32,
        data: Vec<u8>,
    },
    GetInflightFd(InFlightSpec),
    SetInflightFd(InFlightSpec, File),
    GetMaxMemSlots,
    AddMemReg(RegionSpec, File),
    RemMemReg(RegionSpec),
}

impl Request {
    /// Whether it is answered by what it asks for: then there is no way to refuse it.
    pub(super) fn has_an_answer(&self) -> bool {
        matches!(
            self,
            Request::GetFeatures
                | Request::GetVringBase { .. }
                | Request::GetProtocolFeatures
                | Request::GetQueueNum
                | Request::GetConfig { .. }
                | Request::GetInflightFd(_)
                | Request::GetMaxMemSlots
        )
    }

    /// What a message asks for.
    pub(super) fn parse(incoming: Incoming) -> Result<Request, MessageError> {
        let number = incoming.request;
        let mut fields = Fields {
            number,
            bytes: &incoming.payload,
        };
        let mut files = Files {
            number,
            files: incoming.files.into_iter(),
        };
        let request = match number {
            number::GET_FEATURES => Request::GetFeatures,
            number::SET_FEATURES => Request::SetFeatures(fields.u64()?),
            number::SET_OWNER => Request::SetOwner,
            number::RESET_OWNER => Request::ResetOwner,
            number::SET_MEM_TABLE => Request::SetMemTable(mem_table(&mut fields, &mut files)?),
            number::SET_VRING_NUM => {
                let (index, size) = fields.pair()?;
                Request::SetVringNum { index, size }
            }
            number::SET_VRING_ADDR => vring_addr(&mut fields)?,
            number::SET_VRING_BASE => {
                let (index, base) = fields.pair()?;
                Request::SetVringBase { index, base }
            }
            number::GET_VRING_BASE => {
                let (index, _) = fields.pair()?;
                Request::GetVringBase { index }
            }
            number::SET_VRING_KICK => {
                let (index, eventfd) = vring_fd(&mut fields, &mut files)?;
                Request::SetVringKick { index, eventfd }
            }
            number::SET_VRING_CALL => {
                let (index, eventfd) = vring_fd(&mut fields, &mut files)?;
                Request::SetVringCall { index, eventfd }
            }
            number::SET_VRING_ERR => {
                let (index, eventfd) = vring_fd(&mut fields, &mut files)?;
                Request::SetVringErr { index, eventfd }
            }
            number::GET_PROTOCOL_FEATURES => Request::GetProtocolFeatures,
            number::SET_PROTOCOL_FEATURES => Request::SetProtocolFeatures(fields.u64()?),
            number::GET_QUEUE_NUM => Request::GetQueueNum,
            number::SET_VRING_ENABLE => {
                let (index, on) = fields.pair()?;
                Request::SetVringEnable { index, on: on != 0 }
            }
            number::SET_BACKEND_REQ_FD => Request::SetBackendReqFd(files.one()?),
            number::GET_CONFIG => {
                let (offset, bytes, flags, _) = config(&mut fields)?;
                Request::GetConfig {
                    offset,
                    bytes,
                    flags,
                }
            }
            number::SET_CONFIG => {
                let (offset, _, _, data) = config(&mut fields)?;
                Request::SetConfig { offset, data }
            }
            number::GET_INFLIGHT_FD => Request::GetInflightFd(in_flight(&mut fields)?),
            number::SET_INFLIGHT_FD => {
                Request::SetInflightFd(in_flight(&mut fields)?, files.one()?)
            }
            number::GET_MAX_MEM_SLOTS => Request::GetMaxMemSlots,
            number::ADD_MEM_REG => Request::AddMemReg(single_region(&mut fields)?, files.one()?),
            number::REM_MEM_REG => {
                // Old front-ends send the region's descriptor along; it is closed.
                drop(files.files.next());
                Request::RemMemReg(single_region(&mut fields)?)
            }
            _ => return Err(MessageError::Unknown(number)),
        };
        fields.end()?;
        files.end()?;
        Ok(request)
    }
}

fn mem_table(
    fields: &mut Fields<'_>,
    files: &mut Files,
) -> Result<Vec<(RegionSpec, File)>, MessageError> {
    let (count, _padding) = fields.pair()?;
    // The channel lets no more descriptors through than there may be regions.
    (0..count)
        .map(|_| Ok((region(fields)?, files.one()?)))
        .collect()
}

fn region(fields: &mut Fields<'_>) -> Result<RegionSpec, MessageError> {
    Ok(RegionSpec {
        guest: fields.u64()?,
        bytes: fields.u64()?,
        user: fields.u64()?,
        offset: fields.u64()?,
    })
}

fn single_region(fields: &mut Fields<'_>) -> Result<RegionSpec, MessageError> {
    let _padding = fields.u64()?;
    region(fields)
}

fn vring_addr(fields: &mut Fields<'_>) -> Result<Request, MessageError> {
    let (index, flags) = fields.pair()?;
    let addresses = RingAddresses {
        desc_table: fields.u64()?,
        used_ring: fields.u64()?,
        avail_ring: fields.u64()?,
    };
    let _log = fields.u64()?;
    Ok(Request::SetVringAddr {
        index,
        flags,
        addresses,
    })
}

fn vring_fd(
    fields: &mut Fields<'_>,
    files: &mut Files,
) -> Result<(u8, Option<File>), MessageError> {
    let word = fields.u64()?;
    let eventfd = match word & NO_FD {
        0 => Some(files.one()?),
        _ => None,
    };
    Ok((word as u8, eventfd))
}

fn config(fields: &mut Fields<'_>) -> Result<(u32, u32, u32, Vec<u8>), MessageError> {
    let (offset, bytes) = fields.pair()?;
    let flags = fields.u32()?;
    let data = std::mem::take(&mut fields.bytes);
    if data.len() > MAX_CONFIG || data.len() as u64 != u64::from(bytes) {
        return Err(MessageError::Size(fields.number));
    }
    Ok((offset, bytes, flags, data.to_vec()))
}

fn in_flight(fields: &mut Fields<'_>) -> Result<InFlightSpec, MessageError> {
    let spec = InFlightSpec {
        bytes: fields.u64()?,
        offset: fields.u64()?,
        queues: fields.u16()?,
        queue_size: fields.u16()?,
    };
    // C compilers pad the structure, others do not.
    if !fields.bytes.is_empty() {
        fields.u32()?;
    }
    Ok(spec)
}

/// What is left of a payload, little-endian as the machine.
struct Fields<'a> {
    number: u32,
    bytes: &'a [u8],
}

impl Fields<'_> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], MessageError> {
        let Some((field, rest)) = self.bytes.split_first_chunk() else {
            return Err(MessageError::Size(self.number));
        };
        self.bytes = rest;
        Ok(*field)
    }

    fn u16(&mut self) -> Result<u16, MessageError> {
        self.take().map(u16::from_le_bytes)
    }

    fn u32(&mut self) -> Result<u32, MessageError> {
        self.take().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64, MessageError> {
        self.take().map(u64::from_le_bytes)
    }

    fn pair(&mut self) -> Result<(u32, u32), MessageError> {
        Ok((self.u32()?, self.u32()?))
    }

    fn end(&self) -> Result<(), MessageError> {
        match self.bytes.is_empty() {
            true => Ok(()),
            false => Err(MessageError::Size(self.number)),
        }
    }
}

/// The descriptors that came along.
struct Files {
    number: u32,
    files: std::vec::IntoIter<File>,
}

impl Files {
    fn one(&mut self) -> Result<File, MessageError> {
        self.files.next().ok_or(MessageError::Files(self.number))
    }

    fn end(&self) -> Result<(), MessageError> {
        match self.files.len() {
            0 => Ok(()),
            _ => Err(MessageError::Files(self.number)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse(request: u32, payload: &[u8], files: usize) -> Result<Request, MessageError> {
        Request::parse(Incoming {
            request,
            needs_reply: false,
            payload: payload.to_vec(),
            files: (0..files).map(|_| tempfile::tempfile().unwrap()).collect(),
        })
    }

    fn words(words: &[u64]) -> Vec<u8> {
        words.iter().flat_map(|word| word.to_le_bytes()).collect()
    }

    #[test]
    fn fields_are_where_the_specification_puts_them() {
        let table = words(&[1, 0x1000, 0x2000, 0x7f00_0000, 0x3000]);
        let Ok(Request::SetMemTable(regions)) = parse(5, &table, 1) else {
            panic!("no table");
        };
        let region = RegionSpec {
            guest: 0x1000,
            bytes: 0x2000,
            user: 0x7f00_0000,
            offset: 0x3000,
        };
        assert_eq!(regions[0].0, region);
        let addresses = words(&[2 | 1 << 32, 10, 20, 30, 40]);
        let Ok(Request::SetVringAddr {
            index: 2,
            flags: 1,
            addresses,
        }) = parse(9, &addresses, 0)
        else {
            panic!("no addresses");
        };
        let expected = RingAddresses {
            desc_table: 10,
            used_ring: 20,
            avail_ring: 30,
        };
        assert_eq!(addresses, expected);
        let kick = parse(12, &words(&[3]), 1);
        assert!(matches!(
            kick,
            Ok(Request::SetVringKick {
                index: 3,
                eventfd: Some(_)
            })
        ));
        let no_call = parse(13, &words(&[NO_FD | 3]), 0);
        assert!(matches!(
            no_call,
            Ok(Request::SetVringCall {
                index: 3,
                eventfd: None
            })
        ));
        let in_flight = [words(&[100, 200]), vec![4, 0, 128, 0, 0, 0, 0, 0]].concat();
        for end in [20, 24] {
            let Ok(Request::GetInflightFd(spec)) = parse(31, &in_flight[..end], 0) else {
                panic!("no in-flight memory");
            };
            let expected = InFlightSpec {
                bytes: 100,
                offset: 200,
                queues: 4,
                queue_size: 128,
            };
            assert_eq!(spec, expected);
        }
    }

    #[test]
    fn other_sizes_and_descriptors_are_refused() {
        for (number, payload, files) in [
            (2, 8, 0),
            (5, 40, 1),
            (8, 8, 0),
            (9, 40, 0),
            (10, 8, 0),
            (11, 8, 0),
            (12, 8, 1),
            (16, 8, 0),
            (18, 8, 0),
            (21, 0, 1),
            (31, 24, 0),
            (32, 24, 1),
            (37, 40, 1),
        ] {
            let mut bytes = vec![0; payload];
            if number == 5 {
                bytes[0] = 1;
            }
            assert!(parse(number, &bytes, files).is_ok(), "{number}");
            bytes.push(0);
            assert_eq!(
                parse(number, &bytes, files).err(),
                Some(MessageError::Size(number))
            );
            bytes.pop();
            assert_eq!(
                parse(number, &bytes, files + 1).err(),
                Some(MessageError::Files(number))
            );
            if payload > 0 {
                bytes.pop();
                assert_eq!(
                    parse(number, &bytes, files).err(),
                    Some(MessageError::Size(number))
                );
            }
        }
        for number in [
            0,
            6,
            7,
            19,
            20,
            22,
            23,
            26,
            30,
            33,
            35,
            39,
            40,
            99,
            u32::MAX,
        ] {
            assert_eq!(
                parse(number, &[], 0).err(),
                Some(MessageError::Unknown(number))
            );
        }
        // More regions than descriptors, and than bytes.
        assert!(parse(5, &words(&[u64::from(u32::MAX), 0, 0, 0, 0]), 1).is_err());
        // A configuration that says another size than it has, or is larger than any.
        let config = |size: u32, data: usize| {
            [0, size, 0]
                .iter()
                .flat_map(|word| word.to_le_bytes())
                .chain(vec![0; data])
                .collect::<Vec<u8>>()
        };
        assert!(parse(24, &config(60, 60), 0).is_ok());
        for (size, data) in [(60, 59), (60, 61), (u32::MAX, 0), (257, 257)] {
            assert_eq!(
                parse(24, &config(size, data), 0).err(),
                Some(MessageError::Size(24))
            );
        }
    }

    proptest! {
        #[test]
        fn whatever_comes_is_parsed_or_refused(
            number in 0u32..45,
            payload in proptest::collection::vec(any::<u8>(), 0..400),
            files in 0usize..3,
        ) {
            let _ = parse(number, &payload, files);
        }
    }
}
