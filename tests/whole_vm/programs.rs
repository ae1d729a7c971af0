//! Programs as docs/programs.md describes them.

use std::io::Write;

use libtest_mimic::Trial;

use crate::ensure;
use crate::support::Outcome;
use crate::support::image::Image;
use crate::support::trial;
use crate::support::vm::Iolite;

const TEXT: &str = include_str!("../../docs/programs.md");
const EXAMPLE: &str = include_str!("../../guest/user/src/bin/zeros.rs");
const SYSTEM: &[u8] = include_bytes!("../../resources/guest/system.tar");
/// The unit of an archive in bytes.
const BLOCK: usize = 512;

pub fn tests() -> Vec<Trial> {
    vec![
        Trial::test("programs::the_example_is_the_documented_one", documented),
        trial::test("programs::the_example_counts_zeros", example),
        trial::test("programs::a_system_disk_of_ones_own", own_system_disk),
    ]
}

fn documented() -> Outcome {
    ensure!(
        TEXT.contains(&format!("```rust\n{EXAMPLE}```\n")),
        "docs/programs.md does not show guest/user/src/bin/zeros.rs as it is"
    );
    Ok(())
}

/// More than the reads in flight at once, and an end that is not a whole block.
const BYTES: usize = (1 << 20) + 4096 + 512;

fn counted(run: Iolite) -> Outcome {
    let image = Image::patterned(BYTES, 9)?;
    let zeros = image.bytes()?.iter().filter(|byte| **byte == 0).count();
    run.disk(image.with("ro"))
        .expect(0)?
        .says(&format!("{zeros} of {BYTES} bytes are zero"))?;
    Ok(())
}

fn example() -> Outcome {
    counted(Iolite::program("zeros /dev/vdb"))
}

/// An archive that holds this one program, cut out of the built-in one.
fn own_system_disk() -> Outcome {
    let program = entry(SYSTEM, "bin/zeros").ok_or("the built-in system disk has no bin/zeros")?;
    let mut archive = tempfile::NamedTempFile::new()?;
    archive.write_all(program)?;
    archive.write_all(&[0; 2 * BLOCK])?;
    counted(Iolite::program("zeros /dev/vdb").option("--system", archive.path()))
}

/// Header and data of a file in a ustar archive (POSIX.1-2024, pax, "ustar Interchange Format").
fn entry<'a>(archive: &'a [u8], name: &str) -> Option<&'a [u8]> {
    let mut rest = archive;
    loop {
        let header = rest.get(..BLOCK)?;
        let size = std::str::from_utf8(&header[124..135]).ok()?;
        let size = usize::from_str_radix(size, 8).ok()?;
        let (whole, later) = rest.split_at_checked(BLOCK + size.next_multiple_of(BLOCK))?;
        if header[..100].split(|byte| *byte == 0).next() == Some(name.as_bytes()) {
            return Some(whole);
        }
        rest = later;
    }
}
