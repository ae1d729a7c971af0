//! System calls that the host puts off (EINTR, EAGAIN, EBUSY) are made again, but not for ever: who
//! waits for an answer is to get one.

use std::io;
use std::thread;
use std::time::Duration;

/// The pause before the third try; each is twice as long as the one before.
const FIRST_PAUSE: Duration = Duration::from_micros(50);
const LONGEST_PAUSE: Duration = Duration::from_millis(100);
/// All pauses together take about as long at most.
const PATIENCE: Duration = Duration::from_secs(1);

/// The tries of one request.
#[derive(Default)]
pub(super) struct Retries {
    pause: Duration,
    paused: Duration,
}

impl Retries {
    /// Pauses after a try that failed with `error`.
    ///
    /// # Errors
    /// `error`, if another try makes no sense any more.
    pub(super) fn pause_after(&mut self, error: io::Error) -> io::Result<()> {
        let is_put_off = matches!(
            error.kind(),
            io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock | io::ErrorKind::ResourceBusy
        );
        if !is_put_off || self.paused >= PATIENCE {
            return Err(error);
        }
        if self.pause.is_zero() {
            thread::yield_now();
        } else {
            thread::sleep(self.pause);
        }
        self.paused += self.pause;
        self.pause = (2 * self.pause).clamp(FIRST_PAUSE, LONGEST_PAUSE);
        Ok(())
    }

    /// A try has brought something: the next pause is a short one.
    pub(super) fn progress(&mut self) {
        self.pause = Duration::ZERO;
    }
}

/// What comes of `call`, which is made again where the host puts it off.
pub(super) fn patiently<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    let mut retries = Retries::default();
    loop {
        match call() {
            Err(error) => retries.pause_after(error)?,
            done => return done,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_put_off_for_ever_fails() {
        for number in [libc::EINTR, libc::EAGAIN, libc::EBUSY] {
            let mut tries = 0;
            let result: io::Result<()> = patiently(|| {
                tries += 1;
                Err(io::Error::from_raw_os_error(number))
            });
            assert_eq!(result.unwrap_err().raw_os_error(), Some(number));
            assert!((10..50).contains(&tries), "{tries} tries");
        }
    }

    #[test]
    fn what_is_put_off_for_a_while_is_done() {
        let mut tries = 0;
        let result = patiently(|| {
            tries += 1;
            match tries {
                8 => Ok(tries),
                _ => Err(io::ErrorKind::WouldBlock.into()),
            }
        });
        assert_eq!(result.unwrap(), 8);
    }

    #[test]
    fn other_errors_are_final() {
        let mut tries = 0;
        let result: io::Result<()> = patiently(|| {
            tries += 1;
            Err(io::Error::from_raw_os_error(libc::EIO))
        });
        assert_eq!(result.unwrap_err().raw_os_error(), Some(libc::EIO));
        assert_eq!(tries, 1);
    }
}
