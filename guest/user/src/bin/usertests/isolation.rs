//! What no process may do ends that process, in the right way, and nothing else.

use crate::check::{Check, PAGE, SCRATCH, end_of, equal};
use crate::raw;
use crate::run::Test;
use iolite_user::{Ended, Fault, File, Process};

pub const TESTS: &[Test] = &[
    Test::plain("faults_by_address", faults_by_address),
    Test::plain("faults_by_instruction", faults_by_instruction),
    Test::plain("reading_what_is_not_mapped", reading_what_is_not_mapped),
    Test::disk("mappings_are_what_they_were_made_for", mappings_rights),
    Test::disk("data_is_not_executed", data_is_not_executed),
    Test::plain("memory_of_others_is_out_of_reach", memory_of_others),
];

/// How `bin/crash KIND` ends.
fn crash(kind: &str, wanted: Fault) -> Check {
    let ended = Process::spawn("bin/crash", ["crash", kind])?.wait()?;
    equal(kind, ended, Ended::Killed(wanted))
}

fn faults_by_address() -> Check {
    for kind in ["null", "write-text", "exec-data", "kernel-address", "stack"] {
        crash(kind, Fault::BadAddress)?;
    }
    Ok(())
}

fn faults_by_instruction() -> Check {
    for kind in ["undefined", "hlt", "port"] {
        crash(kind, Fault::BadInstruction)?;
    }
    crash("divide", Fault::Arithmetic)
}

fn reading_what_is_not_mapped() -> Check {
    for address in [
        "0",
        "0xffff",
        "0x600000000000",
        "0x7ffffffff000",
        "0xffff800000000000",
        "0xffffffff80100000",
        "0xfffffffffffffff8",
    ] {
        let ended = end_of("peek", &[address])?;
        equal(address, ended, Ended::Killed(Fault::BadAddress))?;
    }
    Ok(())
}

fn mappings_rights() -> Check {
    for rights in ["0", "1"] {
        let ended = end_of("poke-mapping", &[rights])?;
        equal("writing", ended, Ended::Killed(Fault::BadAddress))?;
    }
    Ok(())
}

fn data_is_not_executed() -> Check {
    // mov eax, 42; ret
    let disk = File::open_writable(SCRATCH)?;
    disk.pwrite_all(&[0xb8, 42, 0, 0, 0, 0xc3], 0)?;
    let ended = end_of("run-mapping", &["1"])?;
    equal("executable", ended, Ended::Exited(42))?;
    let ended = end_of("run-mapping", &["0"])?;
    equal("not executable", ended, Ended::Killed(Fault::BadAddress))
}

/// The same addresses, in two processes, are two things.
fn memory_of_others() -> Check {
    let pages = raw::pages(4)?;
    for index in 0..4 {
        raw::poke(pages.page(index), 0x5a);
    }
    // A child maps pages at the same addresses and writes other bytes there.
    equal("child", end_of("write-zeroes", &["4"])?, Ended::Exited(0))?;
    for index in 0..4 {
        equal("byte", raw::peek(pages.page(index)), 0x5a)?;
    }
    equal("page size", pages.len as u64, 4 * PAGE)
}
