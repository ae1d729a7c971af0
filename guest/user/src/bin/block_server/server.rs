//! The loop: from the clients' rings to the device, and back.

use crate::client::{Asked, Client};
use alloc::vec::Vec;
use iolite_user::core_logic::block_channel::{Checked, Info, Operation};
use iolite_user::driver::{self, Outcome, SubmitError};
use iolite_user::{DrivenDisk, Errno, FOREVER, Listener, MAX_FDS, Pollable, Result, wait_events};

/// How many requests of a client are taken before it is the next one's turn.
const TURN: usize = 16;
const SECTOR_BYTES: u64 = 512;
/// How many rounds of work until it looks who wants to come or go.
const ROUNDS: usize = 64;
/// Most clients: beside the console, the device and the port there is room for no more descriptors.
const MAX_CLIENTS: usize = MAX_FDS - 5;

/// The disk, and whom it is served to.
pub struct Server {
    disk: DrivenDisk,
    listener: Listener,
    info: Info,
    /// Clients keep their places: those of requests in flight are known by number.
    clients: Vec<Option<Client>>,
    /// The requests in flight, by the driver's cookie.
    in_flight: Vec<Option<InFlight>>,
    free: Vec<u32>,
    /// A request that the device had no room for.
    postponed: Option<(Asker, Checked)>,
    /// Whose turn it is.
    next: usize,
    /// Nobody can connect any more.
    closed: bool,
    /// How many more requests until the crash.
    until_crash: Option<u64>,
}

/// Whose request it is.
#[derive(Clone, Copy)]
struct Asker {
    client: usize,
    user: u64,
    /// Which of the client's requests.
    number: u64,
}

struct InFlight {
    asker: Asker,
    bytes: u32,
}

impl Server {
    /// A server without clients.
    pub fn new(disk: DrivenDisk, listener: Listener, until_crash: Option<u64>) -> Server {
        let info = Info {
            bytes: disk.driver.info().sectors.saturating_mul(SECTOR_BYTES),
            read_only: disk.driver.info().read_only,
            ..Info::default()
        };
        Server {
            disk,
            listener,
            info,
            clients: Vec::new(),
            in_flight: Vec::new(),
            free: Vec::new(),
            postponed: None,
            next: 0,
            closed: false,
            until_crash,
        }
    }

    /// Serves until nobody is left who could ask for anything.
    ///
    /// # Errors
    ///
    /// Those of waiting for events.
    pub fn run(mut self) -> Result<()> {
        while !self.closed || self.has_clients() {
            // However busy it is, it looks now and then who wants to come or go.
            let idle = (0..ROUNDS).any(|_| !self.work());
            if idle {
                self.wait()?;
            } else {
                self.look_around(0)?;
            }
        }
        Ok(())
    }

    /// One round of everything there is to do. Was there anything?
    fn work(&mut self) -> bool {
        let harvested = self.harvest();
        let submitted = self.submit();
        if submitted {
            self.disk.notify();
        }
        for client in self.clients.iter_mut().flatten() {
            client.notify();
        }
        self.part_with_clients();
        harvested || submitted
    }

    /// Waits for something to do: says so to every client, looks once more, and sleeps.
    fn wait(&mut self) -> Result<()> {
        let clients = || self.clients.iter().flatten();
        clients().for_each(Client::about_to_wait);
        if !self.work() && (!self.closed || self.has_clients()) {
            self.look_around(FOREVER)?;
        }
        self.clients
            .iter()
            .flatten()
            .for_each(Client::does_not_wait);
        Ok(())
    }

    /// Waits for events, and takes note of them.
    fn look_around(&mut self, timeout_ns: u64) -> Result<()> {
        let room = !self.closed && self.clients.iter().flatten().count() < MAX_CLIENTS;
        // A client that is leaving has nothing more to say.
        let staying = |client: &&Client| !client.leaving;
        let clients = self.clients.iter().flatten().filter(staying);
        let things = core::iter::once(&self.disk as &dyn Pollable)
            .chain(clients.map(|client| &client.channel as &dyn Pollable))
            .chain(room.then_some(&self.listener as &dyn Pollable));
        let ready = match wait_events(things, timeout_ns) {
            Err(Errno::ETIMEDOUT) => return Ok(()),
            ready => ready?,
        };
        if ready[0].has_event() {
            self.disk.driver.acknowledge();
            if !self.harvest() {
                self.look_at_disk()?;
            }
        }
        let clients = self.clients.iter_mut().flatten();
        for (client, ready) in clients.filter(|client| !client.leaving).zip(&ready[1..]) {
            client.leaving |= ready.is_hung_up();
        }
        if let Some(port) = ready.last().filter(|_| room) {
            self.closed = port.is_hung_up();
            if port.has_event() {
                self.accept();
            }
        }
        Ok(())
    }

    /// Attends to the device if it says that something about it has changed: the clients hear of a
    /// larger disk. A device that needs a reset is reset when this process is gone, and then its
    /// clients hear that.
    fn look_at_disk(&mut self) -> Result<bool> {
        let driver = &mut self.disk.driver;
        if !driver.take_change() {
            return Ok(false);
        }
        if driver.needs_reset() {
            return Err(Errno::EIO);
        }
        let changed = driver.refresh();
        self.info.bytes = driver.info().sectors.saturating_mul(SECTOR_BYTES);
        for client in self.clients.iter().flatten() {
            client.inform(&self.info);
        }
        Ok(changed)
    }

    fn has_clients(&self) -> bool {
        self.clients.iter().any(Option::is_some)
    }

    fn accept(&mut self) {
        // A client that went away before it was accepted, or that has sent nonsense, is not missed.
        let Ok(channel) = self.listener.accept() else {
            return;
        };
        let Ok(client) = Client::new(&self.disk, channel, &self.info) else {
            return;
        };
        match self.clients.iter().position(Option::is_none) {
            Some(place) => self.clients[place] = Some(client),
            None => self.clients.push(Some(client)),
        }
    }

    /// Takes requests from the clients in turn, as long as the device has room.
    fn submit(&mut self) -> bool {
        let mut any = false;
        if let Some((asker, request)) = self.postponed.take() {
            if !self.start(asker, request) {
                return false;
            }
            any = true;
        }
        for _ in 0..self.clients.len() {
            let place = self.next % self.clients.len();
            self.next = place + 1;
            for _ in 0..TURN {
                let client = self.clients[place].as_mut();
                let Some(asked) = client.and_then(|client| client.ask(&self.info)) else {
                    break;
                };
                any = true;
                if !self.answer(place, asked) {
                    return any;
                }
            }
        }
        any
    }

    /// `false` when the device has no room.
    fn answer(&mut self, place: usize, Asked { user, number, what }: Asked) -> bool {
        self.count_down();
        let asker = Asker {
            client: place,
            user,
            number,
        };
        match what {
            Ok(request) if request.operation == Operation::Count => {
                self.info.counters.notifications = self.disk.driver.notifications();
                if let Some(client) = &mut self.clients[place] {
                    client.inform(&self.info);
                    client.complete(user, Ok(0));
                }
                true
            }
            Ok(request) => self.start(asker, request),
            Err(error) => {
                if error == Errno::ENOSPC {
                    // An interrupt that said that it has grown may have been taken for another.
                    let _ = self.look_at_disk();
                }
                self.complete(place, user, Err(error));
                true
            }
        }
    }

    /// Hands a request to the device, or keeps it until there is room: `false`.
    fn start(&mut self, asker: Asker, request: Checked) -> bool {
        let (place, user) = (asker.client, asker.user);
        let Some(client) = &self.clients[place] else {
            return true;
        };
        if request.operation == Operation::Flush && !self.disk.driver.info().flush {
            self.complete(place, user, Ok(0));
            return true;
        }
        let segments = client
            .memory
            .segments::<{ driver::MAX_SEGMENTS }>(request.buffer, request.bytes);
        let Some((segments, count)) = segments else {
            self.complete(place, user, Err(Errno::EINVAL));
            return true;
        };
        let sector = request.sector;
        let operation = match request.operation {
            Operation::Read => driver::Operation::Read { sector },
            Operation::Write => driver::Operation::Write { sector },
            Operation::Flush | Operation::Count => driver::Operation::Flush,
        };
        let cookie = self.free.pop().unwrap_or(self.in_flight.len() as u32);
        let of = (client.channel.number(), asker.number);
        let disk = &mut self.disk;
        match disk.submit_for(of, operation, &segments[..count], cookie) {
            Ok(()) => {
                let bytes = request.bytes;
                let request = InFlight { asker, bytes };
                match self.in_flight.get_mut(cookie as usize) {
                    Some(free) => *free = Some(request),
                    None => self.in_flight.push(Some(request)),
                }
                let now = (self.in_flight.len() - self.free.len()) as u64;
                let counters = &mut self.info.counters;
                counters.max_in_flight = counters.max_in_flight.max(now);
                true
            }
            Err(error) => {
                if (cookie as usize) < self.in_flight.len() {
                    self.free.push(cookie);
                }
                if error == SubmitError::Full {
                    self.postponed = Some((asker, request));
                    return false;
                }
                self.complete(place, user, Err(Errno::EINVAL));
                true
            }
        }
    }

    /// Takes the device's completions to whom they belong.
    fn harvest(&mut self) -> bool {
        let mut any = false;
        while let Some(done) = self.disk.harvest() {
            any = true;
            let request = self.in_flight.get_mut(done.cookie as usize);
            let Some(request) = request.and_then(Option::take) else {
                continue;
            };
            self.free.push(done.cookie);
            self.info.counters.requests += 1;
            let result = if done.outcome == Outcome::Ok {
                Ok(u64::from(request.bytes))
            } else {
                self.info.counters.errors += 1;
                Err(Errno::EIO)
            };
            let (disk, asker) = (self.disk.number(), request.asker);
            if let Some(client) = &mut self.clients[asker.client] {
                client.answer(disk, done.head, asker.user, result);
            }
        }
        any
    }

    fn complete(&mut self, place: usize, user: u64, result: Result<u64>) {
        if let Some(client) = &mut self.clients[place] {
            client.complete(user, result);
        }
    }

    /// Lets go of the clients that are gone, once the device is done with their memory.
    fn part_with_clients(&mut self) {
        for place in &mut self.clients {
            if let Some(client) = place.take_if(|client| client.has_left()) {
                let _ = self.disk.unmap(client.memory);
            }
        }
    }

    fn count_down(&mut self) {
        match &mut self.until_crash {
            Some(0) => crash(self),
            Some(left) => *left -= 1,
            None => {}
        }
    }
}

/// Ends the process with whatever it has in flight, as a bug would.
fn crash(server: &mut Server) -> ! {
    server.disk.driver.notify();
    panic!("crashing, as --crash-after says");
}
