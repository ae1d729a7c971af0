//! Whom a request in flight belongs to, and how the driver carries that: a cookie of 32 bits that comes
//! back with the completion.

use crate::mm::cache::PageId;
use crate::task::{ProcessId, ThreadId};
use iolite_devices_abi::trace::purpose;
use iolite_guest_abi::MAX_IO;
use iolite_virtio_driver::Operation;

/// Whom a completion is for.
#[derive(Clone, Copy, Debug)]
pub enum Owner {
    /// A thread that blocks at once: [`crate::task::scheduler::wait_for_request`].
    Thread(ThreadId),
    /// A page of the cache that is being read or written, and those linked to it.
    Pages(PageId),
    /// An asynchronous request of a process, by its number there.
    Async(ProcessId, u16),
}

impl Owner {
    /// An owner as the driver's cookie: what kind in the highest bits, its number below.
    #[inline(always)]
    pub(super) fn to_cookie(self) -> u32 {
        match self {
            Owner::Thread(thread) => u32::from(thread.number()),
            Owner::Pages(page) => PAGES | page.number(),
            Owner::Async(process, request) => {
                ASYNC | (process.slot() as u32) << REQUEST_BITS | u32::from(request)
            }
        }
    }

    /// What a request of this owner is for, in a trace.
    #[inline(always)]
    pub(super) fn purpose(self, operation: Operation) -> u8 {
        match self {
            Owner::Thread(_) => purpose::WAIT,
            Owner::Async(..) => purpose::ASYNC,
            Owner::Pages(_) if matches!(operation, Operation::Write { .. }) => purpose::WRITE_BACK,
            Owner::Pages(_) => purpose::PAGE,
        }
    }

    /// The inverse of [`Owner::to_cookie`].
    #[inline(always)]
    pub(super) fn from_cookie(cookie: u32) -> Option<Owner> {
        if cookie & PAGES != 0 {
            return PageId::from_number(cookie & !PAGES).map(Owner::Pages);
        }
        if cookie & ASYNC == 0 {
            return ThreadId::from_number(u64::from(cookie)).map(Owner::Thread);
        }
        let process = ProcessId::at((cookie & !ASYNC) >> REQUEST_BITS);
        Some(Owner::Async(process, (cookie % (1 << REQUEST_BITS)) as u16))
    }
}

const PAGES: u32 = 1 << 31;
const ASYNC: u32 = 1 << 30;
const REQUEST_BITS: u32 = 10;
const _: () = assert!(MAX_IO <= 1 << REQUEST_BITS);
