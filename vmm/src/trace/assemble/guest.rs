//! The guest's events: who runs, in ring 3 or in the kernel, who asks, and who is told.

use std::collections::HashMap;

use super::bounds::MOST_NAMES;
use super::lanes::Lanes;
use super::path::{self, Asker};
use super::programs::{Programs, Writer};
use super::queue;
use super::requests::Requests;
use super::thread::{Call, Thread};
use crate::trace::model::{Category, Key, Moment, Name, Names, Request};
use crate::trace::raw::GuestEvent;
use iolite_devices_abi::machine::VIRTIO_MMIO_FIRST_IRQ;
use iolite_devices_abi::trace::{ask, kind, purpose};

#[derive(Default)]
pub struct Guest {
    threads: HashMap<u16, Thread>,
    /// The thread that runs, or ran last.
    current: Option<u16>,
    calls: HashMap<u32, String>,
    /// What processes are called.
    process_names: HashMap<u32, String>,
    /// What the processor does, and since when.
    running: Option<(Category, Name, u64)>,
    /// Since when an interrupt is being handled.
    interrupt: Option<u64>,
    /// When the last interrupt came.
    last_interrupt: u64,
    /// The request harvested last: who is woken now, is woken for it.
    harvested: Option<usize>,
    /// The requests of a driver in ring 3 that the interrupt is for.
    told: Vec<usize>,
    programs: Programs,
    /// How often there was no room.
    pub refused: u64,
}

/// The process of a thread whose name was not seen.
const UNKNOWN: u32 = u32::MAX;

impl Guest {
    pub fn event(
        &mut self,
        at: u64,
        event: &GuestEvent,
        lanes: &mut Lanes,
        names: &mut Names,
        requests: &mut Requests,
    ) {
        if event.ring > 0 {
            return self.of_program(at, event, names, requests);
        }
        match event.kind {
            kind::RUN => self.run(at, event.a, lanes, names, requests),
            kind::IDLE => self.idle(at, lanes, names),
            kind::ENTER => self.enter(at, event, lanes, names),
            kind::LEAVE => self.leave(at, lanes, names, requests),
            kind::ADD => self.add(at, event, names, requests),
            kind::NOTIFY => requests.notified(queue(event), at),
            kind::INTERRUPT => {
                self.end_interrupt(at, lanes, names);
                self.interrupt = Some(at);
                self.last_interrupt = at;
                let disk = event.b.wrapping_sub(VIRTIO_MMIO_FIRST_IRQ);
                self.told = requests.interrupted(disk as u8, at);
                self.pause(at, lanes, names);
            }
            kind::HARVEST => {
                self.harvested = requests.harvested(key(event), self.last_interrupt, at);
            }
            kind::WAKE => self.wake(at, event.a, lanes, requests),
            kind::NAME => self.name(at, event, lanes, names),
            kind::CALL_NAME => {
                self.refused += u64::from(!insert(&mut self.calls, event.b, event.text()));
            }
            kind::LEND => self.programs.lend(event.b as u8, event.a),
            kind::WRITER => self.programs.writer(event.b, event.a),
            _ => {}
        }
    }

    /// The trace ends: so does what is being done, as far as it can be seen.
    pub fn end(&mut self, at: u64, lanes: &mut Lanes, names: &mut Names) {
        self.end_interrupt(at, lanes, names);
        self.end_running(at, lanes);
        for thread in self.threads.values_mut() {
            thread.end(at, lanes, names);
        }
    }

    /// A program has written it: the one that runs.
    fn of_program(
        &mut self,
        at: u64,
        event: &GuestEvent,
        names: &mut Names,
        requests: &mut Requests,
    ) {
        let Some(number) = self.current else { return };
        if let Some(thread) = self.threads.get(&number) {
            let writer = Writer {
                thread: number,
                process: thread.process,
                lane: thread.lane,
            };
            self.programs.event(at, event, writer, names, requests);
        }
    }

    fn run(
        &mut self,
        at: u64,
        number: u16,
        lanes: &mut Lanes,
        names: &mut Names,
        requests: &mut Requests,
    ) {
        self.end_interrupt(at, lanes, names);
        self.end_running(at, lanes);
        if self.current != Some(number) {
            self.stop_current(at, lanes, names);
        }
        self.current = Some(number);
        let thread = self.thread(number, lanes);
        thread.has_run = true;
        thread.end_wait(at, lanes, names);
        thread.doing.get_or_insert((Category::Kernel, at));
        for index in thread.told.drain(..) {
            requests.at(index).set(Moment::Running, at);
        }
        if let Some(index) = thread.woken_for.take() {
            requests.at(index).set(Moment::Running, at);
            if let Some(call) = &mut thread.call {
                call.asked = at;
                thread.served = Some(index);
            }
        }
        let lane = thread.lane;
        let name = names.of(lanes.name(lane));
        self.running = Some((Category::Run, name, at));
    }

    fn idle(&mut self, at: u64, lanes: &mut Lanes, names: &mut Names) {
        self.end_interrupt(at, lanes, names);
        if matches!(self.running, Some((Category::Idle, ..))) {
            return;
        }
        self.end_running(at, lanes);
        self.stop_current(at, lanes, names);
        self.running = Some((Category::Idle, names.ours("idle"), at));
    }

    fn enter(&mut self, at: u64, event: &GuestEvent, lanes: &mut Lanes, names: &mut Names) {
        self.end_interrupt(at, lanes, names);
        let name = match event.a {
            ask::FAULT => names.ours("page fault"),
            _ => match self.calls.get(&event.b) {
                Some(text) => names.of(text),
                None => names.of(&format!("call {}", event.b)),
            },
        };
        if let Some(thread) = self.current.and_then(|n| self.threads.get_mut(&n)) {
            thread.end(at, lanes, names);
            thread.served = None;
            thread.call = Some(Call {
                name,
                fault: event.a == ask::FAULT,
                place: event.c,
                since: at,
                asked: at,
            });
        }
    }

    fn leave(&mut self, at: u64, lanes: &mut Lanes, names: &mut Names, requests: &mut Requests) {
        self.end_interrupt(at, lanes, names);
        if let Some(thread) = self.current.and_then(|n| self.threads.get_mut(&n)) {
            thread.pause(at, lanes, names);
            thread.end_wait(at, lanes, names);
            thread.end_call(at, lanes);
            thread.doing = Some((Category::Program, at));
            if let Some(index) = thread.served.take() {
                requests.at(index).set(Moment::Returned, at);
            }
        }
    }

    fn add(&mut self, at: u64, event: &GuestEvent, names: &mut Names, requests: &mut Requests) {
        let purpose = super::purpose(event);
        let mut request = Request::new(key(event), Name::default());
        request.waited_for = matches!(purpose, purpose::WAIT | purpose::PAGE);
        request.set(Moment::Added, at);
        // What an interrupt submits is not the doing of the thread that it interrupted.
        let asker = self.current.filter(|_| self.interrupt.is_none());
        let thread = asker.and_then(|number| self.threads.get_mut(&number));
        let is_of_thread = thread.is_some();
        let call = thread.and_then(|thread| {
            request.asker = thread.lane;
            thread.served = None;
            thread.call.as_mut()
        });
        let asker = match &call {
            Some(call) if call.fault => Asker::Fault,
            Some(call) => Asker::Call(names.text(call.name)),
            None if is_of_thread => Asker::Kernel,
            None => Asker::Nobody,
        };
        request.path = names.ours(path::of(purpose, &asker));
        if let Some(call) = call {
            request.set(Moment::Asked, call.asked);
            call.asked = at;
        }
        requests.added(request);
    }

    /// A thread has a name. If its number has had another life before, that one ends.
    fn name(&mut self, at: u64, event: &GuestEvent, lanes: &mut Lanes, names: &mut Names) {
        let (number, process) = (event.a, event.b);
        let (lives, lane) = match self.threads.get_mut(&number) {
            Some(thread) if thread.has_run => {
                thread.end(at, lanes, names);
                (thread.lives + 1, None)
            }
            Some(thread) => (thread.lives, Some(thread.lane)),
            None => (0, None),
        };
        let text = event.text();
        if !text.is_empty() {
            self.refused += u64::from(!insert(&mut self.process_names, process, text));
        }
        let name = match (process, self.process_names.get(&process)) {
            (0, None) => format!("kernel thread {number}"),
            (0, Some(text)) => format!("{text}, thread {number}"),
            (_, None) => format!("process {process}, thread {number}"),
            (_, Some(text)) => format!("{text} [{process}], thread {number}"),
        };
        let lane = lane.unwrap_or_else(|| Thread::lane(number, lives, &name, lanes));
        lanes.rename(lane, &name);
        self.threads
            .insert(number, Thread::new(lane, lives, process));
    }

    fn wake(&mut self, at: u64, number: u16, lanes: &mut Lanes, requests: &mut Requests) {
        // Somebody else than an interrupt wakes for reasons of its own.
        let harvested = self.harvested.filter(|_| self.interrupt.is_some());
        let mut told = std::mem::take(&mut self.told);
        told.extend(self.programs.woken(number, requests));
        let thread = self.thread(number, lanes);
        if let Some(index) = harvested {
            let request = requests.at(index);
            if request.waited_for && request.asker.is_some() && request.asker == thread.lane {
                request.set(Moment::Woken, at);
                thread.woken_for = Some(index);
            }
        }
        for index in &told {
            requests.at(*index).set(Moment::Woken, at);
        }
        thread.told.extend(told);
    }

    fn thread(&mut self, number: u16, lanes: &mut Lanes) -> &mut Thread {
        self.threads.entry(number).or_insert_with(|| {
            let lane = Thread::lane(number, 0, &format!("thread {number}"), lanes);
            Thread::new(lane, 0, UNKNOWN)
        })
    }

    /// The thread on the processor does not go on with what it did.
    fn pause(&mut self, at: u64, lanes: &mut Lanes, names: &mut Names) {
        if let Some(thread) = self.current.and_then(|n| self.threads.get_mut(&n)) {
            thread.pause(at, lanes, names);
        }
    }

    /// The thread on the processor makes place.
    fn stop_current(&mut self, at: u64, lanes: &mut Lanes, names: &mut Names) {
        if let Some(thread) = self.current.and_then(|n| self.threads.get_mut(&n)) {
            thread.pause(at, lanes, names);
            if thread.call.is_some() {
                thread.waiting.get_or_insert(at);
            }
        }
    }

    fn end_interrupt(&mut self, at: u64, lanes: &mut Lanes, names: &mut Names) {
        if let Some(since) = self.interrupt.take() {
            let lane = lanes.processor();
            let name = names.ours("interrupt");
            lanes.slice(Some(lane), Category::Interrupt, name, since, at);
        }
        self.harvested = None;
        self.told.clear();
    }

    fn end_running(&mut self, at: u64, lanes: &mut Lanes) {
        if let Some((category, name, since)) = self.running.take() {
            let lane = lanes.processor();
            lanes.slice(Some(lane), category, name, since, at);
        }
    }
}

/// Remembers a name, if there is room.
fn insert(names: &mut HashMap<u32, String>, of: u32, text: String) -> bool {
    let room = names.len() < MOST_NAMES || names.contains_key(&of);
    if room {
        names.insert(of, text);
    }
    room
}

/// The request that an event names.
fn key(event: &GuestEvent) -> Key {
    let (disk, queue) = queue(event);
    (disk, queue, event.a)
}
