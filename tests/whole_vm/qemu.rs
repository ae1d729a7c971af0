//! Our guest on QEMU's microvm, with QEMU's own disks, announced as iolite announces them.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

use libtest_mimic::Failed;

use crate::ensure;
use crate::support::image::Image;
use crate::support::vm::{Ended, Iolite, deadline};

pub const QEMU: &str = "qemu-system-x86_64";
/// microvm has no i8042, so a clean end arrives as 0 on the exit port: 0 * 2 + 1.
pub const CLEAN: i32 = 1;

/// What QEMU is to make its machine of.
#[derive(Clone, Copy)]
pub struct Microvm {
    pub accel: &'static str,
    pub cpu: &'static str,
    pub processors: &'static str,
    /// Is there an 8254?
    pub pit: bool,
}

impl Microvm {
    /// Runs our kernel with `words` on its command line, and with `image` as the second disk.
    pub fn run(&self, words: &str, image: &Image) -> Result<Ended, Failed> {
        let (kernel, system) = guest(image)?;
        let pit = if self.pit { "on" } else { "off" };
        let machine = format!("microvm,acpi=off,pit={pit},rtc=off,auto-kernel-cmdline=on");
        let mut command = Command::new("timeout");
        command.arg(deadline().as_secs().to_string()).arg(QEMU);
        command.args(["-M", &machine, "-accel", self.accel, "-cpu", self.cpu]);
        command.args(["-smp", self.processors, "-m", "128"]);
        command.args("-nodefaults -no-user-config -no-reboot -display none".split(' '));
        command.args("-serial stdio -global virtio-mmio.force-legacy=false".split(' '));
        command.args(["-device", "isa-debug-exit,iobase=0xf4,iosize=1"]);
        command.arg("-kernel").arg(kernel).args(["-append", words]);
        let system = format!("file={},read-only=on", system.display());
        let disk = format!("file={}", image.path().display());
        for (name, drive) in [("system", system), ("disk", disk)] {
            command
                .arg("-drive")
                .arg(format!("id={name},if=none,format=raw,{drive}"));
            command.args(["-device", &format!("virtio-blk-device,drive={name}")]);
        }
        Iolite::other(command).finish()
    }
}

/// The guest's kernel and system disk as files; QEMU wants whole sectors, a tar may end anywhere.
fn guest(image: &Image) -> Result<(PathBuf, PathBuf), Failed> {
    let directory = match env::var_os("IOLITE_GUEST_DIR") {
        Some(directory) => PathBuf::from(directory),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join("../resources/guest"),
    };
    let mut system = fs::read(directory.join("system.tar"))?;
    ensure!(!system.is_empty(), "the system disk is empty");
    system.resize(system.len().next_multiple_of(512), 0);
    let copy = image.beside("system.img");
    fs::write(&copy, system)?;
    Ok((directory.join("kernel"), copy))
}
