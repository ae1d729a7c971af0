//! COM1's output on stdout, byte for byte as the guest writes it.

use std::fs::File;
use std::io::{self, IsTerminal, Write};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use crate::power::{Power, Stop};
use crate::status_line;

/// How long to wait for a stdout that is non-blocking and full.
const RETRY: Duration = Duration::from_millis(1);

/// Stdout for a guest. It blocks the vCPU while nobody reads; a stop ends that. When the reader
/// goes away (`iolite run | head`) the machine is stopped, as a signal SIGPIPE would; it is stopped, too,
/// if what is written has no place any more.
pub struct Output {
    stdout: File,
    /// It is the terminal that a status line may be on.
    terminal: bool,
    power: Arc<Power>,
}

impl Output {
    /// Stdout for the machine with this power button.
    ///
    /// # Errors
    /// If stdout is closed.
    pub fn new(power: Arc<Power>) -> io::Result<Self> {
        // A descriptor of its own, without the standard library's buffer and lock.
        let stdout = File::from(io::stdout().as_fd().try_clone_to_owned()?);
        let terminal = stdout.is_terminal() && status_line::is_possible();
        Ok(Output {
            stdout,
            terminal,
            power,
        })
    }
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.terminal {
            let mut before = status_line::room_for(bytes).as_bytes();
            while !before.is_empty() {
                let written = self.put(before)?;
                before = &before[written..];
            }
        }
        self.put(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Output {
    fn put(&mut self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            let error = match self.stdout.write(bytes) {
                Ok(written) => return Ok(written),
                Err(error) => error,
            };
            match error.kind() {
                // A kick: if the machine stops, nobody waits for these bytes.
                io::ErrorKind::Interrupted if self.power.is_off() => {
                    return Err(io::ErrorKind::Other.into());
                }
                io::ErrorKind::Interrupted => {}
                io::ErrorKind::WouldBlock if self.power.is_off() => return Err(error),
                io::ErrorKind::WouldBlock => thread::sleep(RETRY),
                io::ErrorKind::BrokenPipe => {
                    self.power.stop(Stop::Signal(libc::SIGPIPE));
                    return Err(error);
                }
                _ => {
                    let seen = io::Error::from(error.kind());
                    self.power.stop(Stop::Console(error));
                    return Err(seen);
                }
            }
        }
    }
}
