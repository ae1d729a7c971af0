//! The block device over vhost-user, from outside: a front-end of our own at the other end of the
//! socket, as honest or as hostile as can be.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "these are tests")]
#![allow(unsafe_code, reason = "memory to share is made by hand")]

mod front_end;
mod hostile;
mod in_flight;
mod life;

use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use iolite_devices::block::backend::Backend;
use iolite_devices::block::backend::memory::MemoryBackend;
use iolite_devices::virtio::blk::{BlockConfig, BlockDevice};
use iolite_devices::virtio::vhost_user::{Server, SessionError, Stopper};

use front_end::FrontEnd;

/// Bytes of the disk.
const BYTES: usize = 1 << 20;
const QUEUE_SIZE: u16 = 64;

/// Bytes that tell their position.
fn pattern() -> Vec<u8> {
    (0..BYTES)
        .map(|at| (at / 512 * 7 + at % 251) as u8)
        .collect()
}

fn config() -> BlockConfig {
    BlockConfig {
        queue_size: QUEUE_SIZE,
        ..BlockConfig::new("vds")
    }
}

/// A disk that is served, on a thread of its own, to as many front-ends as come.
struct Disk {
    device: BlockDevice,
    stopper: Stopper,
    connect: std::sync::mpsc::Sender<UnixStream>,
    /// How each session ended.
    ends: std::sync::mpsc::Receiver<Result<(), SessionError>>,
    thread: Option<JoinHandle<()>>,
}

impl Disk {
    fn new(backend: Arc<dyn Backend>, config: BlockConfig) -> Disk {
        let (device, mut server) = Server::new(backend, config).unwrap();
        let stopper = server.stopper();
        let (connect, connections) = std::sync::mpsc::channel();
        let (ended, ends) = std::sync::mpsc::channel();
        let thread = thread::spawn(move || {
            for connection in connections {
                // Who tests how it ends, listens.
                let _ = ended.send(server.serve(connection));
            }
        });
        Disk {
            device,
            stopper,
            connect,
            ends,
            thread: Some(thread),
        }
    }

    /// A disk in memory.
    fn patterned() -> Disk {
        Disk::new(
            Arc::new(MemoryBackend::writable(&pattern()).unwrap()),
            config(),
        )
    }

    fn socket(&self) -> UnixStream {
        let (ours, theirs) = UnixStream::pair().unwrap();
        self.connect.send(theirs).unwrap();
        ours
    }

    /// A front-end that has said nothing yet.
    fn cold(&self) -> FrontEnd {
        FrontEnd::new(self.socket(), 1, QUEUE_SIZE)
    }

    /// One that has set everything up.
    fn front_end(&self) -> FrontEnd {
        let mut front_end = self.cold();
        front_end.start();
        front_end
    }

    /// Whatever has happened: the next front-end finds a disk that works.
    #[track_caller]
    fn assert_serves(&self) {
        let mut front_end = self.front_end();
        assert_eq!(front_end.read(8), pattern()[8 * 512..16 * 512]);
    }

    fn how_it_ended(&self) -> Result<(), SessionError> {
        self.ends.recv().unwrap()
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        self.stopper.stop();
        let (closed, _) = std::sync::mpsc::channel();
        self.connect = closed;
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }
}
