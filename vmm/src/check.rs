//! `iolite check`: can machines run here, and on what?

use std::path::Path;

use crate::error::Error;
use crate::exit_code::ExitCode;
use crate::{kvm, screen};

/// KVM's vendor modules and what they are.
const PLATFORMS: [(&str, &str); 3] = [
    (
        "kvm_pvm",
        "PVM: guest user mode runs natively, guest kernel mode is emulated",
    ),
    ("kvm_intel", "Intel VT-x: guests run on the hardware"),
    ("kvm_amd", "AMD-V: guests run on the hardware"),
];

/// Opens /dev/kvm, tries a virtual machine, and says what it found.
///
/// # Errors
/// What is missing, and what to do about it.
pub fn run() -> Result<ExitCode, Error> {
    let kvm = kvm::open()?;
    let memory = crate::memory::create(crate::memory::MIN_BYTES)?;
    kvm::create_vm(&kvm, &memory)?;
    screen::print(&format!("/dev/kvm is usable ({})\n", platform()))?;
    Ok(ExitCode::Clean)
}

fn platform() -> &'static str {
    let loaded = |module: &str| Path::new("/sys/module").join(module).exists();
    let found = PLATFORMS.iter().find(|(module, _)| loaded(module));
    found.map_or("of a kind unknown to iolite", |(_, platform)| platform)
}
