//! The log: at `-v` every request is followed by its id through its five steps.

use std::collections::BTreeMap;
use std::fs;

use libtest_mimic::Trial;

use crate::ensure;
use crate::support::Outcome;
use crate::support::image::Image;
use crate::support::trial;
use crate::support::vm::Iolite;

/// The steps in their order, each by the word that follows the id.
const STEPS: [&str; 5] = ["popped", "started", "finished", "used", "interrupt"];

pub fn tests() -> Vec<Trial> {
    vec![
        trial::test("log::every_request_has_its_five_steps", five_steps),
        trial::test("log::quiet_by_default", quiet_by_default),
        trial::test("log::a_line_is_a_line", one_line),
        trial::test("log::registers_and_exits_at_trace", registers_and_exits),
    ]
}

fn five_steps() -> Outcome {
    let image = Image::patterned(256 << 10, 1)?;
    let ended = Iolite::program("verify /dev/vdb 1")
        .arg("-v")
        .disk(image.with("ro,workers=3"))
        .expect(0)?;
    let mut steps: BTreeMap<(&str, u64), Vec<&str>> = BTreeMap::new();
    for (disk, id, step) in ended.stderr.lines().filter_map(request_step) {
        steps.entry((disk, id)).or_default().push(step);
    }
    ensure!(
        steps.keys().any(|(disk, _)| *disk == "vdb"),
        "no request of vdb\n{}",
        ended.report()
    );
    for ((disk, id), mut found) in steps {
        // GET_ID is answered on the spot: no backend ever sees it.
        let by_backend = found.contains(&"started");
        let expected: Vec<&str> = STEPS
            .into_iter()
            .filter(|step| by_backend || !is_of_backend(step))
            .collect();
        found.sort_by_key(|step| STEPS.iter().position(|known| known == step));
        ensure!(
            found == expected,
            "{disk} #{id}: {found:?}\n{}",
            ended.report()
        );
    }
    Ok(())
}

/// Whatever the path of a disk is.
fn one_line() -> Outcome {
    let image = Image::zeroed(1 << 20)?;
    let path = image.beside("two\nlines\x1b[2J");
    fs::rename(image.path(), &path)?;
    let ended = Iolite::program("echo").arg("-v").disk(&path).expect(0)?;
    ensure!(
        ended.stderr.contains(r"/two\nlines\u{1b}[2J at ") && !ended.stderr.contains('\x1b'),
        "{}",
        ended.report()
    );
    Ok(())
}

fn is_of_backend(step: &str) -> bool {
    matches!(step, "started" | "finished")
}

/// The disk, the id and the step of a line such as `[...] vdb #17 started on worker 2`.
fn request_step(line: &str) -> Option<(&str, u64, &str)> {
    let (before, after) = line.split_once(" #")?;
    let disk = before.rsplit([' ', ']']).next()?;
    let (id, rest) = after.split_once(' ')?;
    let step = rest.split([' ', ':']).next()?;
    STEPS
        .contains(&step)
        .then_some((disk, id.parse().ok()?, step))
}

fn quiet_by_default() -> Outcome {
    let image = Image::patterned(64 << 10, 1)?;
    let ended = Iolite::program("verify /dev/vdb 1")
        .disk(image.with("ro"))
        .expect(0)?;
    ensure!(
        ended.stderr.is_empty(),
        "stderr is not empty\n{}",
        ended.report()
    );
    Ok(())
}

fn registers_and_exits() -> Outcome {
    let ended = Iolite::program("hello").arg("-vv").expect(0)?;
    let traced = ended
        .stderr
        .lines()
        .filter(|line| line.contains(" trace "))
        .count();
    ensure!(traced > 10, "{traced} lines at trace\n{}", ended.report());
    Ok(())
}
