//! A disk behind a block server: requests are written into shared memory, many at a time, and their
//! completions read there. What the disk reads lands in the same memory.
//!
//! ```text
//!   read, write, flush        wait
//!   submitted ------------> Finished { user, result }
//!        \--- server gone ----^  EPIPE, each of them
//! ```

use crate::{Channel, Connector, Errno, Instant, Pollable, Result, trace, wait_events};
use alloc::vec::Vec;
use iolite_guest_abi::FOREVER;
use iolite_guest_core::block_channel::{
    BUFFERS_AT, Client, Counters, Info, MAX_BYTES, Operation, Request, SLOTS, WORDS,
};

/// A connection to a block server. Dropping it is how the server learns that the client is gone.
#[derive(Debug)]
pub struct BlockClient {
    channel: Channel,
    ring: Client,
    /// The requests on their way, by what they were submitted with.
    on_their_way: Vec<u64>,
    buffer_bytes: usize,
    buffers: usize,
    /// The server is gone: nothing will ever complete.
    gone: bool,
}

/// A request that has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Finished {
    /// What it was submitted with.
    pub user: u64,
    /// Bytes read or written. `EPIPE` if the server went before it said how it ended.
    pub result: Result<usize>,
}

impl BlockClient {
    /// Connects, with memory for `buffers` buffers of `buffer_bytes` bytes each, and does not wait
    /// until the server has accepted.
    ///
    /// # Errors
    ///
    /// As [`Connector::connect`]; `EINVAL` for buffers that are no multiple of 512 bytes or longer
    /// than a request.
    pub fn connect(
        connector: &Connector,
        buffers: usize,
        buffer_bytes: usize,
    ) -> Result<BlockClient> {
        let valid = buffer_bytes.is_multiple_of(512) && buffer_bytes <= MAX_BYTES as usize;
        let bytes = buffers
            .checked_mul(buffer_bytes)
            .and_then(|bytes| bytes.checked_add(BUFFERS_AT));
        let bytes = bytes.filter(|_| valid).ok_or(Errno::EINVAL)?;
        trace::begin();
        Ok(BlockClient {
            channel: connector.connect(bytes)?,
            ring: Client::default(),
            on_their_way: Vec::new(),
            buffer_bytes,
            buffers,
            gone: false,
        })
    }

    /// What the server says of its disk. Waits until it has accepted.
    ///
    /// # Errors
    ///
    /// `EPIPE` if it is gone, `ETIMEDOUT` after `timeout_ns` nanoseconds.
    pub fn info(&mut self, timeout_ns: u64) -> Result<Info> {
        let started = Instant::now();
        loop {
            self.ring.about_to_wait(self.channel.words());
            if let Some(info) = Client::info(self.channel.words()) {
                return Ok(info);
            }
            if self.gone {
                return Err(Errno::EPIPE);
            }
            self.wait_for_server(left(timeout_ns, started))?;
        }
    }

    /// What the server has counted, of all its clients. Nothing else may be on its way.
    ///
    /// # Errors
    ///
    /// `EBUSY` if something is, `EPIPE` if the server is gone.
    pub fn counters(&mut self) -> Result<Counters> {
        if self.gone {
            return Err(Errno::EPIPE);
        }
        if !self.on_their_way.is_empty() {
            return Err(Errno::EBUSY);
        }
        self.submit(Operation::Count, 0, 0, 0, 0)?;
        self.finish_one()?;
        self.info(FOREVER).map(|info| info.counters)
    }

    /// Submits reading `len` bytes at `offset` of the disk into buffer `buffer`. The server may not
    /// notice before [`BlockClient::notify`] or [`BlockClient::wait`].
    ///
    /// # Errors
    ///
    /// `EAGAIN` if too many are on their way, `EINVAL` if there is no such buffer or it is shorter,
    /// `EPIPE` if the server is gone.
    pub fn read(&mut self, user: u64, offset: u64, buffer: usize, len: usize) -> Result<()> {
        self.submit(Operation::Read, user, offset, buffer, len)
    }

    /// Submits writing the first `len` bytes of buffer `buffer` at `offset`.
    ///
    /// # Errors
    ///
    /// As [`BlockClient::read`].
    pub fn write(&mut self, user: u64, offset: u64, buffer: usize, len: usize) -> Result<()> {
        self.submit(Operation::Write, user, offset, buffer, len)
    }

    /// Submits making durable every write that has completed.
    ///
    /// # Errors
    ///
    /// As [`BlockClient::read`].
    pub fn flush(&mut self, user: u64) -> Result<()> {
        self.submit(Operation::Flush, user, 0, 0, 0)
    }

    fn submit(
        &mut self,
        operation: Operation,
        user: u64,
        offset: u64,
        buffer: usize,
        len: usize,
    ) -> Result<()> {
        if len > 0 && (buffer >= self.buffers || len > self.buffer_bytes) {
            return Err(Errno::EINVAL);
        }
        if self.gone {
            return Err(Errno::EPIPE);
        }
        let request = Request {
            user,
            operation: operation as u32,
            bytes: len as u32,
            offset,
            buffer: self.buffer_at(buffer) as u64,
        };
        let (channel, number) = (self.channel.number(), self.ring.next_request());
        trace::event(trace::kind::SEND, 0, channel, number, 0);
        if !self.ring.submit(self.channel.words(), &request) {
            return Err(Errno::EAGAIN);
        }
        self.on_their_way.push(user);
        Ok(())
    }

    /// Has the server notice what was submitted.
    pub fn notify(&mut self) {
        if self.ring.server_waits(self.channel.words()) && self.channel.notify().is_err() {
            self.gone = true;
        }
    }

    /// Waits until at least `min` requests have ended (of those on their way, if they are fewer), or
    /// `timeout_ns` nanoseconds are over. Gives all that have ended; `min` 0 only looks.
    ///
    /// # Errors
    ///
    /// `ETIMEDOUT` if none has ended in time.
    pub fn wait(&mut self, min: usize, timeout_ns: u64) -> Result<Vec<Finished>> {
        let started = Instant::now();
        let min = min.min(self.on_their_way.len());
        let mut done = Vec::new();
        self.notify();
        loop {
            self.collect(&mut done);
            if done.len() >= min {
                return Ok(done);
            }
            if self.gone {
                let lost = core::mem::take(&mut self.on_their_way);
                let result = Err(Errno::EPIPE);
                done.extend(lost.into_iter().map(|user| Finished { user, result }));
                return Ok(done);
            }
            self.ring.about_to_wait(self.channel.words());
            let before = done.len();
            self.collect(&mut done);
            if done.len() == before {
                match self.wait_for_server(left(timeout_ns, started)) {
                    Err(Errno::ETIMEDOUT) if !done.is_empty() => return Ok(done),
                    result => result?,
                }
            }
        }
    }

    fn collect(&mut self, done: &mut Vec<Finished>) {
        loop {
            match self.ring.collect(self.channel.words()) {
                Ok(Some(completion)) => {
                    let (channel, number) = (self.channel.number(), self.ring.last_answer());
                    trace::event(trace::kind::COLLECT, 0, channel, number, 0);
                    let ours = |user: &u64| *user == completion.user;
                    let Some(place) = self.on_their_way.iter().position(ours) else {
                        // It was never asked for: this server is not to be believed.
                        self.gone = true;
                        return;
                    };
                    self.on_their_way.swap_remove(place);
                    done.push(Finished {
                        user: completion.user,
                        result: result_of(completion.result),
                    });
                }
                Ok(None) => return,
                Err(_) => {
                    self.gone = true;
                    return;
                }
            }
        }
    }

    fn finish_one(&mut self) -> Result<usize> {
        let done = self.wait(1, FOREVER)?;
        done.first().ok_or(Errno::EPIPE)?.result
    }

    fn wait_for_server(&mut self, timeout_ns: u64) -> Result<()> {
        let ready = wait_events([&self.channel as &dyn Pollable], timeout_ns)?;
        // What the server has written before it went is still there: it is collected first.
        self.gone |= ready.iter().any(|ready| ready.is_hung_up());
        Ok(())
    }

    /// Copies the first bytes of a buffer out.
    ///
    /// # Panics
    ///
    /// If there is no such buffer, or it is shorter.
    pub fn copy_from(&self, buffer: usize, to: &mut [u8]) {
        assert!(buffer < self.buffers && to.len() <= self.buffer_bytes);
        self.channel.read(self.buffer_at(buffer), to);
    }

    /// Copies bytes to the beginning of a buffer.
    ///
    /// # Panics
    ///
    /// As [`BlockClient::copy_from`].
    pub fn copy_to(&self, buffer: usize, from: &[u8]) {
        assert!(buffer < self.buffers && from.len() <= self.buffer_bytes);
        self.channel.write(self.buffer_at(buffer), from);
    }

    /// Is the server gone?
    pub fn is_gone(&self) -> bool {
        self.gone
    }

    /// How many requests are on their way.
    pub fn pending(&self) -> usize {
        self.on_their_way.len()
    }

    /// Most requests on their way.
    pub const MAX_PENDING: usize = SLOTS;

    fn buffer_at(&self, buffer: usize) -> usize {
        BUFFERS_AT + buffer * self.buffer_bytes
    }
}

const _: () = assert!(WORDS * 8 == BUFFERS_AT);

fn left(timeout_ns: u64, started: Instant) -> u64 {
    match timeout_ns {
        FOREVER => FOREVER,
        _ => timeout_ns.saturating_sub(started.elapsed_ns()),
    }
}

fn result_of(result: i64) -> Result<usize> {
    usize::try_from(result).map_err(|_| {
        let number = i32::try_from(-result).unwrap_or_default();
        Errno::from_raw(number).unwrap_or(Errno::EIO)
    })
}
