//! Signals: from the first instruction of the process to its last, one that asks for the end ends it.
//!
//! [`handle`] comes before everything else. What a signal does depends on whether a machine runs, which
//! is while there is an [`Attention`]:
//!
//! | signal | while a machine runs | at any other time |
//! |---|---|---|
//! | TERM, INT, HUP, QUIT, and all others that would end a process | the main thread stops the machine; another one after that ends the process | ends the process |
//! | TSTP (Ctrl-Z) | the main thread leaves the terminal, and suspends the process | suspends the process |
//! | USR1 | the main thread looks at the sizes of images | nothing |
//! | XFSZ | nothing: the write that was too much fails | the same |
//! | SEGV, ABRT and other faults | the terminal is restored, then what the fault did before | the same |
//!
//! So whatever the process waits for, an orderly end included, a signal ends the waiting: the handler
//! restores the terminal, says which disks are not flushed, and exits with 128 + the signal's number.
//! What was ignored when the process began (nohup, a job in the background of a script) stays ignored.

#![allow(unsafe_code)]

use std::mem;
use std::os::fd::{AsRawFd, RawFd};
use std::ptr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicI64, AtomicU32, Ordering::SeqCst};

use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use crate::console;
use crate::error::Error;
use crate::unflushed;

/// Signals that ask for the end.
const ENDING: [libc::c_int; 11] = [
    libc::SIGTERM,
    libc::SIGINT,
    libc::SIGHUP,
    libc::SIGQUIT,
    libc::SIGUSR2,
    libc::SIGALRM,
    libc::SIGVTALRM,
    libc::SIGPROF,
    libc::SIGXCPU,
    libc::SIGIO,
    libc::SIGPWR,
];
/// Signals that say what this process has done wrong.
const FAULTS: [libc::c_int; 8] = [
    libc::SIGABRT,
    libc::SIGBUS,
    libc::SIGFPE,
    libc::SIGILL,
    libc::SIGSEGV,
    libc::SIGSTKFLT,
    libc::SIGSYS,
    libc::SIGTRAP,
];
const OTHERS: [libc::c_int; 3] = [libc::SIGTSTP, libc::SIGUSR1, libc::SIGXFSZ];

/// What comes this soon after a signal is the same request: timeout(1) signals its child and then the
/// child's group, a terminal that goes away both the shell and its jobs.
const ECHO_MS: i64 = 100;

/// There is somebody to be told.
static ATTENDED: AtomicBool = AtomicBool::new(false);
/// The signal that has asked for the machine's end; 0 if none has.
static ASKED: AtomicI32 = AtomicI32::new(0);
static ASKED_AT_MS: AtomicI64 = AtomicI64::new(0);
/// What the main thread has not been told yet, as bits.
static NEWS: AtomicU32 = AtomicU32::new(0);
/// Rung when there is news. It lives as long as the process: handlers use it.
static BELL: OnceLock<EventFd> = OnceLock::new();

const END: u32 = 1 << 0;
const SUSPEND: u32 = 1 << 1;
const RESIZE: u32 = 1 << 2;

/// Gives every signal its handler, unless it is ignored; and receives all, whatever the process's
/// parent has blocked.
///
/// # Errors
/// If the system refuses.
pub fn handle() -> Result<(), Error> {
    let realtime = libc::SIGRTMIN() + 1..=libc::SIGRTMAX();
    let all = ENDING.into_iter().chain(OTHERS).chain(realtime);
    for number in all {
        install(number, on_signal)?;
    }
    for (number, before) in FAULTS.into_iter().zip(&BEFORE) {
        if let Some(action) = install(number, on_fault)? {
            let _ = before.set(action);
        }
    }
    unblock()
}

/// What was done about each of [`FAULTS`] before: the standard library recognises an overflow of the
/// stack.
static BEFORE: [OnceLock<libc::sigaction>; FAULTS.len()] =
    [const { OnceLock::new() }; FAULTS.len()];

type Handler = extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void);

/// Installs a handler, and returns what was there before; none if the signal is ignored, and stays so.
fn install(number: libc::c_int, handler: Handler) -> Result<Option<libc::sigaction>, Error> {
    // SAFETY: both are plain data, for which zero is valid; each call reads one or writes the other. The
    // handlers are functions of the kind that SA_SIGINFO asks for, and live for ever.
    let done = unsafe {
        let mut before: libc::sigaction = mem::zeroed();
        if libc::sigaction(number, ptr::null(), &mut before) == 0
            && before.sa_sigaction == libc::SIG_IGN
        {
            return Ok(None);
        }
        let mut action: libc::sigaction = mem::zeroed();
        action.sa_sigaction = handler as *const () as libc::sighandler_t;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_RESTART;
        libc::sigfillset(&mut action.sa_mask);
        match libc::sigaction(number, &action, ptr::null_mut()) {
            0 => Ok(before),
            _ => Err(std::io::Error::last_os_error()),
        }
    };
    let cannot = Error::host(format!("cannot handle signal {number}"));
    done.map(Some).map_err(cannot)
}

fn unblock() -> Result<(), Error> {
    // SAFETY: a sigset_t is plain data; the calls get a valid pointer to it.
    let errno = unsafe {
        let mut none: libc::sigset_t = mem::zeroed();
        libc::sigemptyset(&mut none);
        libc::pthread_sigmask(libc::SIG_SETMASK, &none, ptr::null_mut())
    };
    match errno {
        0 => Ok(()),
        errno => Err(Error::host("cannot receive signals")(
            std::io::Error::from_raw_os_error(errno),
        )),
    }
}

/// Has the main thread look around.
pub fn wake() {
    if let Some(bell) = BELL.get() {
        // It only fails when the counter is full: then it is readable already.
        let _ = bell.write(1);
    }
}

/// What the main thread is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum News {
    /// This signal asks for the machine's end.
    End(i32),
    /// Ctrl-Z: suspend the process.
    Suspend,
    /// Images may have grown.
    Resize,
}

/// Somebody who attends to signals while a machine runs: the process does not end by itself.
pub struct Attention {
    bell: &'static EventFd,
}

impl Attention {
    /// From now on.
    ///
    /// # Errors
    /// If the system has no eventfd left.
    pub fn begin() -> Result<Attention, Error> {
        let bell = match BELL.get() {
            Some(bell) => bell,
            None => {
                let bell = EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC);
                let bell = bell.map_err(Error::host("cannot make an eventfd"))?;
                BELL.get_or_init(|| bell)
            }
        };
        NEWS.store(0, SeqCst);
        ASKED.store(0, SeqCst);
        ATTENDED.store(true, SeqCst);
        Ok(Attention { bell })
    }

    /// What there is to be told, once the descriptor is readable.
    pub fn news(&self) -> impl Iterator<Item = News> {
        let _ = self.bell.read();
        let news = NEWS.swap(0, SeqCst);
        let all = [
            (RESIZE, News::Resize),
            (SUSPEND, News::Suspend),
            (END, News::End(ASKED.load(SeqCst))),
        ];
        let told = all.into_iter().filter(move |(bit, _)| news & bit != 0);
        told.map(|(_, news)| news)
    }
}

impl AsRawFd for Attention {
    fn as_raw_fd(&self) -> RawFd {
        self.bell.as_raw_fd()
    }
}

impl Drop for Attention {
    fn drop(&mut self) {
        ATTENDED.store(false, SeqCst);
    }
}

// The rest runs in handlers, wherever the thread was interrupted: it takes no lock and no memory, and
// makes only such system calls as a handler may make (signal-safety(7)).

extern "C" fn on_signal(number: libc::c_int, _: *mut libc::siginfo_t, _: *mut libc::c_void) {
    let errno = Errno::keep();
    let attended = ATTENDED.load(SeqCst);
    match number {
        libc::SIGXFSZ => {}
        libc::SIGUSR1 if attended => tell(RESIZE),
        libc::SIGUSR1 => {}
        libc::SIGTSTP if attended => tell(SUSPEND),
        // SAFETY: raise(3) may be called in a handler.
        libc::SIGTSTP => drop(unsafe { libc::raise(libc::SIGSTOP) }),
        _ => asked_to_end(number, attended),
    }
    drop(errno);
}

fn asked_to_end(number: libc::c_int, attended: bool) {
    if attended && ASKED.compare_exchange(0, number, SeqCst, SeqCst).is_ok() {
        ASKED_AT_MS.store(now_ms(), SeqCst);
        return tell(END);
    }
    if ASKED.load(SeqCst) != 0 {
        // SIGXCPU comes every second, until it is SIGKILL.
        let echo = now_ms() - ASKED_AT_MS.load(SeqCst) < ECHO_MS;
        if echo || number == libc::SIGXCPU {
            return;
        }
    }
    console::restore_terminal();
    unflushed::last_words();
    // SAFETY: _exit(2) may be called in a handler.
    unsafe { libc::_exit(128 + number) }
}

fn tell(news: u32) {
    NEWS.fetch_or(news, SeqCst);
    if let Some(bell) = BELL.get() {
        let one = 1u64;
        // SAFETY: write(2) may be called in a handler; it reads the 8 bytes of `one`. The eventfd lives
        // as long as the process, and does not block; if it is full, it is readable already.
        unsafe { libc::write(bell.as_raw_fd(), (&raw const one).cast(), size_of::<u64>()) };
    }
}

extern "C" fn on_fault(number: libc::c_int, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
    console::restore_terminal();
    let index = FAULTS.iter().position(|fault| *fault == number);
    let before = index.and_then(|index| BEFORE[index].get());
    // SAFETY: with SA_SIGINFO the second argument says what the signal is. The other calls may be made in
    // a handler; the action is one that the system gave us.
    unsafe {
        match before {
            // The instruction runs once more, and the fault is the handler's that was there before.
            Some(before) if before.sa_sigaction != libc::SIG_DFL && (*info).si_code > 0 => {
                libc::sigaction(number, before, ptr::null_mut());
            }
            // It is blocked until the handler returns, and ends the process then.
            _ => {
                libc::signal(number, libc::SIG_DFL);
                libc::raise(number);
            }
        }
    }
}

fn now_ms() -> i64 {
    // SAFETY: a timespec is plain data; clock_gettime(2) may be called in a handler, and writes to it.
    let now = unsafe {
        let mut now: libc::timespec = mem::zeroed();
        libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut now);
        now
    };
    now.tv_sec * 1000 + now.tv_nsec / 1_000_000
}

/// The interrupted code's errno, put back on drop.
struct Errno(libc::c_int);

impl Errno {
    fn keep() -> Errno {
        // SAFETY: the pointer is that of the thread's own errno, always valid.
        Errno(unsafe { *libc::__errno_location() })
    }
}

impl Drop for Errno {
    fn drop(&mut self) {
        // SAFETY: as above.
        unsafe { *libc::__errno_location() = self.0 }
    }
}
