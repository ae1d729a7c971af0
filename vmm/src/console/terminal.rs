//! The terminal while a guest has it: keys arrive one by one and are not echoed, for the guest does
//! that. Ctrl-C and Ctrl-Z keep their meaning for us.
//!
//! Whatever way the process ends, the terminal is put back as it was: at the guard's drop, or by the
//! handlers of signals (`signals`).

#![allow(unsafe_code)]

use std::io;
use std::mem;
use std::ptr;
use std::sync::atomic::{AtomicPtr, Ordering::SeqCst};

use nix::unistd::{getpgrp, tcgetpgrp};

/// The terminal as it was found, while it is changed. What it points to is never freed: a handler may
/// read it at any time.
static FOUND: AtomicPtr<libc::termios> = AtomicPtr::new(ptr::null_mut());

/// The terminal in character mode; put back on drop.
pub struct CharacterMode(());

impl CharacterMode {
    /// Changes the terminal on stdin. None if stdin is no terminal, or if it is another job's:
    /// changing or reading it would stop us.
    ///
    /// # Errors
    /// If the system refuses.
    pub fn enter() -> io::Result<Option<Self>> {
        if !is_ours() {
            return Ok(None);
        }
        let found = attributes()?;
        let mut changed = found;
        changed.c_lflag &= !(libc::ICANON | libc::ECHO);
        changed.c_cc[libc::VMIN] = 1;
        changed.c_cc[libc::VTIME] = 0;
        FOUND.store(Box::leak(Box::new(found)), SeqCst);
        let mode = CharacterMode(());
        change(&changed)?;
        Ok(Some(mode))
    }
}

impl Drop for CharacterMode {
    fn drop(&mut self) {
        restore_terminal();
        FOUND.store(ptr::null_mut(), SeqCst);
    }
}

/// Is stdin a terminal, with us in its foreground?
fn is_ours() -> bool {
    tcgetpgrp(io::stdin()).is_ok_and(|foreground| foreground == getpgrp())
}

fn attributes() -> io::Result<libc::termios> {
    // SAFETY: a termios is plain data, for which zero is valid; the call writes to it and nothing else.
    unsafe {
        let mut found: libc::termios = mem::zeroed();
        match libc::tcgetattr(libc::STDIN_FILENO, &mut found) {
            0 => Ok(found),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

fn change(to: &libc::termios) -> io::Result<()> {
    // SAFETY: the call reads what the reference points to.
    match unsafe { libc::tcsetattr(libc::STDIN_FILENO, libc::TCSANOW, to) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Puts the terminal back as it was found, if it is changed and still ours. Takes no lock: handlers of
/// signals call it.
pub fn restore_terminal() {
    // SAFETY: it is null, or was leaked and is never written to.
    let found = unsafe { FOUND.load(SeqCst).as_ref() };
    if let Some(found) = found
        && is_ours()
    {
        // The terminal may be gone: then there is nothing to put back.
        let _ = change(found);
    }
}
