//! Our guest on QEMU's microvm: the same kernel, system disk and image, announced in the same way.
//!
//! QEMU's own disk has the settings that are said to be its best: an iothread of its own, and aio as
//! chosen. The iothread polls as long as QEMU lets it by default (poll-max-ns=32768). Or the disk is
//! ours, served by another process (`iolite serve`).

use std::ffi::OsString;
use std::fs::File;
use std::io::Write;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::machine::{INIT, Machine};
use super::server::Server;
use super::subject::{Load, Sample};
use crate::config::path_item;
use crate::error::Error;
use crate::guest;
use crate::loader::Image;
use crate::qemu::PROGRAM;
use iolite_guest_core::bench::Cell;

/// The name of its vCPU's thread, given debug-threads=on.
const VCPU: &str = "CPU 0/KVM";

/// A machine, the files that it has open by their names, and who serves its disk.
struct Qemu {
    machine: Box<Machine>,
    _files: [File; 2],
    server: Option<Server>,
}

impl Load for Qemu {
    fn measure(&mut self, cell: &Cell) -> Result<Sample, Error> {
        let server = || self.server.as_ref().map_or(0, Server::cpu_ns);
        let before = server();
        let mut sample = self.machine.measure(cell)?;
        let server = || self.server.as_ref().map_or(0, Server::cpu_ns);
        sample.cpu_ns += server().saturating_sub(before);
        Ok(sample)
    }

    fn finish(self: Box<Self>) -> Result<(), Error> {
        self.machine.finish()
    }
}

/// Starts it with `disk`, of so many queues, as the second disk.
///
/// # Errors
/// [`Error::Bench`] if the guest does not get ready, [`Error::Host`].
pub fn start(
    disk: &Path,
    aio: &str,
    direct: bool,
    queues: u64,
) -> Result<impl Load + use<>, Error> {
    let cache = if direct { "none" } else { "writeback" };
    let keys = format!("cache={cache},aio={aio}");
    let more = format!(",iothread=io,num-queues={queues}");
    let (mut command, files) = microvm(queues)?;
    command.args(["-object", "iothread,id=io"]);
    add_drive(&mut command, "disk", disk, &keys, &more);
    Ok(Qemu {
        machine: Box::new(Machine::start(&format!("qemu {aio}"), command, VCPU)?),
        _files: files,
        server: None,
    })
}

/// Starts it with a disk that `server` serves.
///
/// # Errors
/// As for [`start`].
pub fn start_served(name: &str, server: Server, queues: u64) -> Result<impl Load + use<>, Error> {
    let (mut command, files) = microvm(queues)?;
    let socket = server.socket();
    let socket = socket.display();
    command.args(["-chardev", &format!("socket,id=disk,path={socket}")]);
    let device = format!("vhost-user-blk,chardev=disk,num-queues={queues},queue-size=256");
    command.args(["-device", &device]);
    Ok(Qemu {
        machine: Box::new(Machine::start(name, command, VCPU)?),
        _files: files,
        server: Some(server),
    })
}

/// The machine without the disk that is measured, and files that it needs to start.
fn microvm(queues: u64) -> Result<(Command, [File; 2]), Error> {
    let kernel = copy(&guest::KERNEL)?;
    let system = copy(&guest::SYSTEM)?;
    let mut command = Command::new(PROGRAM);
    command.args([
        "-M",
        "microvm,acpi=off,pit=off,rtc=off,auto-kernel-cmdline=on,memory-backend=memory",
        "-object",
        "memory-backend-memfd,id=memory,size=128M,share=on",
        "-accel",
        "kvm",
        "-cpu",
        "qemu64",
        "-m",
        "128",
        "-nodefaults",
        "-no-user-config",
        "-no-reboot",
        "-display",
        "none",
        "-serial",
        "stdio",
        "-name",
        "bench,debug-threads=on",
        "-global",
        "virtio-mmio.force-legacy=false",
        "-device",
        "isa-debug-exit,iobase=0xf4,iosize=1",
    ]);
    command.args(["-append", &format!("{INIT} queues={queues}")]);
    command.arg("-kernel").arg(path(&kernel));
    add_drive(&mut command, "system", &path(&system), "read-only=on", "");
    Ok((command, [kernel, system]))
}

fn add_drive(command: &mut Command, name: &str, file: &Path, keys: &str, more: &str) {
    let keys = format!("id={name},if=none,format=raw,file.locking=off,{keys},");
    let mut drive = OsString::from(keys);
    drive.push(path_item("file=", file));
    command.arg("-drive").arg(drive);
    command.args(["-device", &format!("virtio-blk-device,drive={name}{more}")]);
}

/// A part of the guest as a file without a name; QEMU wants whole sectors.
fn copy(image: &Image) -> Result<File, Error> {
    let cannot = || Error::host("cannot make a temporary file");
    let mut file = tempfile::tempfile().map_err(cannot())?;
    let bytes = match image {
        Image::BuiltIn(bytes) => bytes.to_vec(),
        Image::File(path) => std::fs::read(path).map_err(cannot())?,
    };
    file.write_all(&bytes).map_err(cannot())?;
    let whole = bytes.len().next_multiple_of(512) as u64;
    file.set_len(whole).map_err(cannot())?;
    Ok(file)
}

/// Where QEMU finds a file that we hold.
fn path(file: &File) -> PathBuf {
    format!("/proc/{}/fd/{}", std::process::id(), file.as_raw_fd()).into()
}
