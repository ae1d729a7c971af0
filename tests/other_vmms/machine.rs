//! A machine of strict disks: the first is the guest's system disk, the others are images, which are
//! written back in the end. It has no exit port, so that a guest ends by a reset, whatever its status.

use std::fs;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use iolite::builder::{self, Extra, Extras};
use iolite::config::MachineConfig;
use iolite::console::Output;
use iolite::loader::Image;
use iolite::power::{Power, Stop};
use iolite::processor::Accel;
use iolite_devices::bus::BusDevice;
use iolite_devices::interrupt::Interrupt;
use iolite_devices_abi::blk::{F_RO, T_IN, T_OUT};
use vm_memory::GuestMemoryMmap;

use crate::guest::{kernel, system};
use crate::strict::model;
use crate::strict_disk::StrictDisk;

type Error = Box<dyn std::error::Error>;
/// The sectors of `/dev/vdc` that fail: some for `usertests`, as it describes them.
const FAILING_READS: Range<u64> = 800..804;
const FAILING_WRITES: Range<u64> = 1600..1601;

type Disks = Vec<Arc<StrictDisk>>;

/// Runs it. What the guest's driver did that it may not do is on stderr, and the exit code is 1 then.
pub fn main(words: Vec<String>) {
    match run(&words) {
        Ok(complaints) => {
            complaints
                .iter()
                .take(20)
                .for_each(|complaint| eprintln!("{complaint}"));
            std::process::exit(i32::from(!complaints.is_empty()));
        }
        Err(error) => {
            eprintln!("{error}");
            std::process::exit(2);
        }
    }
}

fn run(words: &[String]) -> Result<Vec<String>, Error> {
    let [name, cmdline, images @ ..] = words else {
        return Err("a model and a command line are needed".into());
    };
    let model = model(name).ok_or("no such model")?;
    let mut contents = vec![system()?];
    for image in images {
        contents.push(fs::read(image)?);
    }
    let disks = Mutex::new(Vec::new());
    let make = |number: usize| {
        let (disks, content, mut model) = (&disks, &contents[number], model.clone());
        if number == 0 {
            model.features |= F_RO;
            model.id = "system";
        }
        move |memory: Arc<GuestMemoryMmap>, interrupt: Arc<dyn Interrupt>| {
            let disk = StrictDisk::new(model.clone(), content.clone(), memory, interrupt);
            let disk = Arc::new(disk);
            if number == 2 {
                disk.fail(T_IN, FAILING_READS);
                disk.fail(T_OUT, FAILING_WRITES);
            }
            lock(disks).push(disk.clone());
            Ok(disk as Arc<dyn BusDevice>)
        }
    };
    let makers: Vec<_> = (0..contents.len()).map(make).collect();
    let devices: Vec<Extra<'_>> = makers.iter().map(|maker| maker as Extra<'_>).collect();
    let config = MachineConfig {
        memory: 128 << 20,
        kernel: Image::File(kernel()),
        initrd: None,
        cmdline: cmdline.clone(),
        system: None,
        disks: Vec::new(),
        trace: false,
        accel: Some(Accel::Kvm),
    };
    let power = Arc::new(Power::new()?);
    let console = Box::new(Output::new(power.clone())?);
    let extras = Extras {
        devices: &devices,
        no_exit_port: true,
    };
    let machine = builder::build_with(&config, console, power, &extras)?;
    let stop = machine.run(None, false)?;
    let disks = disks
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner);
    let mut complaints: Vec<String> = disks.iter().flat_map(|disk| disk.complaints()).collect();
    if !matches!(stop, Stop::Reset) {
        complaints.push(format!("it ended by {stop:?}, not by a reset"));
    }
    for (disk, image) in disks.iter().skip(1).zip(images) {
        let len = fs::metadata(image)?.len() as usize;
        fs::write(image, disk.bytes(0..len))?;
    }
    Ok(complaints)
}

fn lock(disks: &Mutex<Disks>) -> MutexGuard<'_, Disks> {
    disks.lock().unwrap_or_else(PoisonError::into_inner)
}
