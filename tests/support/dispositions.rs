//! What signals do to the processes that a test starts, whatever this one's parent ignores: nohup, and
//! a shell that starts a job in the background, have their children ignore some.

#![allow(unsafe_code)]

use nix::sys::signal::{SigHandler, Signal, signal};

/// Those that somebody may have had ignored. SIGPIPE is not among them: the standard library has every
/// child begin with the default.
const IGNORED: [Signal; 10] = [
    Signal::SIGHUP,
    Signal::SIGINT,
    Signal::SIGQUIT,
    Signal::SIGTERM,
    Signal::SIGTSTP,
    Signal::SIGCHLD,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
    Signal::SIGALRM,
    Signal::SIGXFSZ,
];

/// From now on children begin with the defaults, and can be waited for.
pub fn ignore_nothing() {
    for number in IGNORED {
        // SAFETY: no function of ours becomes a handler.
        let _ = unsafe { signal(number, SigHandler::SigDfl) };
    }
}
