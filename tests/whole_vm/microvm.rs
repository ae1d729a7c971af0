//! The same guest on another VMM: QEMU's microvm boots our kernel with the same disks, announced
//! the same way, and reads the same bytes.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

use libtest_mimic::{Failed, Trial};

use crate::ensure;
use crate::support::Outcome;
use crate::support::image::Image;
use crate::support::trial;
use crate::support::vm::{Ended, Iolite, deadline};

const QEMU: &str = "qemu-system-x86_64";
/// microvm has no i8042, so a clean end arrives as 0 on the exit port: 0 * 2 + 1.
const CLEAN: i32 = 1;

pub fn tests() -> Vec<Trial> {
    vec![
        trial::test_with(QEMU, "microvm::both_vmms_read_the_same_digest", same_digest),
        trial::test_with(
            QEMU,
            "microvm::a_write_under_one_is_read_under_the_other",
            write,
        ),
    ]
}

fn same_digest() -> Outcome {
    let image = Image::patterned((4 << 20) + 512, 51)?;
    let digest = image.sha256()?;
    let program = "sha256 /dev/vdb";
    Iolite::program(program)
        .disk(image.with("ro"))
        .expect(0)?
        .says(&digest)?;
    qemu(program, &image)?.expect(CLEAN)?.says(&digest)?;
    Ok(())
}

fn write() -> Outcome {
    let image = Image::zeroed(1 << 20)?;
    qemu("fill /dev/vdb 52", &image)?.expect(CLEAN)?;
    Iolite::program("verify /dev/vdb 52")
        .disk(image.with("ro"))
        .expect(0)?;
    Ok(())
}

/// Runs `program` in our guest on QEMU, with `image` as the second disk.
fn qemu(program: &str, image: &Image) -> Result<Ended, Failed> {
    let (kernel, system) = guest(image)?;
    let mut command = Command::new("timeout");
    command.arg(deadline().as_secs().to_string()).arg(QEMU);
    command.args([
        "-M",
        "microvm,acpi=off,pit=off,rtc=off,auto-kernel-cmdline=on",
    ]);
    command.args([
        "-accel",
        "kvm",
        "-cpu",
        "qemu64",
        "-m",
        "128",
        "-nodefaults",
    ]);
    command.args([
        "-no-user-config",
        "-no-reboot",
        "-display",
        "none",
        "-serial",
        "stdio",
    ]);
    command.args(["-global", "virtio-mmio.force-legacy=false"]);
    command.args(["-device", "isa-debug-exit,iobase=0xf4,iosize=1"]);
    command
        .arg("-kernel")
        .arg(kernel)
        .args(["-append", &format!("init={program}")]);
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
