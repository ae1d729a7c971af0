//! Log lines that a guest can cause: a few a second, however many disks and queues it has.
//!
//! The devices of a machine share a [`Budget`]. What it does not allow is counted by device, and the
//! next line says how much that was, and whose. A device that was not heard of for some time has a
//! right to a line where one that complains all the time has used up the others.

use std::fmt::{self, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use log::Level;

use crate::lines::Lines;

/// How many lines a second pass, whoever they are of.
const LINES: u32 = 5;
/// How many more pass of devices that were silent for [`SILENCE`].
const RESERVE: u32 = 5;
const WINDOW: Duration = Duration::from_secs(1);
const SILENCE: Duration = Duration::from_secs(10);

/// How much the devices of a machine may say together about what their guest does wrong.
#[derive(Clone, Debug, Default)]
pub struct Budget(Arc<Mutex<Account>>);

#[derive(Debug, Default)]
struct Account {
    /// When the second began in which as many lines have passed.
    start: Option<Instant>,
    passed: u32,
    reserve_used: u32,
    devices: Vec<Device>,
}

#[derive(Debug)]
struct Device {
    name: String,
    heard: Option<Instant>,
    left_out: u64,
}

/// A device's share of a budget.
#[derive(Clone, Debug)]
pub(crate) struct Throttle {
    budget: Budget,
    device: usize,
}

impl Budget {
    /// The share of the device called `name`; all who ask in one name share it.
    pub(crate) fn share(&self, name: &str) -> Throttle {
        let mut account = self.lock();
        let known = account.devices.iter().position(|known| known.name == name);
        let device = known.unwrap_or_else(|| {
            account.devices.push(Device {
                name: name.to_owned(),
                heard: None,
                left_out: 0,
            });
            account.devices.len() - 1
        });
        Throttle {
            budget: self.clone(),
            device,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Account> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Throttle {
    /// Adds `line` to `lines` as a warning of `module`, the caller's `module_path!()`, if it may be
    /// written.
    #[cold]
    pub(crate) fn warn(&self, lines: &mut Lines, module: &'static str, line: fmt::Arguments<'_>) {
        if let Some(before) = self.pass(Instant::now()) {
            lines.add(Level::Warn, module, format_args!("{line}{before}"));
        }
    }

    /// Whether a line may be written, and if so what it is to say of those that were not.
    fn pass(&self, now: Instant) -> Option<String> {
        let mut account = self.budget.lock();
        let passes = account.allows(self.device, now);
        let device = account.devices.get_mut(self.device)?;
        if !passes {
            device.left_out += 1;
            return None;
        }
        device.heard = Some(now);
        let left_out = account.take_left_out();
        Some(left_out.map_or_else(String::new, |them| format!(" ({them})")))
    }
}

impl Account {
    fn allows(&mut self, device: usize, now: Instant) -> bool {
        let start = *self.start.get_or_insert(now);
        if now.saturating_duration_since(start) >= WINDOW {
            (self.start, self.passed, self.reserve_used) = (Some(now), 0, 0);
        }
        if self.passed < LINES {
            self.passed += 1;
            return true;
        }
        let heard = self.devices.get(device).and_then(|device| device.heard);
        let silent = heard.is_none_or(|at| now.saturating_duration_since(at) >= SILENCE);
        let passes = silent && self.reserve_used < RESERVE;
        self.reserve_used += u32::from(passes);
        passes
    }

    /// How many lines were left out, and whose, if there are any; from now on there are none.
    fn take_left_out(&mut self) -> Option<String> {
        let mut each = String::new();
        for device in self.devices.iter_mut().filter(|it| it.left_out > 0) {
            let count = std::mem::take(&mut device.left_out);
            let comma = if each.is_empty() { "" } else { ", " };
            // Writing to a string does not fail.
            let _ = write!(each, "{comma}{count} of {}", device.name);
        }
        (!each.is_empty()).then(|| format!("lines left out: {each}"))
    }
}

/// What nobody has been told yet, the user is told at the end of the machine.
impl Drop for Account {
    fn drop(&mut self) {
        if let Some(left_out) = self.take_left_out() {
            log::warn!("{left_out}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn a_storm_passes_as_a_few_lines() {
        let budget = Budget::default();
        let (one, start) = (budget.share("vda"), Instant::now());
        let passed = (0..10_000).filter(|_| one.pass(start).is_some()).count();
        assert_eq!(passed, LINES as usize);
    }

    #[test]
    fn many_devices_share_the_lines_and_none_is_silenced() {
        let (budget, start) = (Budget::default(), Instant::now());
        let devices: Vec<_> = (0..20).map(|n| budget.share(&format!("vd{n}"))).collect();
        let mut heard = [0; 20];
        for second in 0..60 {
            let before: u32 = heard.iter().sum();
            for ms in 0..1000 {
                for (device, heard) in devices.iter().zip(&mut heard) {
                    let now = start + (1000 * second + ms) * MS;
                    *heard += u32::from(device.pass(now).is_some());
                }
            }
            let lines = heard.iter().sum::<u32>() - before;
            assert!(lines <= LINES + RESERVE, "{lines} lines in a second");
            let silent = heard.contains(&0);
            assert!(second < 4 || !silent, "{heard:?}");
        }
    }

    #[test]
    fn what_was_left_out_is_counted_for_each_device() {
        let (budget, start) = (Budget::default(), Instant::now());
        let [a, b] = ["vda", "vdb"].map(|name| budget.share(name));
        for _ in 0..LINES {
            assert_eq!(a.pass(start).as_deref(), Some(""));
        }
        assert_eq!(a.pass(start), None);
        let said = " (lines left out: 1 of vda)";
        assert_eq!(b.pass(start).as_deref(), Some(said), "it was never heard");
        for throttle in [&b, &a, &b] {
            assert_eq!(throttle.pass(start + 999 * MS), None);
        }
        // All who ask in a name are one.
        let again = budget.share("vda").pass(start + WINDOW);
        let said = " (lines left out: 1 of vda, 2 of vdb)";
        assert_eq!(again.as_deref(), Some(said));
        assert_eq!(a.pass(start + WINDOW).as_deref(), Some(""));
    }

    #[test]
    fn a_device_that_was_silent_is_heard_in_the_storm_of_another() {
        let (budget, start) = (Budget::default(), Instant::now());
        let [storm, other] = ["vda", "vdb"].map(|name| budget.share(name));
        let storm = |now| while storm.pass(now).is_some() {};
        for (ms, heard) in [(0, true), (1, false), (9000, false), (10_000, true)] {
            let now = start + ms * MS;
            storm(now);
            assert_eq!(other.pass(now).is_some(), heard, "after {ms} ms");
        }
    }
}
