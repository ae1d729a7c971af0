//! A machine whose processor QEMU lends, for hosts without KVM: QEMU's TCG runs the guest's
//! instructions, its microvm has our serial port and exit port, and every disk is our own device, served
//! from this process over vhost-user.
//!
//! ```text
//! this process                                    QEMU's process
//!   disks: vhost_user::Server <-- socket pair -->  virtio-mmio windows
//!   guest memory (a memfd)    <-- descriptor -->   RAM
//!   console, stdin            <-- pipes -->        COM1
//!   process: its end is the machine's              exit port, reset
//! ```
//!
//! `command` is QEMU's command line, `process` its life.

mod command;
mod keyboard;
mod process;

use std::env;
use std::path::Path;

pub use command::{MAX_DISKS, Machine};
pub use keyboard::Typed;
pub use process::{Lent, Running};

/// What is run.
pub const PROGRAM: &str = "qemu-system-x86_64";

/// Is it in PATH?
pub fn is_installed() -> bool {
    let is_there = |directory: &Path| directory.join(PROGRAM).is_file();
    env::var_os("PATH").is_some_and(|paths| env::split_paths(&paths).any(|path| is_there(&path)))
}
