//! Command lines that are wrong about the machine: what makes no sense is named in one line and left
//! alone, and the rest works.

use libtest_mimic::Trial;

use crate::ensure;
use crate::support::Outcome;
use crate::support::trial;
use crate::support::vm::Iolite;

/// What the line says of devices, and what the guest says of that. The machine's own windows, of the
/// system disk at 0xd0000000:5 and of an empty disk at 0xd0001000:6, come after it.
const TABLE: &[(&str, &[&str], &str)] = &[
    (
        "one_named_twice",
        &["4K@0xd0000000:5", "4K@0xd0000000:5"],
        "0xd0000000: something else is there",
    ),
    (
        "one_on_the_line_of_another_disk",
        &["4K@0xd0000000:6"],
        "0xd0000000: interrupt line 6 is not its own",
    ),
    (
        "one_on_a_line_that_nobody_has",
        &["4K@0xd0001000:20"],
        "0xd0001000: interrupt line 20 is not its own",
    ),
    (
        "one_on_the_consoles_line",
        &["4K@0xd0000000:4"],
        "0xd0000000: interrupt line 4 is no device's",
    ),
    (
        "a_line_of_three_figures",
        &["4K@0xd0000000:200"],
        "0xd0000000: interrupt line 200 is no device's",
    ),
    (
        "two_that_overlap",
        &["0x1000@0xd0000000:5", "0x1000@0xd0000800:5"],
        "0xd0000800: something else is there",
    ),
    (
        "one_between_two",
        &["512@0xd0000ffc:5"],
        "0xd0000ffc: NotVirtioMmio",
    ),
    ("one_in_memory", &["4K@0x200000:9"], "0x200000: something"),
    (
        "one_at_the_interrupt_controllers",
        &["4K@0xfec00000:9"],
        "0xfec00000: something",
    ),
    (
        "one_without_a_device",
        &["4K@0xd0100000:9"],
        "0xd0100000: NotVirtioMmio",
    ),
    (
        "one_of_100_gib",
        &["100G@0x200000000:9"],
        "0x200000000: NotVirtioMmio",
    ),
    (
        "an_odd_one",
        &["4K@0xd0000001:5"],
        "0xd0000001: no registers",
    ),
    ("one_of_no_bytes", &["0@0xd0000000:5"], "0xd0000000: no reg"),
    (
        "one_behind_all_addresses",
        &["4K@0xfffffffffffff000:9"],
        "0xfffffffffffff000: no reg",
    ),
    (
        "one_behind_the_processors_addresses",
        &["4K@0x4000000000000000:9"],
        "0x4000000000000000: no reg",
    ),
];

pub fn tests() -> Vec<Trial> {
    let mut tests: Vec<Trial> = TABLE
        .iter()
        .map(|&(name, windows, says)| {
            trial::test_of(&format!("windows::{name}"), move || odd(windows, says))
        })
        .collect();
    tests.push(trial::test("windows::very_many", very_many));
    tests.push(trial::test(
        "windows::a_first_program_that_is_not_there",
        no_program,
    ));
    tests
}

fn odd(windows: &[&str], says: &str) -> Outcome {
    let line: String = windows
        .iter()
        .map(|window| format!(" virtio_mmio.device={window}"))
        .collect();
    let ended = Iolite::program(&format!("zeros /dev/vdb{line}"))
        .disk("null:1M")
        .expect(0)?
        .says("1048576 of 1048576 bytes are zero")?
        .says(&format!("iolite: no disk at {says}"))?;
    // However often it makes no sense.
    let told = ended.stdout.matches("iolite: ").count();
    let windows = windows.len();
    ensure!(told <= windows + 1, "{told} lines\n{}", ended.report());
    Ok(())
}

fn very_many() -> Outcome {
    let line: String = (0..45)
        .map(|i| format!(" virtio_mmio.device=1@{}:9", 0xd010_0000_u64 + 4096 * i))
        .collect();
    let ended = Iolite::program(&format!("hello{line}")).expect(0)?;
    let told = ended.stdout.matches("NotVirtioMmio").count();
    ensure!(told == 45, "{told} lines\n{}", ended.report());
    Ok(())
}

/// A first program that is not there: one message, and a status.
fn no_program() -> Outcome {
    for (init, says) in [
        ("nothing", "cannot start bin/nothing: no such file or disk"),
        ("etc/motd", "cannot start etc/motd: not an executable"),
        ("/", "cannot start /: no such file or disk"),
    ] {
        Iolite::program(init).expect(255)?.says(says)?;
    }
    Ok(())
}
