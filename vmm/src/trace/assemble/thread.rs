//! A thread of the guest while its life is followed: what it does, what it waits for.

use super::lanes::Lanes;
use crate::trace::model::{Category, Name, Names};

/// Numbers of threads are used again: each life has a lane of its own, whose number is this far
/// from that of the last.
const LIFE: u32 = 1 << 16;

pub struct Thread {
    /// None if there was no room.
    pub lane: Option<u16>,
    /// How many had its number before.
    pub lives: u32,
    pub has_run: bool,
    /// Its process; 0 for one of the kernel's own.
    pub process: u32,
    /// What it does while it is on the processor, and since when.
    pub doing: Option<(Category, u64)>,
    pub call: Option<Call>,
    /// Since when it does not run, in a call.
    pub waiting: Option<u64>,
    /// The request that it has been woken for.
    pub woken_for: Option<usize>,
    /// The requests of its own driver that it has been woken for.
    pub told: Vec<usize>,
    /// The one that it has come back from, until it is back in its program.
    pub served: Option<usize>,
}

pub struct Call {
    pub name: Name,
    /// It is a page fault.
    pub fault: bool,
    /// The address of the fault, or the first argument.
    pub place: u64,
    pub since: u64,
    /// The beginning of the next request: the call's own, or the last event of the one before.
    pub asked: u64,
}

impl Thread {
    /// A thread of which only this is known.
    pub fn new(lane: Option<u16>, lives: u32, process: u32) -> Thread {
        Thread {
            lane,
            lives,
            process,
            has_run: false,
            doing: None,
            call: None,
            waiting: None,
            woken_for: None,
            told: Vec::new(),
            served: None,
        }
    }

    /// A lane for the life of a thread with this number, of which there were so many before.
    pub fn lane(number: u16, lives: u32, name: &str, lanes: &mut Lanes) -> Option<u16> {
        // It stays below the number of the processor: there are not that many lanes.
        let tid = lives.saturating_mul(LIFE).saturating_add(number.into());
        lanes.thread(tid, name)
    }

    pub fn end(&mut self, at: u64, lanes: &mut Lanes, names: &mut Names) {
        self.pause(at, lanes, names);
        self.end_wait(at, lanes, names);
        self.end_call(at, lanes);
    }

    pub fn pause(&mut self, at: u64, lanes: &mut Lanes, names: &mut Names) {
        let Some((category, since)) = self.doing.take() else {
            return;
        };
        match category {
            Category::Program => lanes.slice(self.lane, category, names.ours("program"), since, at),
            // In a call the call's own slice says it.
            _ if self.call.is_none() && self.process == 0 => {
                lanes.slice(self.lane, category, names.ours("kernel"), since, at);
            }
            _ => {}
        }
    }

    pub fn end_wait(&mut self, at: u64, lanes: &mut Lanes, names: &mut Names) {
        if let Some(since) = self.waiting.take() {
            lanes.slice(self.lane, Category::Wait, names.ours("waits"), since, at);
        }
    }

    pub fn end_call(&mut self, at: u64, lanes: &mut Lanes) {
        if let Some(call) = self.call.take() {
            let span = (call.since, at);
            lanes.slice_at(Some(call.place), self.lane, Category::Call, call.name, span);
        }
    }
}
