//! QEMU's command line.

use std::ffi::OsStr;
use std::os::fd::RawFd;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::PROGRAM;

/// The most disks: microvm has as many virtio-mmio windows.
pub const MAX_DISKS: usize = 8;

/// What QEMU is to be.
pub struct Machine<'a> {
    /// Memory in bytes.
    pub memory: u64,
    /// The kernel, an ELF file.
    pub kernel: &'a Path,
    /// An initial RAM disk.
    pub initrd: Option<&'a Path>,
    /// The kernel's command line.
    pub cmdline: &'a OsStr,
    /// A socket for each disk, and how many queues it has.
    pub disks: Vec<(RawFd, u16)>,
    /// The socket of the monitor.
    pub monitor: RawFd,
}

impl Machine<'_> {
    /// The command line. QEMU inherits the descriptors.
    pub fn command(&self) -> Command {
        let mut command = Command::new(PROGRAM);
        let bytes = self.memory;
        command.args([
            "-M",
            "microvm,acpi=off,pit=off,rtc=off,auto-kernel-cmdline=on,memory-backend=ram",
            "-object",
            &format!("memory-backend-memfd,id=ram,size={bytes},share=on"),
            "-m",
            &format!("{bytes}B"),
        ]);
        command.args(["-accel", "tcg,thread=multi", "-smp", "2", "-cpu", "max"]);
        command.args([
            "-nodefaults",
            "-no-user-config",
            "-no-reboot",
            "-display",
            "none",
        ]);
        command.args([
            "-serial",
            "stdio",
            "-device",
            "isa-debug-exit,iobase=0xf4,iosize=1",
        ]);
        command.args(["-global", "virtio-mmio.force-legacy=false"]);
        // Only the log, on stderr, tells a triple fault from another reset.
        command.args(["-d", "cpu_reset"]);
        let monitor = format!("socket,id=monitor,fd={}", self.monitor);
        command.args(["-chardev", &monitor, "-mon", "chardev=monitor,mode=control"]);
        for (number, (socket, queues)) in self.disks.iter().enumerate() {
            command.args(["-chardev", &format!("socket,id=disk{number},fd={socket}")]);
            let device = format!("vhost-user-blk,chardev=disk{number},num-queues={queues}");
            command.args(["-device", &device]);
        }
        command.arg("-kernel").arg(plain(self.kernel));
        if let Some(initrd) = self.initrd {
            command.arg("-initrd").arg(plain(initrd));
        }
        command.arg("-append").arg(self.cmdline);
        command
    }
}

/// A path that QEMU does not take for an option.
fn plain(path: &Path) -> PathBuf {
    Path::new(".").join(path)
}
