//! iolite's virtual machine monitor: everything that knows KVM.
//!
//! One way through it: [`cli`] turns the command line into a [`config`], [`builder`] joins the
//! parts into a [`vm::Machine`], whose [`vcpu`] runs on a thread of its own and serves [`exits`]
//! from the buses of `iolite-devices`; the main thread attends to [`events`]. What ends a machine
//! goes through [`power`] and leaves the process as an [`exit_code`]. [`demo`] and [`mod@bench`] are
//! the program's own uses of all this; [`watch`] feeds [`trace`] and [`stats`].

pub mod bench;
pub mod builder;
pub mod check;
pub mod cli;
pub mod columns;
pub mod config;
pub mod console;
pub mod crash;
pub mod demo;
pub mod error;
pub mod events;
pub mod exit_code;
pub mod exits;
pub mod guest;
pub mod identity;
pub mod irq;
pub mod kvm;
pub mod kvm_stats;
pub mod loader;
pub mod logging;
pub mod memory;
pub mod one_line;
pub mod output_file;
pub mod panics;
pub mod power;
pub mod process_cpu;
pub mod processor;
pub mod qemu;
pub mod registers;
pub mod screen;
pub mod serve;
pub mod shutdown;
pub mod signals;
pub mod stats;
pub mod status_line;
pub mod trace;
pub mod unflushed;
pub mod vcpu;
pub mod vm;
pub mod watch;
