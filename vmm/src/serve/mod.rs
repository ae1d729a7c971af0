//! `iolite serve`: disks for the virtual machines of other VMMs, over vhost-user (docs/serve.md).
//!
//! Each disk has a socket and a thread that serves one front-end after the other; everything below is
//! the machine's own: back ends, engines, statistics, traces. No KVM is needed.

mod socket;

use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;

use iolite_devices::throttle::Budget;
use iolite_devices::virtio::vhost_user::{Server, Stopper};
use vm_memory::GuestMemoryMmap;

pub use socket::SocketError;

use crate::config::{ConfigError, DiskSpec};
use crate::error::Error;
use crate::exit_code::ExitCode;
use crate::one_line::one_line;
use crate::output_file::OutputFile;
use crate::power::{Power, Stop};
use crate::screen::size;
use crate::signals::Attention;
use crate::vm::Disk;
use crate::watch::{Watch, Watchers};
use crate::{builder, events, shutdown, stats, trace, unflushed};
use socket::Socket;

/// What the user can choose.
#[derive(Debug)]
pub struct Options {
    /// The disks.
    pub disks: Vec<DiskSpec>,
    /// Where each is served.
    pub sockets: Vec<PathBuf>,
    /// Where to write a trace.
    pub trace: Option<OutputFile>,
    /// What to tell in the end.
    pub stats: stats::Options,
}

/// A disk that is served.
struct Served {
    socket: Arc<Socket>,
    stopper: Stopper,
    thread: thread::JoinHandle<()>,
}

/// Serves until a signal says that it is enough.
///
/// # Errors
/// Whatever keeps a disk from being served, and that one could not be flushed.
pub fn run(options: Options) -> Result<ExitCode, Error> {
    let Options {
        disks: specs,
        sockets,
        trace,
        stats,
    } = options;
    if specs.len() != sockets.len() {
        let (disks, sockets) = (specs.len(), sockets.len());
        return Err(ConfigError::Sockets { disks, sockets }.into());
    }
    let power = Arc::new(Power::new().map_err(Error::host("cannot make an eventfd"))?);
    let (mut disks, mut served, mut parts) = (Vec::new(), Vec::new(), String::new());
    let (mut waiting, budget) = (Vec::new(), Budget::default());
    for (index, (spec, path)) in specs.iter().zip(&sockets).enumerate() {
        let name = builder::disk_name(index);
        let backend = builder::backend(spec)?;
        let bytes = backend.capacity();
        let config = builder::block_config(&name, spec, &budget);
        let (device, server) = Server::new(backend, config).map_err(|source| Error::Disk {
            name: name.clone(),
            source,
        })?;
        let socket = Arc::new(Socket::bind(path)?);
        let disk = Disk {
            name,
            device: Arc::new(device),
            writable: !spec.read_only,
        };
        parts.push_str(&builder::part(&disk, spec, bytes));
        note(&format!(
            "{}: {}, {}, at {}",
            disk.name,
            spec.source,
            size(bytes),
            socket.path().display()
        ));
        waiting.push((disk.name.clone(), server, socket));
        disks.push(disk);
    }
    let trace = trace.map(|output| {
        let (memory, machine) = (
            GuestMemoryMmap::new(),
            format!("served over vhost-user{parts}"),
        );
        trace::Session::new(
            output,
            machine,
            Arc::new(memory),
            trace::clock::Offset::default(),
        )
    });
    let stats = stats.are_wanted().then(|| stats::Session::new(stats, None));
    let watch = Watch::start(Watchers { trace, stats })?;
    for (name, server, socket) in waiting {
        served.push(serve(name, server, socket)?);
    }
    let signals = Attention::begin()?;
    unflushed::add_writable(&disks);
    let attended = events::attend(&power, &disks, &signals, None, None);
    // From here on a signal ends the process, whatever it waits for.
    drop(signals);
    for Served {
        socket, stopper, ..
    } in &served
    {
        stopper.stop();
        socket.close();
    }
    for Served { thread, .. } in served {
        // It has reported its own panic.
        let _ = thread.join();
    }
    let drained = shutdown::disks(&disks);
    let told = watch.finish(&disks);
    attended?;
    drained?;
    told?;
    power.take().unwrap_or(Stop::Reset).exit_code(None)
}

/// Starts the thread of a disk.
fn serve(name: String, mut server: Server, socket: Arc<Socket>) -> Result<Served, Error> {
    let (stopper, listens) = (server.stopper(), Arc::clone(&socket));
    let thread = thread::Builder::new()
        .name(format!("{name}-serve"))
        .spawn(move || {
            while let Ok(front_end) = listens.accept() {
                note(&format!("{name}: a front-end has come"));
                match server.serve(front_end) {
                    Ok(()) => note(&format!("{name}: it has gone")),
                    Err(error) => note(&format!("{name}: it was sent away: {error}")),
                }
            }
        })
        .map_err(Error::host("cannot start a thread"))?;
    Ok(Served {
        socket,
        stopper,
        thread,
    })
}

/// Tells the user.
fn note(text: &str) {
    // If nobody reads it, nothing is lost.
    let _ = writeln!(io::stderr(), "{}", one_line(text));
}
