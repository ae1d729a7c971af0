//! `iolite bench bare`: our guest's program `bench` with the limit as its disk, a loop in place of a
//! device (`iolite_devices::virtio::blk::bare`). `--against limit` runs it as it runs other machines.

use std::fs::OpenOptions;
use std::io::{Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;

use iolite_devices::block::backend::file::FileBackend;
use iolite_devices::interrupt::Interrupt;
use iolite_devices::throttle::Budget;
use iolite_devices::virtio::blk::bare::BareDisk;
use iolite_devices::virtio::mmio::VirtioMmio;
use iolite_devices::virtio::notifier::Notifier;

use super::machine::INIT;
use crate::builder::{self, Extras};
use crate::config::MachineConfig;
use crate::error::Error;
use crate::exit_code::ExitCode;
use crate::power::Power;
use crate::processor::Accel;
use crate::{console, guest};

/// Guest memory in bytes, as `iolite run` has it.
const MEMORY_BYTES: u64 = 128 << 20;

/// Boots the guest, and does what is typed on its console.
///
/// # Errors
/// Whatever keeps the machine from running.
pub fn run(disk: &Path, direct: bool) -> Result<ExitCode, Error> {
    let cannot = || Error::host(format!("cannot open {}", disk.display()));
    // It has the lock.
    let _image = FileBackend::open(disk, false)?;
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(if direct { libc::O_DIRECT } else { 0 })
        .open(disk)
        .map_err(cannot())?;
    let bytes = file.seek(SeekFrom::End(0)).map_err(cannot())?;
    let config = MachineConfig {
        memory: MEMORY_BYTES,
        kernel: guest::KERNEL,
        initrd: None,
        cmdline: INIT.into(),
        system: Some(guest::SYSTEM),
        disks: Vec::new(),
        trace: false,
        accel: Some(Accel::Kvm),
    };
    let power = Arc::new(Power::new().map_err(Error::host("cannot make an eventfd"))?);
    let output = console::Output::new(power.clone()).map_err(Error::host("cannot use stdout"))?;
    let bare = |memory: Arc<_>, interrupt: Arc<dyn Interrupt>| {
        let file = file.try_clone().map_err(cannot())?;
        let budget = Budget::default();
        let notifier = Arc::new(Notifier::new("vdb", interrupt, &budget));
        let device = BareDisk::new(Arc::clone(&memory), file, bytes, Arc::clone(&notifier));
        let device = Arc::new(device);
        Ok(Arc::new(VirtioMmio::new("vdb", memory, device, notifier, &budget)) as _)
    };
    let extras = Extras {
        devices: &[&bare],
        ..Extras::default()
    };
    let machine = builder::build_with(&config, Box::new(output), power, &extras)?;
    machine.run(None, true)?.exit_code(None)
}
