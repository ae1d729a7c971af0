//! Threads of this process.
#![allow(unsafe_code)]

use crate::mapping::Region;
use crate::syscall::{self, syscall};
use crate::{Errno, Result};
use alloc::boxed::Box;
use alloc::sync::Arc;
use core::arch::global_asm;
use iolite_guest_abi::Number;

/// Size in bytes of a thread's stack.
const STACK_BYTES: usize = 64 * 1024;

/// A thread that is running. It goes on when this is dropped, but then its stack is never freed.
pub struct Thread<T> {
    id: u64,
    /// `None` once it was joined.
    stack: Option<Region>,
    result: Arc<crate::lock::Lock<Option<T>>>,
}

/// What a thread starts with: a box of it is its one argument.
type Body = Box<dyn FnOnce() + Send>;

impl<T: Send + 'static> Thread<T> {
    /// Starts a thread that runs `body`.
    ///
    /// # Errors
    ///
    /// `ENOMEM` if there is no memory for a stack, `EAGAIN` if there are too many threads.
    pub fn spawn(body: impl FnOnce() -> T + Send + 'static) -> Result<Thread<T>> {
        let stack = Region::stack(STACK_BYTES)?;
        let result = Arc::new(crate::lock::Lock::new(None));
        let place = result.clone();
        let body: Body = Box::new(move || {
            let value = body();
            *place.lock() = Some(value);
        });
        let argument = Box::into_raw(Box::new(body));
        let args = [
            iolite_thread_entry as *const () as u64,
            stack.end(),
            argument as u64,
            0,
            0,
        ];
        // SAFETY: the entry runs `body` on a stack that is kept until the thread has ended.
        match unsafe { syscall(Number::ThreadSpawn, args) } {
            Ok(id) => Ok(Thread {
                id,
                stack: Some(stack),
                result,
            }),
            Err(error) => {
                // SAFETY: no thread was started, so the box is still this one's.
                drop(unsafe { Box::from_raw(argument) });
                Err(error)
            }
        }
    }

    /// Waits until it has ended, and gives what it returned.
    ///
    /// # Errors
    ///
    /// `ESRCH` if the thread ended in another way than by returning.
    pub fn join(mut self) -> Result<T> {
        syscall::thread_join(self.id)?;
        self.stack.take();
        self.result.lock().take().ok_or(Errno::ESRCH)
    }
}

impl<T> Drop for Thread<T> {
    fn drop(&mut self) {
        // The thread may still be running on it.
        core::mem::forget(self.stack.take());
    }
}

/// Lets the other threads run first.
pub fn yield_now() {
    syscall::yield_now();
}

// A thread starts with rdi = argument and rsp = the stack's end.
global_asm!(
    "iolite_thread_entry:",
    "xor ebp, ebp",
    "call {start}",
    "ud2",
    start = sym start,
);

unsafe extern "C" {
    fn iolite_thread_entry();
}

extern "C" fn start(argument: *mut Body) -> ! {
    // SAFETY: `spawn` made this box and gave it up to this thread.
    let body = unsafe { Box::from_raw(argument) };
    body();
    syscall::thread_exit(0)
}
