//! Starting the devices' own threads: named, with a small stack, deaf to signals but for SIGBUS: that is
//! a thread's own doing, and the end of the process where it is blocked.

use std::io;
use std::sync::OnceLock;
use std::thread::{self, Builder, JoinHandle};

/// Stack of a device's thread in bytes. Only the pages that are used cost memory, but a small
/// stack keeps a mistake small.
const STACK_BYTES: usize = 128 * 1024;

static ON_PANIC: OnceLock<fn()> = OnceLock::new();

/// Has `tell` called by each thread of a device that ends by a panic: a disk with such a thread missing
/// does not do what it should. Of several calls the first counts.
pub fn on_panic(tell: fn()) {
    let _ = ON_PANIC.set(tell);
}

/// Starts `body` on a thread called `name` that receives no signal: signals are the main thread's.
///
/// # Errors
/// If the system refuses another thread.
pub(crate) fn spawn(
    name: String,
    body: impl FnOnce() + Send + 'static,
) -> io::Result<JoinHandle<()>> {
    // A thread inherits its creator's mask: blocked here, there is no moment in which the new
    // thread could receive one.
    let _mask = SignalMask::block_all();
    Builder::new().name(name).stack_size(STACK_BYTES).spawn(|| {
        let _told = TellOfPanic;
        body();
    })
}

/// Dropped when a thread ends.
struct TellOfPanic;

impl Drop for TellOfPanic {
    fn drop(&mut self) {
        if thread::panicking()
            && let Some(tell) = ON_PANIC.get()
        {
            tell();
        }
    }
}

/// Has the kernel wake the calling thread from timed waits as exactly as it can, not up to 50 us
/// later to save wake-ups.
#[allow(unsafe_code)]
pub(crate) fn wake_on_time() {
    const NANOSECONDS: libc::c_ulong = 1;
    // SAFETY: this option takes one number, and concerns nothing but this thread's timers. Should
    // it be refused, wake-ups are as late as everybody's.
    unsafe {
        libc::prctl(libc::PR_SET_TIMERSLACK, NANOSECONDS);
    }
}

/// How often the calling thread has waited for something so far: for a disk, a lock, another thread
/// (voluntary context switches). To be preempted is not to wait.
#[allow(unsafe_code)]
pub(crate) fn sleeps() -> i64 {
    // SAFETY: a rusage is plain data, for which zero is valid; the call writes to it and to nothing
    // else, and cannot fail with this argument.
    unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        libc::getrusage(libc::RUSAGE_THREAD, &mut usage);
        usage.ru_nvcsw
    }
}

/// The calling thread's signal mask as it was; put back on drop.
struct SignalMask(libc::sigset_t);

#[allow(unsafe_code)]
impl SignalMask {
    fn block_all() -> Self {
        // SAFETY: a sigset_t is plain data; both calls get valid pointers to it and cannot fail
        // with these arguments.
        unsafe {
            let mut all = std::mem::zeroed();
            let mut old = std::mem::zeroed();
            libc::sigfillset(&mut all);
            libc::sigdelset(&mut all, libc::SIGBUS);
            libc::pthread_sigmask(libc::SIG_SETMASK, &all, &mut old);
            SignalMask(old)
        }
    }
}

#[allow(unsafe_code)]
impl Drop for SignalMask {
    fn drop(&mut self) {
        // SAFETY: the set was filled in by pthread_sigmask; a null old-set pointer is allowed.
        unsafe {
            libc::pthread_sigmask(libc::SIG_SETMASK, &self.0, std::ptr::null_mut());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU32, Ordering::SeqCst};

    static TOLD: AtomicU32 = AtomicU32::new(0);

    #[test]
    fn a_thread_that_panics_is_told_of() {
        on_panic(|| {
            TOLD.fetch_add(1, SeqCst);
        });
        spawn("ends-well".into(), || ()).unwrap().join().unwrap();
        assert_eq!(TOLD.load(SeqCst), 0);
        let panics = spawn("panics".into(), || panic!("on purpose")).unwrap();
        assert!(panics.join().is_err());
        assert_eq!(TOLD.load(SeqCst), 1);
    }
}
