//! A machine whose processor QEMU lends: its disks are ours, served over socket pairs.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::Write;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use iolite_devices::throttle::Budget;
use iolite_devices::virtio::vhost_user::Server;
use vm_memory::GuestMemoryMmap;

use super::{Extras, NamedBackend, block_config, disk_name, part};
use crate::config::MachineConfig;
use crate::error::Error;
use crate::loader::Image;
use crate::power::Power;
use crate::processor::Processor;
use crate::qemu::{self, Lent, MAX_DISKS, Typed};
use crate::screen::size;
use crate::trace::clock::Start;
use crate::vm::{Disk, Machine};

/// How a kernel is told how fast the time stamp counter is, in kHz; Linux's word.
const TSC_WORD: &str = "tsc_early_khz=";
/// How long the counter is watched at least.
const TSC_WATCH: Duration = Duration::from_millis(20);

/// Builds it, of back ends that are open already.
pub(super) fn build(
    config: &MachineConfig,
    backends: Vec<NamedBackend>,
    console: Box<dyn Write + Send>,
    power: Arc<Power>,
    extras: &Extras<'_>,
) -> Result<Machine, Error> {
    if !extras.devices.is_empty() || extras.no_exit_port {
        return Err(Error::OnlyKvm("a machine with devices of another kind"));
    }
    if backends.len() > MAX_DISKS {
        return Err(Error::TooManyForQemu(backends.len()));
    }
    let watched = Start::now();
    let cannot = || Error::host("cannot prepare a machine of QEMU's");
    let directory = tempfile::tempdir().map_err(cannot())?;
    let kernel = match &config.kernel {
        Image::File(path) => path.clone(),
        Image::BuiltIn(bytes) => {
            let path = directory.path().join("kernel");
            fs::write(&path, bytes).map_err(cannot())?;
            path
        }
    };
    let (monitor, its_monitor) = UnixStream::pair().map_err(cannot())?;
    let mut inherits = vec![File::from(OwnedFd::from(its_monitor))];
    let (mut disks, mut servers, mut sockets) = (Vec::new(), Vec::new(), Vec::new());
    let budget = Budget::default();
    let mut parts = format!("{} of memory, QEMU's processor", size(config.memory));
    for (index, (spec, backend)) in backends.into_iter().enumerate() {
        let (name, bytes) = (disk_name(index), backend.capacity());
        let (device, server) =
            Server::new(backend, block_config(&name, &spec, &budget)).map_err(|source| {
                Error::Disk {
                    name: name.clone(),
                    source,
                }
            })?;
        let (ours, its) = UnixStream::pair().map_err(cannot())?;
        sockets.push((its.as_raw_fd(), spec.queues));
        inherits.push(File::from(OwnedFd::from(its)));
        servers.push((name.clone(), server, ours));
        let disk = Disk {
            name,
            device: Arc::new(device),
            writable: !spec.read_only,
        };
        parts.push_str(&part(&disk, &spec, bytes));
        disks.push(disk);
    }
    let command = qemu::Machine {
        memory: config.memory,
        kernel: &kernel,
        initrd: config.initrd.as_deref(),
        cmdline: &cmdline(config, &watched),
        disks: sockets,
        monitor: inherits[0].as_raw_fd(),
    };
    let lent = Lent {
        command: command.command(),
        inherits,
        directory,
        monitor,
        servers,
        console,
        typed: Typed::new().map_err(cannot())?,
    };
    Ok(Machine {
        processor: Processor::Qemu(Box::new(lent)),
        disks,
        power,
        // The servers know it, and nobody else.
        memory: Arc::new(GuestMemoryMmap::new()),
        parts,
        trace: None,
        stats: None,
    })
}

/// The user's text, and how fast the counter is if that does not say.
fn cmdline(config: &MachineConfig, watched: &Start) -> OsString {
    let text = config.cmdline.trim();
    if text.contains(TSC_WORD) {
        return text.into();
    }
    thread::sleep(TSC_WATCH.saturating_sub(watched.elapsed()));
    let khz = 1e6 / watched.scale().tick_ns();
    format!("{text} {TSC_WORD}{khz:.0}").into()
}
