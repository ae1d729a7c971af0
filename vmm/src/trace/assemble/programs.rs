//! The events of programs: drivers and servers in ring 3, and their clients.
//!
//! ```text
//!   client   SEND n ....................................... COLLECT m
//!   server          RECEIVE n, ADD ... HARVEST, ANSWER m
//! ```
//!
//! A request is number n of its channel, and has answer m; between ADD and HARVEST its disk and head
//! name it, as they do for the kernel's. What a program says counts only while one of its threads
//! runs, and of disks only about those that were lent to it: who lies spoils nobody's requests but
//! those of its own channels and disks.

use std::collections::HashMap;

use super::path;
use super::requests::{MOST_PENDING, Requests};
use crate::trace::model::{Key, Moment, Names, Request};
use crate::trace::raw::GuestEvent;
use iolite_devices_abi::trace::{PROGRAM_RINGS, kind, purpose};

/// A thread that runs while an event is written.
#[derive(Clone, Copy)]
pub struct Writer {
    /// Its number.
    pub thread: u16,
    /// Its process.
    pub process: u32,
    /// Its lane, if it has one.
    pub lane: Option<u16>,
}

/// A request or an answer of a channel.
type Numbered = (u32, u64);

#[derive(Default)]
pub struct Programs {
    /// Ring by ring, the process that writes to it.
    writers: HashMap<u32, u32>,
    /// Disk by disk, the process that drives it.
    drivers: HashMap<u8, u32>,
    sent: HashMap<Numbered, (u64, Writer)>,
    received: HashMap<Numbered, (u64, Writer)>,
    /// Requests of clients that the disk has given back, and who the client is.
    clients: HashMap<usize, Writer>,
    harvested: HashMap<Key, usize>,
    answers: HashMap<Numbered, (usize, Writer)>,
    /// By the client's thread, what was answered since it was woken last.
    answered: HashMap<u16, Vec<usize>>,
}

impl Programs {
    /// The kernel says who writes to a ring.
    pub fn writer(&mut self, ring: u32, process: u16) {
        if ring <= PROGRAM_RINGS as u32 {
            self.writers.insert(ring, process.into());
        }
    }

    /// The kernel says who drives a disk.
    pub fn lend(&mut self, disk: u8, process: u16) {
        self.drivers.insert(disk, process.into());
    }

    /// A program has written `event` while `by` ran.
    pub fn event(
        &mut self,
        at: u64,
        event: &GuestEvent,
        by: Writer,
        names: &mut Names,
        requests: &mut Requests,
    ) {
        if self.writers.get(&event.ring.into()) != Some(&by.process) {
            return;
        }
        let (disk, queue) = super::queue(event);
        let drives = self.drivers.get(&disk) == Some(&by.process);
        let key = (disk, queue, event.a);
        let numbered = (event.b, event.c);
        match event.kind {
            kind::SEND => insert(&mut self.sent, numbered, (at, by)),
            kind::RECEIVE => insert(&mut self.received, numbered, (at, by)),
            kind::ADD if drives => self.add(at, event, by, names, requests),
            kind::NOTIFY if drives => requests.notified((disk, queue), at),
            kind::HARVEST if drives => {
                if let Some(index) = requests.harvested(key, 0, at) {
                    insert(&mut self.harvested, key, index);
                }
            }
            kind::ANSWER if drives => self.answer(at, key, event, requests),
            kind::COLLECT => {
                if let Some((index, client)) = self.answers.get(&numbered)
                    && client.process == by.process
                {
                    requests.at(*index).set(Moment::Collected, at);
                    self.answers.remove(&numbered);
                }
            }
            _ => {}
        }
    }

    fn add(
        &mut self,
        at: u64,
        event: &GuestEvent,
        by: Writer,
        names: &mut Names,
        requests: &mut Requests,
    ) {
        let (disk, queue) = super::queue(event);
        let mut request = Request::new((disk, queue, event.a), names.ours(path::DRIVER));
        request.server = by.lane;
        request.asker = by.lane;
        request.set(Moment::Added, at);
        let mut client = None;
        if super::purpose(event) == purpose::SERVER {
            request.path = names.ours(path::SERVER);
            let numbered = (event.c as u32, event.d);
            let received = self.received.get(&numbered).copied();
            let received = received.filter(|(_, server)| server.process == by.process);
            if let Some((taken, _)) = received
                && let Some((sent, asker)) = self.sent.remove(&numbered)
            {
                self.received.remove(&numbered);
                request.asker = asker.lane;
                request.set(Moment::Asked, sent);
                request.set(Moment::Taken, taken);
                client = Some(asker);
            }
        }
        let index = requests.added(request);
        if let (Some(client), Some(index)) = (client, index) {
            insert(&mut self.clients, index, client);
        }
    }

    fn answer(&mut self, at: u64, key: Key, event: &GuestEvent, requests: &mut Requests) {
        let index = self.harvested.remove(&key);
        let known = index.and_then(|index| Some((index, self.clients.remove(&index)?)));
        let Some((index, client)) = known else {
            return;
        };
        requests.at(index).set(Moment::Answered, at);
        insert(
            &mut self.answers,
            (event.c as u32, event.d),
            (index, client),
        );
        let answered = self.answered.entry(client.thread).or_default();
        if answered.len() == MOST_PENDING {
            answered.clear();
        }
        answered.push(index);
    }

    /// A thread is woken: for which requests of its own, if it is a client?
    pub fn woken(&mut self, thread: u16, requests: &mut Requests) -> Vec<usize> {
        let mut answered = self.answered.remove(&thread).unwrap_or_default();
        answered.retain(|index| requests.at(*index).when(Moment::Collected).is_none());
        answered
    }
}

/// A list that nobody empties belongs to programs that leave out half of their events.
fn insert<K: Eq + std::hash::Hash, V>(map: &mut HashMap<K, V>, key: K, value: V) {
    if map.len() == MOST_PENDING {
        map.clear();
    }
    map.insert(key, value);
}
