//! The only place where the parts of a machine are joined; a machine of QEMU's in `lent`.

mod lent;

use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;
use std::sync::Arc;

use iolite_devices::block::backend::file::FileBackend;
use iolite_devices::block::backend::memory::MemoryBackend;
use iolite_devices::block::backend::null::NullBackend;
use iolite_devices::block::backend::{Backend, OpenError};
use iolite_devices::bus::{Bus, BusDevice};
use iolite_devices::exit::{self, ExitPort};
use iolite_devices::i8042::{self, I8042};
use iolite_devices::interrupt::Interrupt;
use iolite_devices::serial::Serial;
use iolite_devices::throttle::Budget;
use iolite_devices::virtio::blk::{BlockConfig, BlockDevice, MmioBlock};
use iolite_devices_abi::machine::{
    COM1_IRQ, COM1_PORT, COM1_PORTS, EXIT_PORT, VIRTIO_MMIO_BASE, VIRTIO_MMIO_FIRST_IRQ,
    VIRTIO_MMIO_SIZE,
};
use iolite_devices_abi::mmio::QUEUE_NOTIFY;
use kvm_ioctls::{IoEventAddress, VmFd};
use linux_loader::cmdline::Cmdline;
use vm_memory::{GuestAddress, GuestMemoryMmap};

use crate::config::{DISK, DiskSpec, MachineConfig, Source};
use crate::error::Error;
use crate::exits::Buses;
use crate::identity::Identity;
use crate::kvm::KvmError;
use crate::loader::{self, Image, LoaderError};
use crate::memory::CMDLINE_BYTES;
use crate::power::Power;
use crate::processor::{self, Native, Processor};
use crate::screen::size;
use crate::vcpu::Vcpu;
use crate::vm::{Disk, Machine};
use crate::{irq, memory, trace};

/// What a machine is to have, or to lack, that a configuration does not say.
#[derive(Default)]
pub struct Extras<'a> {
    /// Devices for the windows after the disks'.
    pub devices: &'a [Extra<'a>],
    /// There is no exit port.
    pub no_exit_port: bool,
}

/// A device of the caller's own: made of guest memory and of what raises its interrupt.
pub type Extra<'a> =
    &'a dyn Fn(Arc<GuestMemoryMmap>, Arc<dyn Interrupt>) -> Result<Arc<dyn BusDevice>, Error>;

/// Builds the machine that `config` describes, with COM1's output going to `console`.
///
/// # Errors
/// [`Error`]: everything that can be wrong before a guest's first instruction.
pub fn build(
    config: &MachineConfig,
    console: Box<dyn Write + Send>,
    power: Arc<Power>,
) -> Result<Machine, Error> {
    build_with(config, console, power, &Extras::default())
}

/// [`build`], and what is beyond a configuration.
///
/// # Errors
/// As [`build`], and what making the devices says.
pub fn build_with(
    config: &MachineConfig,
    console: Box<dyn Write + Send>,
    power: Arc<Power>,
    extras: &Extras<'_>,
) -> Result<Machine, Error> {
    config.check()?;
    // What the user can get wrong comes first: it is told even where there is no KVM.
    let backends = backends(config)?;
    let memory = Arc::new(guest_memory(config)?);
    let windows = backends.len() + extras.devices.len();
    let cmdline = cmdline(config, windows)?;
    let initrd = config.initrd.as_ref();
    let boot = loader::load(&memory, config.memory, &config.kernel, initrd, &cmdline)?;
    let Some((kvm, vm)) = processor::kvm(config.accel, &memory)? else {
        // QEMU loads the kernel itself; that it can be loaded is known now.
        return lent::build(config, backends, console, power, extras);
    };
    let mut ports = Bus::new();
    let serial = Arc::new(
        Serial::new(console, Arc::new(irq::line(&vm, COM1_IRQ)?))
            .map_err(Error::host("cannot make COM1"))?,
    );
    ports.insert(COM1_PORT.into(), COM1_PORTS.into(), serial.clone())?;
    if !extras.no_exit_port {
        let port = Arc::new(ExitPort::new(power.clone()));
        ports.insert(EXIT_PORT.into(), exit::PORTS, port)?;
    }
    ports.insert(
        i8042::BASE_PORT,
        i8042::PORTS,
        Arc::new(I8042::new(power.clone())),
    )?;

    let mut mmio = Bus::new();
    let mut disks = Vec::new();
    let budget = Budget::default();
    let mut parts = format!("{} of memory", size(config.memory));
    for (index, (spec, backend)) in backends.into_iter().enumerate() {
        let bytes = backend.capacity();
        let disk = attach(&vm, &memory, index, &spec, backend, &budget, &mut mmio)?;
        parts.push_str(&part(&disk, &spec, bytes));
        disks.push(disk);
    }
    for (index, make) in (disks.len()..).zip(extras.devices) {
        let (base, line) = window(index);
        let device = make(memory.clone(), Arc::new(irq::line(&vm, line)?))?;
        mmio.insert(base, VIRTIO_MMIO_SIZE, device)?;
    }
    let vcpu = Vcpu::new(&kvm, &vm, &memory, boot)?;
    let buses = Buses {
        ports: Arc::new(ports),
        mmio: Arc::new(mmio),
    };
    let native = Native {
        vcpu,
        vm,
        buses,
        serial,
    };
    Ok(Machine {
        processor: Processor::Kvm(Box::new(native)),
        disks,
        power,
        memory,
        parts,
        trace: None,
        stats: None,
    })
}

fn guest_memory(config: &MachineConfig) -> Result<GuestMemoryMmap, Error> {
    let memory = memory::create(config.memory)?;
    if !config.trace {
        return Ok(memory);
    }
    let memory = memory::with_trace_window(memory)?;
    trace::ring::prepare(&memory).map_err(LoaderError::Memory)?;
    Ok(memory)
}

/// What a disk is to be, and where its bytes are.
type NamedBackend = (DiskSpec, Arc<dyn Backend>);

/// Opens all disks, in the order in which the guest sees them.
fn backends(config: &MachineConfig) -> Result<Vec<NamedBackend>, Error> {
    check_shared(config)?;
    let mut backends: Vec<NamedBackend> = Vec::new();
    if let Some(system) = &config.system {
        let (path, backend): (_, Arc<dyn Backend>) = match system {
            Image::BuiltIn(bytes) => (
                "(built-in)".into(),
                Arc::new(
                    MemoryBackend::read_only(bytes)
                        .map_err(Error::host("cannot map the system disk"))?,
                ),
            ),
            Image::File(path) => (path.clone(), Arc::new(system_image(path)?)),
        };
        let id = Some("system".to_owned());
        backends.push((
            DiskSpec {
                read_only: true,
                id,
                ..DiskSpec::new(path)
            },
            backend,
        ));
    }
    for spec in &config.disks {
        backends.push((spec.clone(), backend(spec)?));
    }
    Ok(backends)
}

fn system_image(path: &Path) -> Result<FileBackend, Error> {
    let unfit = |what| Error::SystemDisk {
        path: path.to_owned(),
        what,
    };
    let opened = FileBackend::open(path, true);
    match opened {
        Err(OpenError::Missing(_)) => Err(unfit("no such file")),
        // These have been looked at, and can be read without effects.
        Ok(_) | Err(OpenError::PartialSector { .. }) if !is_ustar(path) => {
            Err(unfit("is no ustar archive"))
        }
        Err(OpenError::PartialSector { .. }) => {
            Err(unfit("is cut off: its size is not a multiple of 512"))
        }
        opened => Ok(opened?),
    }
}

/// Does the file begin like an archive, also like one that is empty?
fn is_ustar(path: &Path) -> bool {
    let mut block = [0; 512];
    let read = File::open(path).and_then(|mut file| file.read_exact(&mut block));
    read.is_ok() && (block[257..262] == *b"ustar" || block == [0; 512])
}

/// Is what the guest writes to a disk written to another file of the machine's?
fn check_shared(config: &MachineConfig) -> Result<(), Error> {
    let files = config.files();
    for disk in config.disks.iter().filter(|disk| !disk.read_only) {
        let Source::Image(path) = &disk.source else {
            continue;
        };
        let identities = Identity::all_at(path);
        let is_same = |path| {
            Identity::all_at(path)
                .iter()
                .any(|file| identities.contains(file))
        };
        let same: Vec<_> = files.iter().filter(|(_, path)| is_same(path)).collect();
        if same.len() > 1 {
            let other = same.iter().find(|(what, _)| *what != DISK);
            let what = other.map_or("another disk", |(what, _)| what);
            let path = path.clone();
            return Err(Error::SharedDisk { path, what });
        }
    }
    Ok(())
}

/// Opens where a disk's bytes are.
///
/// # Errors
/// What is wrong with the image, or that the host has no memory.
pub(crate) fn backend(spec: &DiskSpec) -> Result<Arc<dyn Backend>, Error> {
    Ok(match &spec.source {
        Source::Image(path) if spec.direct => {
            Arc::new(FileBackend::open_direct(path, spec.read_only)?)
        }
        Source::Image(path) => {
            let image = FileBackend::open(path, spec.read_only)?;
            Arc::new(image.with_mapped(spec.mapped))
        }
        Source::Open(file) => {
            let file = file
                .0
                .try_clone()
                .map_err(Error::host("cannot share a disk"))?;
            Arc::new(FileBackend::adopt(file, spec.read_only)?)
        }
        Source::Memory(bytes) => {
            let what = format!("cannot map a disk of {bytes} bytes");
            Arc::new(MemoryBackend::zeroed(*bytes).map_err(Error::host(what))?)
        }
        Source::Null(bytes) => Arc::new(NullBackend::new(*bytes)),
    })
}

/// The kernel's command line: the user's text, then the windows of all devices, and of the trace.
fn cmdline(config: &MachineConfig, windows: usize) -> Result<Cmdline, LoaderError> {
    let cmdline = match config.cmdline.trim() {
        "" => Cmdline::new(CMDLINE_BYTES),
        text => Cmdline::try_from(text, CMDLINE_BYTES),
    };
    let mut cmdline = cmdline.map_err(LoaderError::Cmdline)?;
    for index in 0..windows {
        let (base, line) = window(index);
        cmdline
            .add_virtio_mmio_device(VIRTIO_MMIO_SIZE, GuestAddress(base), line, None)
            .map_err(LoaderError::Cmdline)?;
    }
    if config.trace {
        cmdline
            .insert_str(trace::ring::word())
            .map_err(LoaderError::Cmdline)?;
    }
    Ok(cmdline)
}

/// The address and the interrupt line of disk number `index`.
fn window(index: usize) -> (u64, u32) {
    (
        VIRTIO_MMIO_BASE + index as u64 * VIRTIO_MMIO_SIZE,
        VIRTIO_MMIO_FIRST_IRQ + index as u32,
    )
}

/// Makes disk number `index`: its device, its window, its interrupt line.
fn attach(
    vm: &VmFd,
    memory: &Arc<GuestMemoryMmap>,
    index: usize,
    spec: &DiskSpec,
    backend: Arc<dyn Backend>,
    budget: &Budget,
    mmio: &mut Bus,
) -> Result<Disk, Error> {
    let name = disk_name(index);
    let (base, line) = window(index);
    let config = block_config(&name, spec, budget);
    let interrupt = Arc::new(irq::line(vm, line)?);
    let MmioBlock { device, window } =
        BlockDevice::on_mmio(memory.clone(), backend, config, interrupt).map_err(|source| {
            Error::Disk {
                name: name.clone(),
                source,
            }
        })?;
    mmio.insert(base, VIRTIO_MMIO_SIZE, window)?;
    // A queue's notification (a write of its number) reaches the queue's own thread without an exit
    // to the vCPU's.
    let notify = IoEventAddress::Mmio(base + QUEUE_NOTIFY);
    for (number, doorbell) in (0u32..).zip(device.queue_notify()) {
        vm.register_ioevent(doorbell, &notify, number)
            .map_err(KvmError::call("connect a queue's notification"))?;
    }
    log::debug!(
        "{name}: {} at {base:#x}, interrupt line {line}",
        spec.source
    );
    Ok(Disk {
        name,
        device: Arc::new(device),
        writable: !spec.read_only,
    })
}

/// What the device called `name` is to be.
pub(crate) fn block_config(name: &str, spec: &DiskSpec, budget: &Budget) -> BlockConfig {
    BlockConfig {
        name: name.to_owned(),
        id: spec.id.clone().unwrap_or_else(|| name.to_owned()),
        engine: spec.engine,
        queues: spec.queues,
        workers: spec.workers,
        queue_size: spec.queue_size,
        poll: spec.poll,
        read_only: spec.read_only,
        cache: spec.cache,
        block_size: spec.block_size,
        injection: spec.injection.clone(),
        budget: budget.clone(),
    }
}

/// A disk as a part of the machine, for people.
pub(crate) fn part(disk: &Disk, spec: &DiskSpec, bytes: u64) -> String {
    let Disk { name, device, .. } = disk;
    let mut part = format!("; {name}: {}, {} engine", size(bytes), device.engine());
    if spec.queues > 1 {
        part.push_str(&format!(", {} queues", spec.queues));
    }
    for (is_so, what) in [(spec.direct, ", direct"), (spec.read_only, ", read-only")] {
        part.push_str(if is_so { what } else { "" });
    }
    part
}

/// The name that the guest gives to disk number `index`: `vda`, `vdb`, ...
pub(crate) fn disk_name(index: usize) -> String {
    // There are fewer disks than letters.
    format!("vd{}", char::from(b'a' + index as u8))
}
