//! The whole guest on Firecracker, the program that IOLITE_FIRECRACKER names.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::process::Command;

use libtest_mimic::{Completion, Failed, Trial};
use serde_json::json;

use crate::guest::{kernel, system};
use crate::strict::{five_digests, passes_but_for_what_is_missing};
use crate::support::Outcome;
use crate::support::image::Image;
use crate::support::trial::skipped;
use crate::support::vm::{Ended, Iolite, deadline};

const PROGRAM: &str = "IOLITE_FIRECRACKER";

pub fn tests() -> Vec<Trial> {
    vec![
        test("firecracker::every_path_reads_the_same_bytes", demo),
        test("firecracker::writes_are_read_back", writes),
        test("firecracker::usertests", usertests),
    ]
}

fn test(name: &str, run: fn(OsString) -> Outcome) -> Trial {
    Trial::ignorable_test(name, move || match env::var_os(PROGRAM) {
        Some(program) => run(program).map(|()| Completion::Completed),
        None => Ok(skipped(&format!("{PROGRAM} names no program"))),
    })
}

fn demo(program: OsString) -> Outcome {
    let image = Image::patterned((1 << 20) + 512, 63)?;
    let ended = firecracker(program, "demo /dev/vdb", &image)?;
    five_digests(&image, &ended)
}

fn writes(program: OsString) -> Outcome {
    let size = 1 << 20;
    let image = Image::zeroed(size as u64)?;
    firecracker(program.clone(), "fill /dev/vdb 64", &image)?.says("written and flushed")?;
    image.holds(64, size)?;
    firecracker(program, "verify /dev/vdb 64", &image)?.says("seed 64: ok")?;
    Ok(())
}

fn usertests(program: OsString) -> Outcome {
    let scratch = Image::zeroed(8 << 20)?;
    passes_but_for_what_is_missing(&firecracker(program, "usertests", &scratch)?)
}

/// Runs `init` in our guest on Firecracker, with `image` as the second disk.
fn firecracker(program: OsString, init: &str, image: &Image) -> Result<Ended, Failed> {
    let disk = image.beside("system.img");
    fs::write(&disk, system()?)?;
    let drive = |id, path, read_only| {
        json!({
            "drive_id": id,
            "path_on_host": path,
            "is_root_device": false,
            "is_read_only": read_only,
        })
    };
    let config = json!({
        "boot-source": {"kernel_image_path": kernel(), "boot_args": format!("init={init}")},
        "drives": [drive("system", disk, true), drive("disk", image.path(), false)],
        "machine-config": {"vcpu_count": 1, "mem_size_mib": 128},
    });
    let file = image.beside("firecracker.json");
    fs::write(&file, config.to_string())?;
    let mut command = Command::new("timeout");
    command.arg(deadline().as_secs().to_string()).arg(program);
    command.args([
        "--no-api",
        "--no-seccomp",
        "--level",
        "Error",
        "--config-file",
    ]);
    Iolite::other(command).arg(file).expect(0)
}
