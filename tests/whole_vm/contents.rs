//! The bytes: what the guest writes is in the file, what is in the file the guest reads.

use libtest_mimic::Trial;

use crate::ensure;
use crate::support::Outcome;
use crate::support::image::{Image, pattern, same};
use crate::support::trial;
use crate::support::vm::Iolite;

pub fn tests() -> Vec<Trial> {
    let mut tests = vec![
        trial::test(
            "contents::the_guest_writes_a_part_and_leaves_the_rest",
            a_part,
        ),
        trial::test("contents::the_guest_notices_one_wrong_byte", one_wrong_byte),
        trial::test("contents::four_disks_at_once", four_disks),
        trial::test("contents::a_disk_is_copied_to_another", copy),
        trial::test("contents::a_read_only_disk_refuses_writes", read_only),
        trial::test(
            "contents::digests_by_every_way_of_reading",
            every_way_of_reading,
        ),
        trial::test("contents::threads_read_at_once", threads),
    ];
    for (name, size) in [
        ("512_bytes", 512),
        ("63_kib", 63 << 10),
        ("64_mib", 64 << 20),
    ] {
        for keys in ["workers=1", "workers=16"] {
            let name = format!("contents::both_directions_{name}_{keys}");
            tests.push(trial::test_of(&name, move || both_directions(size, keys)));
        }
    }
    for keys in [
        "engine=uring",
        "engine=sync",
        "engine=uring,queues=4",
        "poll=off",
    ] {
        let name = format!("contents::both_directions_1_mib_{keys}");
        tests.push(trial::test_of(&name, move || {
            both_directions(1 << 20, keys)
        }));
    }
    tests
}

/// The guest fills the disk and the host reads the file; the host fills another file and the guest
/// verifies it.
fn both_directions(size: usize, keys: &str) -> Outcome {
    let written = Image::zeroed(size as u64)?;
    Iolite::program("fill /dev/vdb 7")
        .disk(written.with(keys))
        .expect(0)?;
    written.holds(7, size)?;

    let given = Image::patterned(size, 99)?;
    Iolite::program("verify /dev/vdb 99")
        .disk(given.with(keys))
        .expect(0)?;
    given.holds(99, size)
}

fn a_part() -> Outcome {
    let (size, start, len) = (1 << 20, 12_288, 40_960);
    let image = Image::patterned(size, 3)?;
    Iolite::program(&format!("fill /dev/vdb 4 {start} {len}"))
        .disk(image.path())
        .expect(0)?;
    let mut expected = pattern(3, 0, size);
    expected[start..start + len].copy_from_slice(&pattern(4, start as u64, len));
    same(&image.bytes()?, &expected, &image.path())
}

/// A verification that could not fail would prove nothing.
fn one_wrong_byte() -> Outcome {
    let image = Image::patterned(1 << 20, 5)?;
    image.flip(777_777)?;
    let ended = Iolite::program("verify /dev/vdb 5")
        .disk(image.path())
        .finish()?;
    ensure!(
        ended.code() % 2 == 1,
        "the guest saw nothing wrong\n{}",
        ended.report()
    );
    ensure!(
        ended.stdout.contains("777777"),
        "the byte is not named\n{}",
        ended.report()
    );
    Ok(())
}

/// One shell in one machine: each disk is filled with a seed of its own, so a request that reached
/// the wrong disk would be seen.
fn four_disks() -> Outcome {
    let size = 256 << 10;
    let images: Vec<Image> = (0..4)
        .map(|_| Image::zeroed(size as u64))
        .collect::<Result<_, _>>()?;
    let mut iolite = Iolite::run();
    for (index, image) in images.iter().enumerate() {
        iolite = iolite.disk(image.with(&format!("id=disk-{index}")));
    }
    let mut running = iolite.start()?;
    for (index, letter) in ('b'..='e').enumerate() {
        running.send(&format!("fill /dev/vd{letter} {index}\n"))?;
    }
    for (index, letter) in ('b'..='e').enumerate() {
        running.send(&format!("verify /dev/vd{letter} {index}\n"))?;
    }
    running.send("ls\nexit\n")?;
    let ended = running.finish()?.expect(0)?;
    for (index, image) in images.iter().enumerate() {
        image.holds(index as u64, size)?;
        let id = format!("disk-{index}");
        ensure!(
            ended.stdout.contains(&id),
            "ls does not show {id}\n{}",
            ended.report()
        );
    }
    Ok(())
}

fn copy() -> Outcome {
    let size = 3 << 20;
    let (source, target) = (Image::patterned(size, 21)?, Image::zeroed(size as u64)?);
    Iolite::program("copy /dev/vdb /dev/vdc")
        .disk(source.with("readonly"))
        .disk(target.path())
        .expect(0)?;
    target.holds(21, size)
}

fn read_only() -> Outcome {
    let image = Image::patterned(64 << 10, 8)?;
    let ended = Iolite::program("fill /dev/vdb 9")
        .disk(image.with("readonly"))
        .finish()?;
    ensure!(
        ended.code() % 2 == 1,
        "the guest's write succeeded\n{}",
        ended.report()
    );
    let said = ended.stdout.to_lowercase();
    ensure!(
        said.contains("read-only") || said.contains("erofs"),
        "{}",
        ended.report()
    );
    image.holds(8, 64 << 10)
}

/// Through the page cache, by mapping, and directly.
fn every_way_of_reading() -> Outcome {
    let image = Image::patterned((5 << 20) + 512, 13)?;
    let digest = image.sha256()?;
    let mut running = Iolite::run().disk(image.with("ro")).start()?;
    running.send("sha256 /dev/vdb\nsha256 --map /dev/vdb\nsha256 --direct /dev/vdb\nexit\n")?;
    let ended = running.finish()?.expect(0)?;
    let found = ended.stdout.matches(&digest).count();
    ensure!(
        found == 3,
        "{found} of 3 digests are {digest}\n{}",
        ended.report()
    );
    Ok(())
}

fn threads() -> Outcome {
    let image = Image::patterned(1 << 20, 17)?;
    Iolite::program("threads /dev/vdb 8")
        .disk(image.with("ro"))
        .expect(0)?
        .says(" ok")?;
    Ok(())
}
