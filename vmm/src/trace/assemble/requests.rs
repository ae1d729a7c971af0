//! The requests while they live: which one an event is about, and what it says of it.

use std::collections::HashMap;
use std::hash::Hash;

use super::bounds::MOST_UNSEEN;
use super::path;
use crate::trace::model::{Key, Moment, Name, Names, Request};

pub struct Requests {
    all: Vec<Request>,
    /// Those that have not been given back, by name.
    alive: HashMap<Key, usize>,
    /// Queue by queue, those that were added and not yet notified of.
    added: HashMap<(u8, u8), Vec<usize>>,
    /// Those that were notified of, or used, since the last event that concerns all such.
    notified: HashMap<(u8, u8), Vec<usize>>,
    used: HashMap<(u8, u8), Vec<usize>>,
    /// Disk by disk, those of a driver in ring 3 that it is to be interrupted for.
    signalled: HashMap<u8, Vec<usize>>,
    /// Queue by queue, when the device was notified last and has popped nothing since.
    received: HashMap<(u8, u8), u64>,
    /// The path of a request that the guest does not say anything of.
    unannounced: Name,
    /// Those that one side had before the other one gave them.
    pub disordered: u64,
    /// How many the guest has added that the device has not popped.
    unseen: usize,
    /// How often there was no room.
    pub refused: u64,
}

/// No ring holds more: what is beyond has been lost.
pub const MOST_PENDING: usize = 4096;

impl Requests {
    /// With `guest` there is a guest's half: what it does not announce is driven by a program.
    pub fn new(guest: bool, names: &mut Names) -> Requests {
        Requests {
            all: Vec::new(),
            alive: HashMap::new(),
            added: HashMap::new(),
            notified: HashMap::new(),
            used: HashMap::new(),
            signalled: HashMap::new(),
            received: HashMap::new(),
            disordered: 0,
            unseen: 0,
            refused: 0,
            unannounced: names.ours(if guest { path::DRIVER } else { path::GUEST }),
        }
    }

    /// The guest has added a request. None if there is no room for it.
    pub fn added(&mut self, request: Request) -> Option<usize> {
        if self.unseen == MOST_UNSEEN {
            self.refused += 1;
            return None;
        }
        self.unseen += 1;
        // A head is added again once the request that had it is gone. One that nobody announced has
        // the head already: the device has popped this very request, it seems before it was added.
        let before = self.get(request.key());
        if before.is_some_and(|before| before.when(Moment::Added).is_none()) {
            self.disordered += 1;
        }
        let index = self.born(request);
        let request = &self.all[index];
        push(&mut self.added, (request.disk, request.queue), index);
        Some(index)
    }

    fn born(&mut self, request: Request) -> usize {
        let index = self.all.len();
        self.alive.insert(request.key(), index);
        self.all.push(request);
        index
    }

    /// The guest is about to make available what it has added.
    pub fn notified(&mut self, queue: (u8, u8), at: u64) {
        for index in self.added.remove(&queue).unwrap_or_default() {
            self.all[index].set(Moment::Notified, at);
            push(&mut self.notified, queue, index);
        }
    }

    /// The device has received a notification: it is for all that it has not popped.
    pub fn received(&mut self, queue: (u8, u8), at: u64) {
        self.received.insert(queue, at);
        for index in self.notified.remove(&queue).unwrap_or_default() {
            let request = &mut self.all[index];
            if request.when(Moment::Popped).is_none() {
                request.set(Moment::Received, at);
            }
        }
    }

    /// The device's thread on this lane has popped a head: the guest's request, or one that it did not
    /// announce.
    pub fn popped(&mut self, key: Key, lane: u16, at: u64) {
        let known = self.alive.get(&key).copied();
        let known = known.filter(|index| self.all[*index].when(Moment::Popped).is_none());
        let index = match known {
            Some(index) => {
                self.unseen -= 1;
                index
            }
            None => self.born(Request::new(key, self.unannounced)),
        };
        let received = self.received.remove(&(key.0, key.1));
        let request = &mut self.all[index];
        request.set(Moment::Popped, at);
        request.device = Some(lane);
        // The notification was for the first one, at least.
        if let (Some(received), None) = (received, request.when(Moment::Added)) {
            request.set(Moment::Received, received);
        }
    }

    /// The request with this head that is alive.
    pub fn get(&mut self, key: Key) -> Option<&mut Request> {
        let index = *self.alive.get(&key)?;
        self.all.get_mut(index)
    }

    pub fn set(&mut self, key: Key, moment: Moment, at: u64) {
        if let Some(request) = self.get(key) {
            request.set(moment, at);
        }
    }

    /// It is about to be put into the used ring.
    pub fn used(&mut self, key: Key, status: u8, at: u64) {
        let Some(&index) = self.alive.get(&key) else {
            return;
        };
        let request = &mut self.all[index];
        request.set(Moment::Used, at);
        request.status = Some(status);
        if request.when(Moment::Added).is_none() {
            self.alive.remove(&key);
        }
        push(&mut self.used, (key.0, key.1), index);
    }

    /// The device is about to interrupt, for all that it has used.
    pub fn signalled(&mut self, queue: (u8, u8), at: u64) {
        for index in self.used.remove(&queue).unwrap_or_default() {
            let request = &mut self.all[index];
            if request.when(Moment::Harvested).is_none() {
                request.set(Moment::Signalled, at);
                if is_of_program(request) {
                    push(&mut self.signalled, queue.0, index);
                }
            }
        }
    }

    /// The guest has been interrupted by a disk: this concerns those of a driver in ring 3. Gives those
    /// of one that reports nothing: nobody sees it take the used entries.
    pub fn interrupted(&mut self, disk: u8, at: u64) -> Vec<usize> {
        let mut told = self.signalled.remove(&disk).unwrap_or_default();
        for index in &told {
            let request = &mut self.all[*index];
            if request.when(Moment::Harvested).is_none() {
                request.set(Moment::Interrupted, at);
            }
        }
        told.retain(|index| self.all[*index].when(Moment::Added).is_none());
        told
    }

    /// The driver does not want an interrupt for what the device has used: it has had one that it
    /// has not handled, or looks by itself.
    pub fn suppressed(&mut self, queue: (u8, u8)) {
        self.used.remove(&queue);
    }

    /// The driver has taken the used entry; `interrupt` is when the kernel was interrupted last, if it
    /// is the kernel's.
    pub fn harvested(&mut self, key: Key, interrupt: u64, at: u64) -> Option<usize> {
        let index = self.alive.remove(&key)?;
        let request = &mut self.all[index];
        self.disordered += u64::from(request.when(Moment::Used).is_none());
        if request
            .when(Moment::Used)
            .is_some_and(|used| interrupt >= used)
        {
            request.set(Moment::Interrupted, interrupt);
        }
        request.set(Moment::Harvested, at);
        Some(index)
    }

    pub fn at(&mut self, index: usize) -> &mut Request {
        &mut self.all[index]
    }

    pub fn finish(mut self, names: &mut Names) -> Vec<Request> {
        for request in &mut self.all {
            path::complete(request, names);
        }
        self.all
    }
}

/// Is it one of a driver in ring 3?
fn is_of_program(request: &Request) -> bool {
    request.server.is_some() || request.when(Moment::Added).is_none()
}

fn push<K: Eq + Hash>(lists: &mut HashMap<K, Vec<usize>>, of: K, index: usize) {
    let list = lists.entry(of).or_default();
    // A list that nobody empties belongs to a guest that leaves out half of its events.
    if list.len() == MOST_PENDING {
        list.clear();
    }
    list.push(index);
}
