//! A thread's kernel stack as the context switch sees it.

#![allow(unsafe_code)]

use super::trap::Frame;

/// Where a thread that is not running left its stack.
#[derive(Clone, Copy, Debug, Default)]
pub struct Context(u64);

impl Context {
    /// No context: a thread that has not been switched away from.
    pub const EMPTY: Context = Context(0);
}

unsafe extern "C" {
    fn switch_stacks(save: *mut u64, next: u64);
    fn start_user_thread();
    fn start_kernel_thread();
}

/// Callee-saved registers in the order in which `switch_stacks` pops them, and where it returns.
#[repr(C)]
struct Saved {
    r15: u64,
    r14: u64,
    r13: u64,
    r12: u64,
    rbx: u64,
    rbp: u64,
    rip: u64,
}

/// Suspends the running thread, leaving its place in `save`, and resumes the one at `next`.
///
/// # Safety
/// `save` stays valid until the running thread is resumed, `next` was left by this function or
/// made by [`Context::user`] or [`Context::kernel`] and is resumed once, and no borrow of kernel
/// state is alive.
#[inline(always)]
pub unsafe fn switch(save: *mut Context, next: Context) {
    // SAFETY: the caller's promise.
    unsafe { switch_stacks(save.cast(), next.0) };
}

impl Context {
    /// A thread that begins in ring 3 with the registers of `frame`.
    ///
    /// # Safety
    /// `stack_top` is the 16-byte aligned end of a kernel stack that nobody else uses.
    pub unsafe fn user(stack_top: u64, frame: Frame) -> Context {
        let frame_at = stack_top - size_of::<Frame>() as u64;
        // `start_user_thread` calls a function: the frame is 16-byte aligned, so the stack is too.
        let saved_at = frame_at - size_of::<Saved>() as u64;
        let rip = start_user_thread as *const () as u64;
        // SAFETY: both lie in the stack the caller hands over.
        unsafe {
            (frame_at as *mut Frame).write(frame);
            (saved_at as *mut Saved).write(Saved { rip, ..Saved::ZERO });
        }
        Context(saved_at)
    }

    /// A thread that runs `body(argument)` in ring 0.
    ///
    /// # Safety
    /// As for [`Context::user`].
    pub unsafe fn kernel(stack_top: u64, body: extern "C" fn(u64), argument: u64) -> Context {
        let saved_at = stack_top - 16 - size_of::<Saved>() as u64;
        let rip = start_kernel_thread as *const () as u64;
        let saved = Saved {
            rip,
            r12: body as *const () as u64,
            r13: argument,
            ..Saved::ZERO
        };
        // SAFETY: it lies in the stack the caller hands over.
        unsafe { (saved_at as *mut Saved).write(saved) };
        Context(saved_at)
    }
}

impl Saved {
    const ZERO: Saved = Saved {
        r15: 0,
        r14: 0,
        r13: 0,
        r12: 0,
        rbx: 0,
        rbp: 0,
        rip: 0,
    };
}
