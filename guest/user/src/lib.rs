//! What every program of the guest stands on: its start, the system calls as safe functions, the
//! console, threads, processes, asynchronous I/O, devices and channels for servers, a heap and a
//! clock.
//!
//! A program is one file in `src/bin/`:
//!
//! ```ignore
//! #![no_std]
//! #![no_main]
//! //! Says hello.
//!
//! use iolite_user::{Args, entry, println};
//!
//! entry!(main);
//!
//! fn main(_args: Args) {
//!     println!("hello");
//! }
//! ```
//!
//! `alloc` works. The target has neither floating point nor SSE.

#![no_std]

extern crate alloc;

mod aio;
mod args;
mod block_client;
mod buffer;
mod channel;
mod clock;
pub mod console;
mod device;
mod disk;
mod events;
mod extent;
mod fault;
mod file;
mod heap;
mod lock;
mod mapping;
mod process;
mod shared;
mod start;
mod syscall;
mod thread;
pub mod trace;

pub use aio::{AsyncIo, Completed, RequestId};
pub use args::{Args, number_argument};
pub use block_client::{BlockClient, Finished};
pub use buffer::Buffer;
pub use channel::{Channel, Connector, Listener, port};
pub use clock::{Instant, sleep};
pub use device::{Device, DmaChannel, DmaMemory, DrivenDisk};
pub use disk::{DiskPath, cpu_stats, disk_count, disks, id_of, name_of, system_files};
pub use events::{Pollable, Ready, wait_events};
pub use extent::Extent;
pub use fault::{Resolution, on_fault};
pub use file::File;
pub use iolite_guest_abi as abi;
pub use iolite_guest_abi::{CpuStats, DiskStats, Ended, Errno, FOREVER, Fault, PAGE_BYTES, Stat};
pub use iolite_guest_abi::{MAX_FDS, MAX_IO, kind};
pub use iolite_guest_core as core_logic;
pub use iolite_guest_core::sha256::{Digest, Sha256};
pub use iolite_virtio_driver as driver;
pub use mapping::{Mapping, MappingMut};
pub use process::{Passing, Process, exit};
pub use shared::SharedMapping;
pub use start::{Main, main_returned};
pub use thread::{Thread, yield_now};

/// What a system call gives.
pub type Result<T> = core::result::Result<T, Errno>;

/// Names the function that is the program: it takes [`Args`] and returns `()`, the exit status as
/// `u8`, or a `Result` of either ([`Main`]).
#[macro_export]
macro_rules! entry {
    ($main:path) => {
        // The one name that the runtime's start looks for.
        #[allow(unsafe_code)]
        #[unsafe(no_mangle)]
        extern "C" fn iolite_main() -> u8 {
            $crate::main_returned($main($crate::Args::of_this_process()))
        }
    };
}
