//! Our guest on machines that are not ours: on a machine of nothing but strict devices
//! (`tests/support/strict_disk.rs`) and without an exit port, on any host, and on Firecracker, whose
//! program IOLITE_FIRECRACKER names.
//!
//! This program is the first of these machines too, in a process of its own: `other_vmms machine
//! MODEL CMDLINE IMAGE...`.

#[allow(dead_code, reason = "these tests use a part of it")]
#[path = "../support/mod.rs"]
mod support;

mod firecracker;
mod guest;
mod machine;
mod strict;
#[path = "../support/strict_disk.rs"]
mod strict_disk;

use libtest_mimic::Arguments;

fn main() {
    let mut words = std::env::args().skip(1);
    if words.next().as_deref() == Some("machine") {
        return machine::main(words.collect());
    }
    let arguments = Arguments::from_args();
    let tests = [strict::tests(), firecracker::tests()];
    libtest_mimic::run(&arguments, tests.into_iter().flatten().collect()).exit();
}
