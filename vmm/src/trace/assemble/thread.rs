//! A thread of the guest while its life is followed: what it does, what it waits for.

use super::lanes::Lanes;
use crate::trace::model::{Category, Group, Name, Names};

/// Numbers of threads are used again: each life has a lane of its own, this far from the last.
const LIFE: u32 = 1000;

pub struct Thread {
    pub lane: u16,
    /// How many had its number before.
    pub lives: u16,
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
    pub fn new(number: u16, lives: u16, process: u32, name: &str, lanes: &mut Lanes) -> Thread {
        let tid = u32::from(number) + u32::from(lives) * LIFE;
        Thread {
            lane: lanes.lane(Group::Guest, tid, name),
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
            Category::Program => lanes.slice(self.lane, category, names.of("program"), since, at),
            // In a call the call's own slice says it.
            _ if self.call.is_none() && self.process == 0 => {
                lanes.slice(self.lane, category, names.of("kernel"), since, at);
            }
            _ => {}
        }
    }

    pub fn end_wait(&mut self, at: u64, lanes: &mut Lanes, names: &mut Names) {
        if let Some(since) = self.waiting.take() {
            lanes.slice(self.lane, Category::Wait, names.of("waits"), since, at);
        }
    }

    pub fn end_call(&mut self, at: u64, lanes: &mut Lanes) {
        if let Some(call) = self.call.take() {
            let span = (call.since, at);
            lanes.slice_at(Some(call.place), self.lane, Category::Call, call.name, span);
        }
    }
}
