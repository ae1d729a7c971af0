//! Tests of whole virtual machines: the `iolite` binary, our guest, and real disk images, with the
//! bytes checked on both sides.
//!
//! One test: `cargo test --test whole_vm -- NAME`. Environment: IOLITE_REQUIRE_KVM=1 turns skipped
//! tests into failed ones, IOLITE_GUEST_DIR boots another guest than the built-in one,
//! IOLITE_TEST_DEADLINE changes the time in seconds that one virtual machine may take.

#[path = "support/chrome.rs"]
mod chrome;
#[path = "support/preload.rs"]
mod preload;
mod support;

#[path = "whole_vm/bad_input.rs"]
mod bad_input;
#[path = "whole_vm/bench.rs"]
mod bench;
#[path = "whole_vm/console.rs"]
mod console;
#[path = "whole_vm/contents.rs"]
mod contents;
#[path = "whole_vm/cost.rs"]
mod cost;
#[path = "whole_vm/demo.rs"]
mod demo;
#[path = "whole_vm/disks.rs"]
mod disks;
#[path = "whole_vm/emulated.rs"]
mod emulated;
#[path = "whole_vm/ends.rs"]
mod ends;
#[path = "whole_vm/files.rs"]
mod files;
#[path = "whole_vm/lent.rs"]
mod lent;
#[path = "whole_vm/log.rs"]
mod log;
#[path = "whole_vm/memory.rs"]
mod memory;
#[path = "whole_vm/microvm.rs"]
mod microvm;
#[path = "whole_vm/order.rs"]
mod order;
#[path = "whole_vm/panics.rs"]
mod panics;
#[path = "whole_vm/programs.rs"]
mod programs;
#[path = "whole_vm/qemu.rs"]
mod qemu;
#[path = "whole_vm/signals.rs"]
mod signals;
#[path = "whole_vm/stats.rs"]
mod stats;
#[path = "whole_vm/trace.rs"]
mod trace;
#[path = "whole_vm/usertests.rs"]
mod usertests;
#[path = "whole_vm/windows.rs"]
mod windows;

use libtest_mimic::Arguments;

fn main() {
    support::dispositions::ignore_nothing();
    let arguments = Arguments::from_args();
    let tests = [
        bench::tests(),
        contents::tests(),
        cost::tests(),
        demo::tests(),
        disks::tests(),
        ends::tests(),
        files::tests(),
        console::tests(),
        lent::tests(),
        log::tests(),
        memory::tests(),
        order::tests(),
        panics::tests(),
        programs::tests(),
        signals::tests(),
        trace::tests(),
        stats::tests(),
        usertests::tests(),
        windows::tests(),
        microvm::tests(),
        emulated::tests(),
        bad_input::tests(),
    ];
    libtest_mimic::run(&arguments, tests.into_iter().flatten().collect()).exit();
}
