//! The descriptors of one request (virtio 1.2, section 2.7.5). The first two entries of its table, for
//! the header and for the status byte, are written once; the chain goes from the header to the data,
//! which begins at the third entry, and comes back to the second. A request of one segment so costs
//! three stores.

#![allow(unsafe_code)]

use crate::dma::Segment;
use iolite_devices_abi::blk::RequestHeader;
use iolite_devices_abi::ring::{DESC_F_NEXT, DESC_F_WRITE, Descriptor};

/// Where in a table the descriptors of header, status byte and data are.
const HEADER_ENTRY: u16 = 0;
const STATUS_ENTRY: u16 = 1;
const DATA_ENTRY: u16 = 2;

/// Writes what no request changes: where header and status byte are.
///
/// # Safety
/// `table` is a slot's; its first entry has the index `first`.
pub unsafe fn prepare(table: *mut Descriptor, first: u16, header: u64, status: u64) {
    // SAFETY: the caller's promise.
    unsafe {
        let status_entry = table.add(usize::from(STATUS_ENTRY));
        set_address(table.add(usize::from(HEADER_ENTRY)), header);
        lead_header(table, first + DATA_ENTRY);
        set_address(status_entry, status);
        set_rest(status_entry, 1, DESC_F_WRITE, 0);
    }
}

/// Writes the descriptors of a request's data, and leads the chain through them.
///
/// # Safety
/// `table` is a slot's, with room for the segments; its first entry has the index `first`.
#[inline(always)]
pub unsafe fn fill(table: *mut Descriptor, first: u16, segments: &[Segment], device_writes: bool) {
    let flags = DESC_F_NEXT | if device_writes { DESC_F_WRITE } else { 0 };
    // SAFETY: the caller's promise.
    unsafe {
        let to = table.add(usize::from(DATA_ENTRY));
        match segments {
            [segment] => {
                set_address(to, segment.physical);
                set_rest(to, segment.bytes, flags, first + STATUS_ENTRY);
                lead_header(table, first + DATA_ENTRY);
            }
            [] => lead_header(table, first + STATUS_ENTRY),
            _ => fill_many(to, first, segments, flags),
        }
    }
}

/// As [`fill`], for two segments and more: `to` is the entry of the first.
///
/// # Safety
/// As for [`fill`].
#[inline(never)]
unsafe fn fill_many(to: *mut Descriptor, first: u16, segments: &[Segment], flags: u16) {
    // SAFETY: the caller's promise.
    unsafe {
        for (at, segment) in segments.iter().enumerate() {
            let next = match at + 1 == segments.len() {
                true => STATUS_ENTRY,
                false => DATA_ENTRY + at as u16 + 1,
            };
            set_address(to.add(at), segment.physical);
            set_rest(to.add(at), segment.bytes, flags, first + next);
        }
        lead_header(to.sub(usize::from(DATA_ENTRY)), first + DATA_ENTRY);
    }
}

/// Has the chain go on from the header to entry `next`.
///
/// # Safety
/// `table` is a slot's.
#[inline(always)]
unsafe fn lead_header(table: *mut Descriptor, next: u16) {
    // SAFETY: the caller's promise.
    unsafe {
        let header = table.add(usize::from(HEADER_ENTRY));
        set_rest(header, RequestHeader::SIZE as u32, DESC_F_NEXT, next);
    }
}

/// Writes the first half of a descriptor.
///
/// # Safety
/// `to` is a descriptor of the queue's memory.
#[inline(always)]
pub unsafe fn set_address(to: *mut Descriptor, address: u64) {
    // SAFETY: the caller's promise; a descriptor is two little-endian words.
    unsafe { to.cast::<u64>().write_volatile(address) };
}

/// Writes the second half of a descriptor.
///
/// # Safety
/// `to` is a descriptor of the queue's memory.
#[inline(always)]
pub unsafe fn set_rest(to: *mut Descriptor, bytes: u32, flags: u16, next: u16) {
    let rest = u64::from(bytes) | u64::from(flags) << 32 | u64::from(next) << 48;
    // SAFETY: the caller's promise; a descriptor is two little-endian words.
    unsafe { to.cast::<u64>().add(1).write_volatile(rest) };
}
