//! Buffers for requests: many parts of one mapping, each with an owner of its own.
#![allow(unsafe_code)]

use crate::mapping::Region;
use crate::{Errno, Result};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::ops::{Deref, DerefMut};
use iolite_guest_abi::{NO_FD, PAGE_BYTES, map, prot};

/// Memory for one request, at the start of a page. The mapping goes with the last of its buffers.
#[derive(Debug)]
pub struct Buffer {
    region: Arc<Region>,
    at: usize,
    len: usize,
}

impl Buffer {
    /// Makes `count` buffers of `len` zero bytes each.
    ///
    /// # Errors
    ///
    /// `ENOMEM`; `EINVAL` for a count or a length of 0.
    pub fn many(count: usize, len: usize) -> Result<Vec<Buffer>> {
        let step = len.next_multiple_of(PAGE_BYTES);
        let bytes = step.checked_mul(count).ok_or(Errno::ENOMEM)?;
        let rights = prot::READ | prot::WRITE;
        let region = Arc::new(Region::map(NO_FD, 0, bytes, rights, map::PRIVATE)?);
        let buffer = |index| Buffer {
            region: region.clone(),
            at: index * step,
            len,
        };
        Ok((0..count).map(buffer).collect())
    }

    /// Its address, for who hands it to the kernel.
    pub(crate) fn address(&self) -> u64 {
        self.region.address as u64 + self.at as u64
    }
}

impl Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: mapped until the region goes, and this part is this buffer's alone.
        unsafe { core::slice::from_raw_parts(self.region.address.add(self.at), self.len) }
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above; mapped for writing, and `self` is borrowed exclusively.
        unsafe { core::slice::from_raw_parts_mut(self.region.address.add(self.at), self.len) }
    }
}
