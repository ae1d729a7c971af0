//! The host's events: what its threads did, and what became of requests there.

use super::lanes::Lanes;
use super::requests::Requests;
use crate::trace::model::{Category, Key, Moment, Name, Names, Op};
use iolite_devices::trace::{Event, Point, exit, operation};

pub struct Host {
    threads: Vec<Thread>,
}

struct Thread {
    name: String,
    /// Its lane, once it has one.
    lane: Option<u16>,
    /// What it is doing.
    doing: Option<Doing>,
}

#[derive(Clone, Copy)]
struct Doing {
    since: u64,
    category: Category,
    name: Name,
    /// For a request.
    request: Option<Key>,
    /// The register or port of an exit.
    place: Option<u64>,
}

impl Host {
    pub fn new(threads: &[String]) -> Host {
        let thread = |name: &String| Thread {
            name: name.clone(),
            lane: None,
            doing: None,
        };
        Host {
            threads: threads.iter().map(thread).collect(),
        }
    }

    pub fn event(
        &mut self,
        at: u64,
        number: u16,
        event: &Event,
        lanes: &mut Lanes,
        names: &mut Names,
        requests: &mut Requests,
    ) {
        let Some(thread) = self.threads.get_mut(usize::from(number)) else {
            return;
        };
        let queue = (event.disk, event.queue);
        let key = (event.disk, event.queue, event.head);
        match event.point {
            Point::Notified => requests.received(queue, at),
            Point::Popped => requests.popped(key, thread.lane(number, lanes), at),
            Point::Parsed => {
                if let Some(request) = requests.get(key) {
                    request.set(Moment::Parsed, at);
                    request.op = op((event.b >> 56) as u8);
                    request.sector = event.a / 512;
                    request.bytes = event.b as u32;
                }
            }
            Point::Begun => {
                let lane = thread.lane(number, lanes);
                let (category, mut name) = (Category::Backend, names.ours("request"));
                if let Some(request) = requests.get(key) {
                    request.set(Moment::Begun, at);
                    request.worker = Some(lane);
                    name = names.ours(op_name(request.op));
                }
                let request = Some(key);
                thread.begin(at, category, name, request, None);
            }
            Point::Ended => {
                requests.set(key, Moment::Ended, at);
                // Some engines end elsewhere, or after they have begun others: then there was no
                // one thing that this thread did.
                let same = |doing: &Doing| doing.request == Some(key);
                if thread.doing.as_ref().is_some_and(same) {
                    thread.finish(at, lanes);
                }
            }
            Point::Released => {
                // The delay counts as the backend's time.
                if let Some(request) = requests.get(key) {
                    request.at[Moment::Ended as usize] = at;
                }
            }
            Point::Used => requests.used(key, event.a as u8, at),
            Point::Interrupted => requests.signalled(queue, at),
            Point::Suppressed => requests.suppressed(queue),
            Point::Entered => {
                thread.finish(at, lanes);
                thread.begin(at, Category::Guest, names.ours("guest"), None, None);
                thread.lane(number, lanes);
            }
            Point::Exited => {
                thread.finish(at, lanes);
                let name = names.ours(exit_name(event.a));
                let somewhere = event.a != exit::OTHER && event.a != exit::SIGNAL;
                let place = somewhere.then_some(event.b);
                thread.begin(at, Category::Exit, name, None, place);
            }
        }
    }

    /// The trace ends: so does what is being done, as far as it can be seen.
    pub fn end(&mut self, at: u64, lanes: &mut Lanes) {
        for thread in &mut self.threads {
            thread.finish(at, lanes);
        }
    }
}

impl Thread {
    fn lane(&mut self, number: u16, lanes: &mut Lanes) -> u16 {
        let name = &self.name;
        *self
            .lane
            .get_or_insert_with(|| lanes.host(u32::from(number) + 1, name))
    }

    fn begin(
        &mut self,
        since: u64,
        category: Category,
        name: Name,
        request: Option<Key>,
        place: Option<u64>,
    ) {
        self.doing = Some(Doing {
            since,
            category,
            name,
            request,
            place,
        });
    }

    fn finish(&mut self, at: u64, lanes: &mut Lanes) {
        if let (Some(doing), Some(_)) = (self.doing.take(), self.lane) {
            let span = (doing.since, at);
            lanes.slice_at(doing.place, self.lane, doing.category, doing.name, span);
        }
    }
}

fn op(number: u8) -> Op {
    match number {
        operation::READ => Op::Read,
        operation::WRITE => Op::Write,
        operation::FLUSH => Op::Flush,
        operation::DISCARD => Op::Discard,
        _ => Op::Other,
    }
}

/// What a request of this kind is called.
pub fn op_name(op: Op) -> &'static str {
    match op {
        Op::Read => "read",
        Op::Write => "write",
        Op::Flush => "flush",
        Op::Discard => "discard",
        Op::Other => "other",
    }
}

fn exit_name(reason: u64) -> &'static str {
    match reason {
        exit::PORT_IN => "port read",
        exit::PORT_OUT => "port write",
        exit::MMIO_READ => "MMIO read",
        exit::MMIO_WRITE => "MMIO write",
        exit::SIGNAL => "signal",
        _ => "exit",
    }
}
