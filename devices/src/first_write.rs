//! For tests: lets something happen between two instructions of a function, at its first write to a
//! page. The page is read-only until then; the write faults, and its thread does what is to be done
//! before it goes on. So who looks before he writes can be made wrong after the look.
#![allow(unsafe_code)]

use std::cell::Cell;
use std::sync::Once;

const PAGE_BYTES: usize = 4096;

/// A page of its own for what is to be watched.
#[repr(align(4096))]
pub(crate) struct Page<T>(pub(crate) T);

/// Whose first write is waited for, and what is to be done then.
#[derive(Clone, Copy)]
struct Watch {
    page: usize,
    call: unsafe fn(*const ()),
    what: *const (),
}

thread_local! {
    static WATCH: Cell<Option<Watch>> = const { Cell::new(None) };
}

/// Calls `run`, and `then` in the middle of it: before the first write to the page that begins at
/// `page`, which has to come, from this thread.
pub(crate) fn at_first_write<T, R>(page: *const T, then: impl Fn(), run: impl FnOnce() -> R) -> R {
    fn pointer_and_call<F: Fn()>(what: &F) -> (*const (), unsafe fn(*const ())) {
        // SAFETY: called with a pointer to an `F` that lives.
        (std::ptr::from_ref(what).cast(), |what| unsafe {
            (*what.cast::<F>())()
        })
    }
    static HANDLER: Once = Once::new();
    HANDLER.call_once(install);
    let (page, (what, call)) = (page as usize, pointer_and_call(&then));
    assert!(page.is_multiple_of(PAGE_BYTES));
    WATCH.set(Some(Watch { page, call, what }));
    protect(page, libc::PROT_READ);
    let result = run();
    assert!(WATCH.take().is_none(), "nothing was written");
    result
}

fn protect(page: usize, how: libc::c_int) {
    // SAFETY: the page is one that a test gave us, with nothing else on it, and stays readable. Who
    // writes to it meanwhile is told to wait by `on_fault`.
    let result = unsafe { libc::mprotect(page as *mut _, PAGE_BYTES, how) };
    assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
}

fn install() {
    // SAFETY: all zeros is a valid value; the handler has the type that SA_SIGINFO asks for.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = on_fault as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_NODEFER;
        libc::sigaction(libc::SIGSEGV, &raw const action, std::ptr::null_mut());
    }
}

/// A fault is a write of our own code, of which we know where it is: what may be done there may be
/// done here.
extern "C" fn on_fault(signal: libc::c_int, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
    // SAFETY: the kernel says where the fault was.
    let at = unsafe { (*info).si_addr() } as usize;
    match WATCH.get() {
        Some(watch) if (watch.page..watch.page + PAGE_BYTES).contains(&at) => {
            WATCH.set(None);
            protect(watch.page, libc::PROT_READ | libc::PROT_WRITE);
            // SAFETY: `at_first_write` is on the stack below us, and with it what this points to.
            unsafe { (watch.call)(watch.what) }
        }
        _ => {
            // SAFETY: any other fault ends the process when it comes again, at once.
            unsafe { libc::signal(signal, libc::SIG_DFL) };
        }
    }
}
