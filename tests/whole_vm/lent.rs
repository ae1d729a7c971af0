//! Machines whose processor QEMU lends (`--accel qemu`): the same results, and the same ends, without KVM.

use std::fs;

use libtest_mimic::Trial;

use crate::ensure;
use crate::qemu::QEMU;
use crate::support::Outcome;
use crate::support::image::Image;
use crate::support::trial;
use crate::support::vm::Iolite;

pub fn tests() -> Vec<Trial> {
    let test = |name, run: fn() -> Outcome| trial::without_kvm(QEMU, name, run);
    vec![
        test("lent::five_digests_are_equal", demo),
        test("lent::what_is_written_is_in_the_image", written),
        test("lent::the_shell_answers", shell),
        test("lent::the_ends_are_those_of_kvm", ends),
        test("lent::check_says_so", check),
    ]
}

fn demo() -> Outcome {
    let image = Image::patterned((1 << 20) + 512, 3)?;
    let results = image.beside("results.json");
    let demo = Iolite::demo().option("--accel", "qemu").disk(image.path());
    let ended = demo.option("--json", &results).expect(0)?;
    let results = fs::read_to_string(results)?;
    crate::demo::check(&results, (1 << 20) + 512, Some(&image), &ended)
}

fn written() -> Outcome {
    let image = Image::zeroed(1 << 20)?;
    let filled = Iolite::program("fill /dev/vdb 7").option("--accel", "qemu");
    let filled = filled.disk(image.with("engine=uring")).arg("--stats");
    let ended = filled.expect(0)?;
    image.holds(7, 1 << 20)?;
    ensure!(
        ended.stderr.contains("vdb"),
        "no statistics\n{}",
        ended.report()
    );
    Ok(())
}

fn shell() -> Outcome {
    let mut running = Iolite::run().env("IOLITE_ACCEL", "qemu").start()?;
    // Before there is a guest that could read it.
    running.send("echo one two\n")?;
    running.wait_for("iolite$ ", 2)?;
    running.send("exit 3\n")?;
    let ended = running.finish_with_input_open()?.expect(7)?;
    ensure!(
        ended.stdout.contains("\none two"),
        "echo said nothing\n{}",
        ended.report()
    );
    Ok(())
}

fn ends() -> Outcome {
    let lent = |init| Iolite::program(init).option("--accel", "qemu");
    lent("hello").expect(0)?;
    lent("nosuchprogram").expect(255)?;
    lent("sh")
        .option("--timeout", "2s")
        .start()?
        .finish_with_input_open()?
        .expect(14)?;
    Iolite::run()
        .option("--accel", "qemu")
        .stdin(std::process::Stdio::null())
        .expect(0)?;
    Ok(())
}

fn check() -> Outcome {
    Iolite::new()
        .args(["check", "--accel", "qemu"])
        .expect(0)?
        .says("QEMU")?;
    let nowhere = Iolite::new().args(["check", "--accel", "qemu"]);
    nowhere.env("PATH", "").expect(6)?;
    Ok(())
}
