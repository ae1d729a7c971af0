//! A disk and those who use it, one front-end after the other.

use std::io;
use std::net::Shutdown;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};

use super::channel::{Channel, ChannelError, Incoming};
use super::front_end::{Answer, FrontEnd, Queue, Refusal};
use super::line::{Changes, Line};
use super::message::{MessageError, Request};
use crate::block::backend::Backend;
use crate::virtio::blk::{BlockConfig, BlockDevice, BlockError};
use crate::virtio::notifier::{Notifier, Notifiers};

/// Why a front-end was sent away.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// The system failed us.
    #[error("{0}")]
    System(#[from] io::Error),
    /// What came was no message, or none that makes sense.
    #[error("{0}")]
    Message(String),
    /// It asked for something that cannot be, and does not listen to answers.
    #[error("{0}")]
    Refused(String),
}

impl From<ChannelError> for SessionError {
    fn from(error: ChannelError) -> Self {
        match error {
            ChannelError::Socket(error) => SessionError::System(error),
            other => SessionError::Message(other.to_string()),
        }
    }
}

impl From<MessageError> for SessionError {
    fn from(error: MessageError) -> Self {
        SessionError::Message(error.to_string())
    }
}

/// Serves a disk to front-ends.
pub struct Server {
    front_end: FrontEnd,
    changes: Arc<Changes>,
    stopper: Stopper,
}

/// Ends a [`Server`], from another thread.
#[derive(Clone, Default)]
pub struct Stopper(Arc<Stop>);

#[derive(Default)]
struct Stop {
    is_over: AtomicBool,
    /// Whoever is being served.
    connection: Mutex<Option<UnixStream>>,
}

impl Stopper {
    /// No front-end is served any more; the one there is loses its connection.
    pub fn stop(&self) {
        self.0.is_over.store(true, Ordering::Release);
        if let Some(connection) = &*self.connection() {
            // It is gone already if it cannot be ended.
            let _ = connection.shutdown(Shutdown::Both);
        }
    }

    /// Whether [`stop`](Stopper::stop) was called.
    pub fn is_over(&self) -> bool {
        self.0.is_over.load(Ordering::Acquire)
    }

    fn connection(&self) -> std::sync::MutexGuard<'_, Option<UnixStream>> {
        self.0
            .connection
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl Server {
    /// Makes a disk, and a server for it.
    ///
    /// # Errors
    /// As for [`BlockDevice::new`].
    pub fn new(
        backend: Arc<dyn Backend>,
        config: BlockConfig,
    ) -> Result<(BlockDevice, Server), BlockError> {
        let (name, budget) = (config.name.clone(), config.budget.clone());
        let changes = Changes::new().map_err(BlockError::system("create an eventfd"))?;
        let changes = Arc::new(changes);
        let lines: Vec<Arc<Line>> = (0..config.queues).map(|_| Arc::default()).collect();
        let notifiers: Vec<_> = lines
            .iter()
            .map(|line| Arc::new(Notifier::new(&name, line.clone(), &budget)))
            .collect();
        let device = BlockDevice::new(
            backend,
            config,
            Notifiers {
                config: Arc::new(Notifier::new(&name, changes.clone(), &budget)),
                queues: notifiers.clone(),
            },
        )?;
        let queues = device.doorbells().zip(lines).zip(notifiers);
        let queues = queues.map(|((doorbell, line), notifier)| Queue {
            doorbell: doorbell.clone(),
            line,
            notifier,
        });
        let queues = queues.collect();
        let server = Server {
            front_end: FrontEnd::new(device.transport(), queues, Arc::clone(&changes)),
            changes,
            stopper: Stopper::default(),
        };
        Ok((device, server))
    }

    /// What ends this server.
    pub fn stopper(&self) -> Stopper {
        self.stopper.clone()
    }

    /// Serves the front-end at the other end of `socket` until it goes. When this returns, nothing of
    /// its requests is in flight, and nothing of its memory is mapped.
    ///
    /// # Errors
    /// [`SessionError`] says why it was sent away.
    pub fn serve(&mut self, socket: UnixStream) -> Result<(), SessionError> {
        *self.stopper.connection() = Some(socket.try_clone()?);
        let result = match self.stopper.is_over() {
            true => Ok(()),
            false => self.talk(&Channel::new(socket)),
        };
        *self.stopper.connection() = None;
        self.front_end.leave();
        match result {
            // To be cut off is what was asked for.
            Err(_) if self.stopper.is_over() => Ok(()),
            result => result,
        }
    }

    fn talk(&mut self, channel: &Channel) -> Result<(), SessionError> {
        const MESSAGE: u64 = 0;
        const CHANGE: u64 = 1;
        let epoll = Epoll::new()?;
        for (fd, what) in [
            (channel.as_raw_fd(), MESSAGE),
            (self.changes.event().as_raw_fd(), CHANGE),
        ] {
            epoll.ctl(
                ControlOperation::Add,
                fd,
                EpollEvent::new(EventSet::IN, what),
            )?;
        }
        let mut events = [EpollEvent::default()];
        loop {
            match epoll.wait(-1, &mut events) {
                Ok(1) if events[0].data() == MESSAGE => match channel.receive()? {
                    Some(incoming) => self.answer(channel, incoming)?,
                    None => return Ok(()),
                },
                Ok(_) => {
                    if self.changes.take() {
                        self.front_end.tell_of_change()?;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn answer(&mut self, channel: &Channel, incoming: Incoming) -> Result<(), SessionError> {
        let (number, needs_reply) = (incoming.request, incoming.needs_reply);
        let request = Request::parse(incoming)?;
        log::trace!("vhost-user: {request:?}");
        let has_an_answer = request.has_an_answer();
        let outcome = self.front_end.handle(request);
        let acknowledges = needs_reply && self.front_end.acknowledges();
        match outcome {
            Ok(Answer::Payload(payload)) => channel.reply(number, &payload, None)?,
            Ok(Answer::File(payload, file)) => channel.reply(number, &payload, Some(&file))?,
            Ok(Answer::Done) if acknowledges => channel.reply(number, &[0; 8], None)?,
            Ok(Answer::Done) => {}
            Err(refusal) => {
                let listens = acknowledges && !has_an_answer;
                refuse(channel, number, listens, &refusal)?;
            }
        }
        Ok(())
    }
}

/// Says no, or, to who does not listen, goodbye.
fn refuse(
    channel: &Channel,
    number: u32,
    listens: bool,
    refusal: &Refusal,
) -> Result<(), SessionError> {
    if !listens {
        return Err(SessionError::Refused(refusal.to_string()));
    }
    log::debug!("vhost-user: request {number} is refused: {refusal}");
    Ok(channel.reply(number, &1u64.to_le_bytes(), None)?)
}
