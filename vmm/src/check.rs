//! `iolite check`: can machines run here, and on what?

use std::path::Path;
use std::process::Command;

use crate::error::Error;
use crate::exit_code::ExitCode;
use crate::processor::Accel;
use crate::{kvm, qemu, screen};

/// KVM's vendor modules and what they are.
const PLATFORMS: [(&str, &str); 3] = [
    (
        "kvm_pvm",
        "PVM: guest user mode runs natively, guest kernel mode is emulated",
    ),
    ("kvm_intel", "Intel VT-x: guests run on the hardware"),
    ("kvm_amd", "AMD-V: guests run on the hardware"),
];

/// Tries what can lend a processor, or `accel` alone, and says what it found.
///
/// # Errors
/// If nothing can: what is missing, and what to do about it.
pub fn run(accel: Option<Accel>) -> Result<ExitCode, Error> {
    match accel {
        Some(Accel::Kvm) => screen::print(&by_kvm()?)?,
        Some(Accel::Qemu) => screen::print(&by_qemu()?)?,
        None => match (by_kvm(), by_qemu()) {
            (Err(Error::Kvm(error)), Err(_)) => return Err(Error::NoProcessor(error)),
            found => {
                for one in <[_; 2]>::from(found) {
                    screen::print(&one.unwrap_or_else(|error| format!("{error}\n")))?;
                }
            }
        },
    }
    Ok(ExitCode::Clean)
}

fn by_kvm() -> Result<String, Error> {
    let kvm = kvm::open()?;
    let memory = crate::memory::create(crate::memory::MIN_BYTES)?;
    kvm::create_vm(&kvm, &memory)?;
    Ok(format!("/dev/kvm is usable ({})\n", platform()))
}

fn by_qemu() -> Result<String, Error> {
    let output = Command::new(qemu::PROGRAM).arg("--version").output();
    let output = output.map_err(|_| Error::NoQemu)?;
    let said = String::from_utf8_lossy(&output.stdout);
    let version = said.lines().next().unwrap_or("QEMU").trim();
    Ok(format!(
        "QEMU can lend the processor (--accel qemu): {version}\n"
    ))
}

fn platform() -> &'static str {
    let loaded = |module: &str| Path::new("/sys/module").join(module).exists();
    let found = PLATFORMS.iter().find(|(module, _)| loaded(module));
    found.map_or("of a kind unknown to iolite", |(_, platform)| platform)
}
