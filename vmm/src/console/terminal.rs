//! The terminal while a guest has it: keys arrive one by one and are not echoed, for the guest
//! does that. Ctrl-C and Ctrl-Z keep their meaning for us.
//!
//! Whatever way the process ends, the terminal is put back as it was: at the guard's drop, and on
//! a panic by a hook, before the message is printed.

use std::io;
use std::panic;
use std::sync::{Mutex, PoisonError};

use nix::sys::termios::{
    LocalFlags, SetArg, SpecialCharacterIndices, Termios, tcgetattr, tcsetattr,
};
use nix::unistd::{getpgrp, tcgetpgrp};

/// The terminal as it was found, while it is changed.
static FOUND: Mutex<Option<Termios>> = Mutex::new(None);

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
        let found = tcgetattr(io::stdin())?;
        let mut changed = found.clone();
        changed
            .local_flags
            .remove(LocalFlags::ICANON | LocalFlags::ECHO);
        changed.control_chars[SpecialCharacterIndices::VMIN as usize] = 1;
        changed.control_chars[SpecialCharacterIndices::VTIME as usize] = 0;
        *FOUND.lock().unwrap_or_else(PoisonError::into_inner) = Some(found);
        let mode = CharacterMode(());
        tcsetattr(io::stdin(), SetArg::TCSANOW, &changed)?;
        Ok(Some(mode))
    }
}

impl Drop for CharacterMode {
    fn drop(&mut self) {
        restore();
    }
}

/// Is stdin a terminal, with us in its foreground?
fn is_ours() -> bool {
    tcgetpgrp(io::stdin()).is_ok_and(|foreground| foreground == getpgrp())
}

fn restore() {
    if let Some(found) = FOUND.lock().unwrap_or_else(PoisonError::into_inner).take() {
        // The terminal may be gone: then there is nothing to put back.
        let _ = tcsetattr(io::stdin(), SetArg::TCSANOW, &found);
    }
}

/// Puts the terminal back when any thread panics, before the message is printed.
pub fn restore_on_panic() {
    let print = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        restore();
        print(info);
    }));
}
