//! Reading and writing the memory of the running process: checked against its half of the address
//! space first, and by the page fault handler for the rest.
//!
//! A copy may fault, and a fault may block: callers hold no borrow of kernel state.

#![allow(unsafe_code)]

use arrayvec::ArrayVec;
use core::mem::MaybeUninit;
use iolite_guest_abi::{Errno, USER_END, USER_START};

unsafe extern "C" {
    fn user_access_start();
    fn user_access_end();
    fn user_access_failed();
    fn copy_user(to: *mut u8, from: *const u8, bytes: usize) -> i64;
}

/// Types whose every bit pattern is valid, without padding: what may cross the border.
///
/// # Safety
/// Both properties hold for the implementor.
pub unsafe trait Plain: Copy {}

// SAFETY: integers, and `repr(C)` structures of integers with explicit padding.
unsafe impl Plain for iolite_guest_abi::Stat {}
// SAFETY: as above.
unsafe impl Plain for iolite_guest_abi::DirEntry {}
// SAFETY: as above.
unsafe impl Plain for iolite_guest_abi::DiskStats {}
// SAFETY: as above.
unsafe impl Plain for iolite_guest_abi::CpuStats {}
// SAFETY: as above.
unsafe impl Plain for iolite_guest_abi::IoRequest {}
// SAFETY: as above.
unsafe impl Plain for iolite_guest_abi::IoCompletion {}

// SAFETY: as above.
unsafe impl Plain for iolite_guest_abi::Event {}
// SAFETY: as above.
unsafe impl Plain for iolite_guest_abi::DeviceGrant {}
// SAFETY: as above.
unsafe impl Plain for iolite_guest_abi::SpawnOptions {}
// SAFETY: as above.
unsafe impl Plain for iolite_guest_abi::FaultFrame {}
// SAFETY: an integer.
unsafe impl Plain for u64 {}
// SAFETY: two integers.
unsafe impl Plain for [u32; 2] {}

/// Is all of `[address, address + bytes)` in the user half?
pub fn check_range(address: u64, bytes: u64) -> Result<(), Errno> {
    match address.checked_add(bytes) {
        _ if bytes == 0 => Ok(()),
        Some(end) if address >= USER_START && end <= USER_END => Ok(()),
        _ => Err(Errno::EFAULT),
    }
}

/// Copies from the process into `to`.
pub fn read(to: &mut [u8], from: u64) -> Result<(), Errno> {
    check_range(from, to.len() as u64)?;
    // SAFETY: `to` is ours and exclusively borrowed; the source is user memory, where a fault is
    // handled and what is read is bytes.
    done(unsafe { copy_user(to.as_mut_ptr(), from as *const u8, to.len()) })
}

/// Copies `from` to the process.
pub fn write(to: u64, from: &[u8]) -> Result<(), Errno> {
    check_range(to, from.len() as u64)?;
    // SAFETY: the destination is user memory, which nothing in the kernel borrows.
    done(unsafe { copy_user(to as *mut u8, from.as_ptr(), from.len()) })
}

/// Copies a structure to the process.
pub fn write_value<T: Plain>(to: u64, value: &T) -> Result<(), Errno> {
    write_values(to, core::slice::from_ref(value))
}

/// Copies structures to the process.
pub fn write_values<T: Plain>(to: u64, values: &[T]) -> Result<(), Errno> {
    // SAFETY: `Plain` values are all initialised bytes.
    write(to, unsafe {
        core::slice::from_raw_parts(values.as_ptr().cast(), size_of_val(values))
    })
}

/// Copies a structure from the process.
pub fn read_value<T: Plain>(from: u64) -> Result<T, Errno> {
    check_range(from, size_of::<T>() as u64)?;
    let mut value = MaybeUninit::<T>::uninit();
    // SAFETY: the destination is ours; the source is user memory, where a fault is handled.
    done(unsafe { copy_user(value.as_mut_ptr().cast(), from as *const u8, size_of::<T>()) })?;
    // SAFETY: every byte was written, and every bit pattern of a `Plain` type is valid.
    Ok(unsafe { value.assume_init() })
}

/// Copies up to `most` structures from the process, as many as fit.
pub fn read_values<T: Plain, const N: usize>(
    from: u64,
    most: usize,
) -> Result<ArrayVec<T, N>, Errno> {
    let count = most.min(N);
    let bytes = count * size_of::<T>();
    check_range(from, bytes as u64)?;
    let mut values = ArrayVec::<T, N>::new();
    // SAFETY: there is room for `count` values; the source is user memory, where a fault is handled.
    done(unsafe { copy_user(values.as_mut_ptr().cast(), from as *const u8, bytes) })?;
    // SAFETY: every byte of these was written, and every bit pattern of a `Plain` type is valid.
    unsafe { values.set_len(count) };
    Ok(values)
}

/// Where to go on after a fault that cannot be resolved, if it was one of this module's accesses.
pub fn fixup(rip: u64) -> Option<u64> {
    let routines = user_access_start as *const () as u64..user_access_end as *const () as u64;
    routines
        .contains(&rip)
        .then_some(user_access_failed as *const () as u64)
}

fn done(result: i64) -> Result<(), Errno> {
    if result == 0 {
        Ok(())
    } else {
        Err(Errno::EFAULT)
    }
}
