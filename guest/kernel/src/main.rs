//! The iolite guest kernel: a small one whose subject is block I/O.
//!
//! This file is the boot order and nothing else. Where to go on:
//!
//! - `block`: the one primitive, `submit -> completion`, and the synchronous procedure on top.
//! - `mm::pager`: the kernel as the one who asks, asynchronously.
//! - `syscall`, `fs::file`: the process as the one who asks.
//! - `ipc`, `block::lent`: the process that drives a disk itself and serves others.
//! - `arch::trap`: where the processor comes in; `task::scheduler`: who runs next.

#![no_std]
#![no_main]

extern crate alloc;

mod arch;
mod block;
mod boot;
mod console;
mod fs;
mod interrupts;
mod ipc;
mod mm;
mod panic;
mod sync;
mod syscall;
mod task;
mod trace;

use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec::Vec;
use boot::Boot;
use core::ops::Range;
use fs::Files;
use fs::object::{self, Extent};
use iolite_devices_abi::blk::SECTOR_SIZE;
use iolite_devices_abi::machine::COM1_IRQ;
use iolite_guest_abi::rights;
use iolite_guest_core::cmdline::{self, Window, Word};
use mm::layout::FIRST_FREE;

/// What runs when the command line names no program.
const DEFAULT_INIT: &str = "sh";

/// The first Rust code, on the boot stack, with the boot page tables.
#[allow(unsafe_code)]
#[unsafe(no_mangle)]
extern "C" fn kernel_main(start_info: u64) -> ! {
    arch::serial::start();
    println!("iolite: guest kernel {}", env!("CARGO_PKG_VERSION"));
    let boot = Boot::read(start_info);
    start_memory(&boot);
    trace::init(boot.command_line());
    arch::gdt::init();
    arch::idt::init();
    arch::apic::init();
    if let Err(error) = arch::time::init(cmdline::tsc_hz(boot.command_line())) {
        panic!("{error}");
    }
    task::scheduler::init();

    // From here on somebody may have to wait, and only a thread can.
    let options = Box::new(Options::read(&boot));
    let argument = Box::into_raw(options).expose_provenance() as u64;
    if let Err(error) = task::scheduler::spawn_kernel(start_system, argument) {
        panic!("cannot start a thread: {error}");
    }
    task::scheduler::exit_current(0)
}

/// The first thread.
#[allow(unsafe_code)]
extern "C" fn start_system(options: u64) {
    // SAFETY: `kernel_main` made the argument from a box and has let go of it.
    let options = unsafe {
        Box::from_raw(core::ptr::with_exposed_provenance_mut::<Options>(
            options as usize,
        ))
    };
    mm::cache::init(options.cache);
    arch::apic::route(COM1_IRQ as u8);
    arch::serial::enable_input();
    start_disks(&options);
    start_helpers();
    start_init(&options);
}

fn start_memory(boot: &Boot) {
    mm::frame::init(mm::paging::image_end(), &boot.memory);
    mm::paging::init(&boot.memory);
    mm::frame::start_counting();
    mm::heap::init();
}

/// Every disk becomes an object; the files of one of them become the directory.
fn start_disks(options: &Options) {
    block::init(&options.windows, &options.taken);
    for number in 0..block::disks() {
        let Some(disk) = block::DiskId::from_number(number) else {
            break;
        };
        let bytes = disk.sectors().saturating_mul(SECTOR_SIZE);
        let extent = Extent {
            disk,
            first_sector: 0,
            bytes,
        };
        match object::add(extent) {
            Ok(object) => fs::file::add_disk(object),
            Err(error) => panic!("no room for the disks: {error}"),
        }
    }
    let Some(disk) = block::system_disk() else {
        panic!("no disk: the command line names no virtio_mmio.device with a block device");
    };
    if let Err(error) = fs::mount::mount(disk) {
        panic!("cannot mount the system disk: {error}");
    }
}

fn start_helpers() {
    for helper in [mm::cache::write_back::flusher, block::keeper::run] {
        if let Err(error) = task::scheduler::spawn_kernel(helper, 0) {
            panic!("cannot start the kernel's own threads: {error}");
        }
    }
}

fn start_init(options: &Options) {
    let path = if options.init.contains('/') {
        options.init.clone()
    } else {
        alloc::format!("bin/{}", options.init)
    };
    let mut args = Vec::from(options.init.as_bytes());
    args.push(0);
    args.extend_from_slice(&options.arguments);
    if let Err(error) = task::exec::spawn(&path, &args, None, Files::new(), rights::ALL) {
        panic!("cannot start {path}: {error}");
    }
}

/// What the command line says.
struct Options {
    windows: Vec<Window>,
    /// Addresses where there are no devices.
    taken: Vec<Range<u64>>,
    init: String,
    arguments: Vec<u8>,
    /// In bytes; a part of memory if it is not given.
    cache: Option<u64>,
}

impl Options {
    fn read(boot: &Boot) -> Options {
        // Below 1 MiB there may be RAM anywhere.
        let taken = [0..FIRST_FREE, arch::apic::REGISTERS];
        let mut options = Options {
            windows: Vec::new(),
            taken: taken.into_iter().chain(boot.memory.clone()).collect(),
            init: String::from(DEFAULT_INIT),
            arguments: Vec::new(),
            cache: None,
        };
        for word in cmdline::words(boot.command_line()) {
            match word {
                Word::Device(window) => options.windows.push(window),
                Word::Init(init) => options.init = String::from(init),
                Word::Cache(bytes) => options.cache = Some(bytes),
                Word::Argument(argument) => {
                    options.arguments.extend_from_slice(argument.as_bytes());
                    options.arguments.push(0);
                }
                Word::Trace(Window { address, bytes, .. }) => {
                    options.taken.push(address..address.saturating_add(bytes));
                }
                Word::TscHz(_) | Word::Ignored => {}
                Word::Bad(word) => println!("iolite: {word}: not understood, ignored"),
            }
        }
        options
    }
}
