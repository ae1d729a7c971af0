//! The queue's thread: it sleeps until the driver notifies (the ioeventfd of QueueNotify), and
//! wakes the engine.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use event_manager::{EventManager, EventOps, EventSet, EventSubscriber, Events, SubscriberOps};
use vmm_sys_util::eventfd::EventFd;

use super::device::Core;
use crate::block::engine::Engine;
use crate::thread;

/// Events that one wake-up can bring: a notification and a stop, and event-manager's own.
const EVENTS: usize = 3;

/// Starts the thread; it ends when `stop` becomes readable.
pub(super) fn spawn(
    name: &str,
    core: Arc<Core>,
    engine: Arc<dyn Engine>,
    stop: &EventFd,
) -> io::Result<JoinHandle<()>> {
    let handler = Arc::new(Handler {
        core,
        engine,
        stop: stop.try_clone()?,
        stopped: AtomicBool::new(false),
    });
    let mut events = EventManager::new_with_capacity(EVENTS).map_err(io::Error::other)?;
    events.add_subscriber(Arc::clone(&handler) as Arc<dyn EventSubscriber + Send + Sync>);
    thread::spawn(format!("{name}-queue"), move || {
        while !handler.stopped.load(Ordering::Relaxed) {
            if let Err(error) = events.run() {
                log::error!("{}: the queue thread ends: {error}", handler.core.name());
                return;
            }
        }
    })
}

struct Handler {
    core: Arc<Core>,
    engine: Arc<dyn Engine>,
    stop: EventFd,
    stopped: AtomicBool,
}

impl EventSubscriber for Handler {
    fn init(&self, ops: &mut EventOps<'_>) {
        for fd in [&self.core.notify, &self.stop] {
            if let Err(error) = ops.add(Events::new(fd, EventSet::IN)) {
                log::error!("{}: cannot watch an eventfd: {error}", self.core.name());
            }
        }
    }

    fn process(&self, events: Events, _ops: &mut EventOps<'_>) {
        if events.fd() == std::os::fd::AsRawFd::as_raw_fd(&self.stop) {
            self.stopped.store(true, Ordering::Relaxed);
            return;
        }
        // Reading brings the counter to zero, however often the driver has notified.
        if self.core.notify.read().is_ok() {
            self.core.queue.counters.notifications.add(1);
            self.engine.notify();
        }
    }
}
