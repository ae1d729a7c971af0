//! A client, as the server sees it: a ring of requests that are not to be believed, and memory that
//! the device reaches.

use iolite_user::core_logic::block_channel::{Checked, Completion, Info, Refused, Server as Ring};
use iolite_user::trace::{self, kind};
use iolite_user::{Channel, DmaChannel, DrivenDisk, Errno, Result};

/// A connected client.
pub struct Client {
    /// The channel to it.
    pub channel: Channel,
    /// What the device reaches of it.
    pub memory: DmaChannel,
    ring: Ring,
    /// It is gone, or has broken the rules: what it has in flight ends, and nothing new begins.
    pub leaving: bool,
}

/// What a client asks for.
pub struct Asked {
    /// Comes back in the completion.
    pub user: u64,
    /// Its number among those of its client.
    pub number: u64,
    /// The request, or why it is refused.
    pub what: core::result::Result<Checked, Errno>,
}

impl Client {
    /// Takes a new client on.
    ///
    /// # Errors
    ///
    /// `EINVAL` if its memory is too small for the rings, `ENOMEM`.
    pub fn new(disk: &DrivenDisk, channel: Channel, info: &Info) -> Result<Client> {
        if channel.words().len() <= iolite_user::core_logic::block_channel::WORDS {
            return Err(Errno::EINVAL);
        }
        let memory = disk.map(&channel)?;
        Ring::publish_info(channel.words(), info);
        // If it is gone already, the next look at its channel says so.
        let _ = channel.notify();
        Ok(Client {
            channel,
            memory,
            ring: Ring::default(),
            leaving: false,
        })
    }

    /// The next thing it asks for.
    pub fn ask(&mut self, info: &Info) -> Option<Asked> {
        if self.leaving {
            return None;
        }
        match self.ring.take(self.channel.words()) {
            Ok(request) => request.map(|request| {
                let number = self.ring.last_request();
                trace::event(kind::RECEIVE, 0, self.channel.number(), number, 0);
                let what = request.check(info, self.channel.len() as u64);
                Asked {
                    user: request.user,
                    number,
                    what: what.map_err(errno_of),
                }
            }),
            Err(_) => {
                self.leaving = true;
                None
            }
        }
    }

    /// Tells it how a request ended that the disk, number `disk`, has given back as `head`.
    pub fn answer(&mut self, disk: u32, head: u16, user: u64, result: Result<u64>) {
        let (channel, number) = (self.channel.number().into(), self.ring.next_answer());
        trace::event(kind::ANSWER, head, disk, channel, number);
        self.complete(user, result);
    }

    /// Tells it how a request ended.
    pub fn complete(&mut self, user: u64, result: Result<u64>) {
        let result = match result {
            Ok(bytes) => bytes as i64,
            Err(error) => -i64::from(error as i32),
        };
        self.ring
            .complete(self.channel.words(), Completion { user, result });
    }

    /// Tells it what was counted.
    pub fn inform(&self, info: &Info) {
        Ring::publish_info(self.channel.words(), info);
    }

    /// Notifies it if it waits.
    pub fn notify(&mut self) {
        if !self.leaving
            && self.ring.client_waits(self.channel.words())
            && self.channel.notify().is_err()
        {
            self.leaving = true;
        }
    }

    /// Says that the server is about to wait.
    pub fn about_to_wait(&self) {
        self.ring.about_to_wait(self.channel.words());
    }

    /// Says that it does not, after all.
    pub fn does_not_wait(&self) {
        self.ring.does_not_wait(self.channel.words());
    }

    /// Is nothing of it left in the device?
    pub fn has_left(&self) -> bool {
        self.leaving && self.ring.in_flight() == 0
    }
}

fn errno_of(refused: Refused) -> Errno {
    match refused {
        Refused::Invalid => Errno::EINVAL,
        Refused::PastEnd => Errno::ENOSPC,
        Refused::ReadOnly => Errno::EROFS,
    }
}
