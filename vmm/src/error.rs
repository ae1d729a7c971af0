//! The VMM's own error: one variant for each part that can fail, one line for each cause.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use iolite_devices::block::backend::OpenError;
use iolite_devices::virtio::blk::BlockError;

use crate::config::ConfigError;
use crate::crash::Crash;
use crate::kvm::KvmError;
use crate::loader::LoaderError;
use crate::memory::MemoryError;
use crate::output_file::OutputError;
use crate::qemu::MAX_DISKS;
use crate::serve::SocketError;
use crate::trace::read::ReadError;

/// Why a machine could not be built, or did not end well.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The configuration is not one that can be built.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Guest memory of this size is not possible.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// KVM is not usable.
    #[error(transparent)]
    Kvm(#[from] KvmError),
    /// There is neither KVM nor QEMU.
    #[error("{0}; or install QEMU, which can lend the processor (apt-get install qemu-system-x86)")]
    NoProcessor(KvmError),
    /// QEMU is to lend the processor, and is not there.
    #[error("--accel qemu needs qemu-system-x86_64 in PATH (apt-get install qemu-system-x86)")]
    NoQemu,
    /// QEMU's microvm has fewer windows than there are disks.
    #[error(
        "{0} disks are too many for --accel qemu: QEMU's microvm has {MAX_DISKS}, the system disk included"
    )]
    TooManyForQemu(usize),
    /// What needs KVM itself.
    #[error("{0} needs /dev/kvm: QEMU's processor (--accel qemu) would say nothing")]
    OnlyKvm(&'static str),
    /// The kernel or initrd cannot be loaded.
    #[error(transparent)]
    Loader(#[from] LoaderError),
    /// A disk image cannot be used.
    #[error(transparent)]
    Image(#[from] OpenError),
    /// A file cannot be the system disk.
    #[error("system disk {path}: {what}; give a ustar archive (docs/programs.md)")]
    SystemDisk {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        what: &'static str,
    },
    /// What is written to a disk would be written to another file of the machine's.
    #[error(
        "disk {path}: is {what} as well; attach it with `readonly`, or give it a file of its own"
    )]
    SharedDisk {
        /// The disk's file.
        path: PathBuf,
        /// What else it is: `the kernel`.
        what: &'static str,
    },
    /// A file cannot be an output.
    #[error(transparent)]
    Output(#[from] OutputError),
    /// A disk cannot be served where it should.
    #[error(transparent)]
    Socket(#[from] SocketError),
    /// A disk cannot be made.
    #[error("disk {name}: {source}")]
    Disk {
        /// The disk's name in the guest.
        name: String,
        /// What is wrong and what to do.
        source: BlockError,
    },
    /// Two devices claim the same addresses: a mistake of ours.
    #[error("the machine cannot be put together: {0}")]
    Machine(#[from] iolite_devices::bus::BusError),
    /// The host refused something.
    #[error("{what}: {source}")]
    Host {
        /// What was attempted.
        what: String,
        /// What the system said.
        source: io::Error,
    },
    /// The guest, or the vCPU under it, came to an end that nobody wanted.
    #[error("{0}")]
    Crash(Crash),
    /// The guest ran longer than allowed.
    #[error(
        "the guest did not stop within {0:?}: see what it waits for with -vv, or give --timeout more"
    )]
    Timeout(Duration),
    /// A trace cannot be read.
    #[error(transparent)]
    Trace(#[from] ReadError),
    /// The demo failed.
    #[error("demo failed: {0}")]
    Demo(String),
    /// The benchmark failed.
    #[error("bench failed: {0}")]
    Bench(String),
}

impl Error {
    /// For `map_err`: the host refused `what`.
    pub fn host<E: Into<io::Error>>(what: impl Into<String>) -> impl FnOnce(E) -> Error {
        let what = what.into();
        move |source| Error::Host {
            what,
            source: source.into(),
        }
    }
}
