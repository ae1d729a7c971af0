//! Disk images with known bytes, deleted with their directory.
//!
//! The pattern is that of the guest's programs `fill` and `verify`, computed here a second time on
//! purpose: each 8-byte little-endian word is `splitmix64(seed + byte_offset / 8)`.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use libtest_mimic::Failed;
use sha2::{Digest, Sha256};
use tempfile::TempDir;

use super::Outcome;
use crate::ensure;

/// A raw disk image in a directory of its own.
pub struct Image {
    directory: TempDir,
}

impl Image {
    /// An image of `size` bytes, all zero.
    pub fn zeroed(size: u64) -> Result<Image, Failed> {
        let image = Image {
            directory: tempfile::tempdir()?,
        };
        File::create(image.path())?.set_len(size)?;
        Ok(image)
    }

    /// An image of `size` bytes filled with the pattern of `seed`.
    pub fn patterned(size: usize, seed: u64) -> Result<Image, Failed> {
        let image = Image {
            directory: tempfile::tempdir()?,
        };
        fs::write(image.path(), pattern(seed, 0, size))?;
        Ok(image)
    }

    /// Where it is.
    pub fn path(&self) -> PathBuf {
        self.directory.path().join("disk.img")
    }

    /// Its path with keys behind it, as `--disk` takes it.
    pub fn with(&self, keys: &str) -> String {
        format!("{},{keys}", self.path().display())
    }

    /// A path next to it, for what a test wants written.
    pub fn beside(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// All its bytes.
    pub fn bytes(&self) -> Result<Vec<u8>, Failed> {
        Ok(fs::read(self.path())?)
    }

    /// Its SHA-256 in hexadecimal, as `sha256sum` prints it.
    pub fn sha256(&self) -> Result<String, Failed> {
        let digest = Sha256::digest(self.bytes()?);
        Ok(digest.iter().map(|byte| format!("{byte:02x}")).collect())
    }

    /// Changes one byte.
    pub fn flip(&self, offset: u64) -> Outcome {
        let file = File::options().read(true).write(true).open(self.path())?;
        let mut byte = [0];
        file.read_exact_at(&mut byte, offset)?;
        file.write_all_at(&[byte[0] ^ 0x40], offset)?;
        Ok(())
    }

    /// Fails unless the whole image is the pattern of `seed`, and `size` bytes long.
    pub fn holds(&self, seed: u64, size: usize) -> Outcome {
        let bytes = self.bytes()?;
        ensure!(
            bytes.len() == size,
            "the image has {} bytes, not {size}",
            bytes.len()
        );
        same(&bytes, &pattern(seed, 0, size), &self.path())
    }
}

/// `len` bytes of the pattern of `seed`, from byte `offset` (a multiple of 8) of the disk on.
pub fn pattern(seed: u64, offset: u64, len: usize) -> Vec<u8> {
    let first = offset / 8;
    let words = (first..).map(|index| splitmix64(seed.wrapping_add(index)));
    words.flat_map(u64::to_le_bytes).take(len).collect()
}

/// Fails with the first difference, if there is one.
pub fn same(found: &[u8], expected: &[u8], what: &Path) -> Outcome {
    let differs = found.iter().zip(expected).position(|(a, b)| a != b);
    if let Some(at) = differs {
        let (found, expected) = (found[at], expected[at]);
        ensure!(
            false,
            "{}: byte {at} is {found:#04x}, not {expected:#04x}",
            what.display()
        );
    }
    Ok(())
}

fn splitmix64(state: u64) -> u64 {
    let mut z = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
