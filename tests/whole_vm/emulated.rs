//! Our guest on a processor that QEMU emulates (TCG), which needs no KVM: the local APIC without
//! x2APIC, or with it (QEMU has it from version 9 on; an older one warns, and goes on without),
//! with a PIT and without one, on one processor and beside another, which our kernel leaves alone.

use libtest_mimic::Trial;

use crate::ensure;
use crate::qemu::{CLEAN, Microvm, QEMU};
use crate::support::Outcome;
use crate::support::image::Image;
use crate::support::trial;

const XAPIC_PIT: Microvm = Microvm {
    accel: "tcg",
    cpu: "max",
    processors: "1",
    pit: true,
};
const X2APIC: Microvm = Microvm {
    cpu: "max,+x2apic",
    pit: false,
    ..XAPIC_PIT
};
const TWO_PROCESSORS: Microvm = Microvm {
    processors: "2",
    ..XAPIC_PIT
};
const TWO_PROCESSORS_X2APIC: Microvm = Microvm {
    processors: "2",
    ..X2APIC
};

/// What usertests needs of its disk.
const SCRATCH_BYTES: u64 = 8 << 20;

pub fn tests() -> Vec<Trial> {
    let mut tests = Vec::new();
    let machines = [
        ("xapic_pit", XAPIC_PIT),
        ("x2apic", X2APIC),
        ("two_processors", TWO_PROCESSORS),
        ("two_processors_x2apic", TWO_PROCESSORS_X2APIC),
    ];
    for (part, (name, machine)) in (1..).zip(machines) {
        let test = |what, run: fn(&Microvm, usize) -> Outcome| {
            let name = format!("emulated::{name}_{what}");
            trial::without_kvm(QEMU, &name, move || run(&machine, part))
        };
        tests.push(test("demo", demo));
        tests.push(test("usertests", usertests));
        tests.push(test("clock", clock));
    }
    tests.push(trial::without_kvm(QEMU, "emulated::told_clock", told_clock));
    tests
}

/// Each path of the demo reads what is in the image.
fn demo(machine: &Microvm, seed: usize) -> Outcome {
    let image = Image::patterned((2 << 20) + 512, seed as u64)?;
    let digest = image.sha256()?;
    let ended = machine.run("init=demo /dev/vdb", &image)?.expect(CLEAN)?;
    let rows = ended.stdout.lines().filter(|line| line.contains(&digest));
    let paths = rows
        .filter(|line| line.starts_with("demo: path name="))
        .count();
    ensure!(
        paths == 5,
        "{paths} paths read {digest}\n{}",
        ended.report()
    );
    Ok(())
}

/// Four machines share the tests.
fn usertests(machine: &Microvm, part: usize) -> Outcome {
    let image = Image::zeroed(SCRATCH_BYTES)?;
    let words = format!("init=usertests --part {part}/4");
    let ended = machine
        .run(&words, &image)?
        .expect(CLEAN)?
        .says(" passed, 0 failed")?;
    let passed = ended.stdout.matches(": OK").count();
    ensure!(passed >= 40, "{passed} tests\n{}", ended.report());
    Ok(())
}

/// A second by the guest's clock is one by the host's. A host that is busy makes the run longer, so
/// it may try again.
fn clock(machine: &Microvm, _: usize) -> Outcome {
    let image = Image::zeroed(512)?;
    let mut best = f64::MAX;
    for _ in 0..5 {
        let ended = machine.run("init=spin 1000", &image)?.expect(CLEAN)?;
        best = best.min(ended.took.as_secs_f64());
        ensure!(best > 0.98, "a second took {best} s\n{}", ended.report());
        if best < 2.0 {
            return Ok(());
        }
    }
    Err(format!("a second took {best} s").into())
}

/// A clock that is said to be ten times as fast as any is too slow.
fn told_clock() -> Outcome {
    let image = Image::zeroed(512)?;
    let words = "tsc_early_khz=60000000 init=spin 100";
    let ended = X2APIC.run(words, &image)?.expect(CLEAN)?;
    let took = ended.took.as_secs_f64();
    ensure!(took > 0.98, "{took} s\n{}", ended.report());
    Ok(())
}
