//! Panics: mistakes of ours. One that ends a thread ends the machine in order, and the process has an
//! exit code for it. (One in a back end costs its request an error, and nothing else: the devices catch
//! it.)

use std::panic::{self, PanicHookInfo};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread;

use crate::{logging, signals};

static HAPPENED: AtomicBool = AtomicBool::new(false);

/// From now on panics are lines among those of the log, and those of the devices' threads end the machine.
pub fn watch() {
    panic::set_hook(Box::new(say));
    iolite_devices::thread::on_panic(happened);
}

fn say(info: &PanicHookInfo<'_>) {
    let thread = thread::current();
    let name = thread.name().unwrap_or("without a name");
    let payload = info.payload();
    let text = payload.downcast_ref::<&str>().copied();
    let text = text.or(payload.downcast_ref::<String>().map(String::as_str));
    let message = text.unwrap_or("no message");
    let place = info.location().map(|place| format!(" at {place}"));
    let place = place.unwrap_or_default();
    logging::line(&format!(
        "iolite: thread {name} panicked{place}: {message} (please report this bug)"
    ));
}

/// `body`, for a new thread: if it panics, the machine ends.
pub fn telling<T>(body: impl FnOnce() -> T) -> impl FnOnce() -> T {
    move || {
        let _told = Tell;
        body()
    }
}

/// Dropped when a thread ends.
struct Tell;

impl Drop for Tell {
    fn drop(&mut self) {
        if thread::panicking() {
            happened();
        }
    }
}

/// A thread has ended by a panic.
pub fn happened() {
    HAPPENED.store(true, SeqCst);
    signals::wake();
}

/// Has any thread ended by a panic?
pub fn have_happened() -> bool {
    HAPPENED.load(SeqCst)
}
