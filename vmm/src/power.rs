//! How a machine ends: the first who says so is heard, and the main thread is woken.

use std::io;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use iolite_devices::power::PowerControl;
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use crate::crash::Crash;
use crate::error::Error;
use crate::exit_code::ExitCode;

/// Why a machine stops.
#[derive(Debug)]
pub enum Stop {
    /// The guest pulsed its reset line.
    Reset,
    /// The guest wrote this value to the exit port.
    ExitPort(u32),
    /// The vCPU cannot go on.
    Crash(Crash),
    /// A signal asked for it.
    Signal(i32),
    /// The time given to the guest is over.
    Timeout,
    /// The guest's console cannot be written.
    Console(io::Error),
    /// A thread of ours panicked.
    Panic,
}

impl Stop {
    /// How the process ends after it, where only the guest's own end is a success. `timeout` is what was
    /// given to the guest.
    ///
    /// # Errors
    /// What a user has to be told.
    pub fn exit_code(self, timeout: Option<Duration>) -> Result<ExitCode, Error> {
        match self {
            Stop::Reset => Ok(ExitCode::Clean),
            Stop::ExitPort(value) => Ok(ExitCode::Guest(value)),
            Stop::Signal(number) => Ok(ExitCode::Signal(number)),
            Stop::Crash(crash) => Err(Error::Crash(crash)),
            Stop::Timeout => Err(Error::Timeout(timeout.unwrap_or_default())),
            Stop::Console(error) => Err(Error::host(CANNOT_PRINT)(error)),
            Stop::Panic => Ok(ExitCode::Panic),
        }
    }
}

/// What is wrong when stdout takes nothing.
pub const CANNOT_PRINT: &str = "cannot write to stdout";

/// The machine's power button, shared by devices, the vCPU thread and the main thread.
pub struct Power {
    stop: Mutex<Option<Stop>>,
    /// Readable once there is a stop.
    event: EventFd,
}

impl Power {
    /// A machine that is on.
    ///
    /// # Errors
    /// If the system has no eventfd left.
    pub fn new() -> io::Result<Self> {
        Ok(Power {
            stop: Mutex::new(None),
            event: EventFd::new(EFD_CLOEXEC | EFD_NONBLOCK)?,
        })
    }

    /// Asks for a stop. The first reason stays.
    pub fn stop(&self, reason: Stop) {
        let mut stop = self.lock();
        if stop.is_some() {
            return;
        }
        let why = format!("{reason:?}");
        *stop = Some(reason);
        drop(stop);
        log::debug!("stop: {why}");
        // It only fails when the counter is full: then it is readable already.
        let _ = self.event.write(1);
    }

    /// Has somebody asked for a stop?
    pub fn is_off(&self) -> bool {
        self.lock().is_some()
    }

    /// The reason of the stop, once.
    pub fn take(&self) -> Option<Stop> {
        self.lock().take()
    }

    /// The eventfd that becomes readable with the first stop and stays so.
    pub fn event(&self) -> &EventFd {
        &self.event
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Stop>> {
        self.stop.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl PowerControl for Power {
    fn reset(&self) {
        self.stop(Stop::Reset);
    }

    fn exit(&self, value: u32) {
        self.stop(Stop::ExitPort(value));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_reason_stays() {
        let power = Power::new().unwrap();
        assert!(!power.is_off());
        assert!(power.event().read().is_err());
        power.exit(7);
        power.reset();
        power.stop(Stop::Signal(15));
        assert!(power.is_off());
        assert!(power.event().read().is_ok());
        assert!(matches!(power.take(), Some(Stop::ExitPort(7))));
    }
}
