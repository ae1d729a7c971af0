//! The demo's disk: the user's, or a temporary one with generated content; and its digest as the
//! host computes it.
//!
//! A disk that the guest only reads is hashed after the guest has run, so that the host's reads
//! neither compete with the guest's nor warm the page cache for them. A disk that the guest writes
//! is hashed before and after.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use iolite_devices::block::backend::OpenError;
use iolite_devices::block::backend::file::FileBackend;
use sha2::{Digest, Sha256};

use super::progress::Progress;
use crate::config::{ConfigError, OpenFile, Source};
use crate::error::Error;
use crate::screen::{Screen, size};

/// Size of the temporary disk in bytes.
const TEMPORARY_BYTES: u64 = 16 << 20;
/// How much is hashed or generated at a time.
const BLOCK_BYTES: usize = 256 * 1024;

/// The demo's disk.
pub struct DemoDisk {
    /// None for the temporary disk, which has no name.
    path: Option<PathBuf>,
    file: Arc<File>,
    bytes: u64,
    /// The digest of what was generated, or of what was there before the guest wrote.
    before: Option<String>,
}

impl DemoDisk {
    /// The image at `path`, or a temporary disk.
    ///
    /// # Errors
    /// If the image cannot be read, or the host has no room for a temporary one. (An image that
    /// cannot be a disk is told apart when the machine opens it.)
    pub fn prepare(path: Option<&Path>, write: bool, screen: &Screen) -> Result<Self, Error> {
        let Some(path) = path else {
            return generate().map_err(Error::host("cannot make a temporary disk of 16 MiB"));
        };
        // The machine opens it the same way later; asked here, every mistake has its own line.
        FileBackend::open(path, !write).map_err(|error| hint_at_keys(path, error))?;
        let cannot = || Error::host(format!("disk {} cannot be read", path.display()));
        let mut file = File::open(path).map_err(cannot())?;
        let bytes = file.seek(SeekFrom::End(0)).map_err(cannot())?;
        let mut disk = DemoDisk {
            path: Some(path.to_owned()),
            file: Arc::new(file),
            bytes,
            before: None,
        };
        if write {
            disk.before = Some(disk.digest(screen)?);
        }
        Ok(disk)
    }

    /// The disk's size in bytes.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The digest before the guest ran, if it is known.
    pub fn digest_before(&self) -> Option<&str> {
        self.before.as_deref()
    }

    /// What to call the disk.
    pub fn name(&self) -> String {
        match &self.path {
            Some(path) => path.display().to_string(),
            None => "(temporary)".into(),
        }
    }

    /// Where the machine finds the disk. The temporary one never had a name.
    pub fn image(&self) -> Source {
        match &self.path {
            Some(path) => Source::Image(path.clone()),
            None => Source::Open(OpenFile(Arc::clone(&self.file))),
        }
    }

    /// The disk in a few words.
    pub fn describe(&self, write: bool) -> String {
        let access = if write { "writable" } else { "read-only" };
        let size = size(self.bytes);
        match &self.path {
            Some(path) => format!("{}, {size}, {access}", path.display()),
            None => format!("temporary, {size} of generated content, {access}"),
        }
    }

    /// The SHA-256 of the disk as it is now, in hexadecimal.
    ///
    /// # Errors
    /// If the disk cannot be read.
    pub fn digest(&self, screen: &Screen) -> Result<String, Error> {
        let cannot = || Error::host(format!("disk {} cannot be read", self.name()));
        let mut file = &*self.file;
        file.seek(SeekFrom::Start(0)).map_err(cannot())?;
        let mut progress = Progress::new(screen, "hashing on the host");
        let mut hasher = Sha256::new();
        let mut block = vec![0; BLOCK_BYTES];
        let mut done = 0;
        loop {
            let len = match file.read(&mut block) {
                Ok(0) => return Ok(format!("{:x}", hasher.finalize())),
                Ok(len) => len,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(cannot()(error)),
            };
            hasher.update(&block[..len]);
            done += len as u64;
            progress.update(done, self.bytes);
        }
    }
}

/// Keys behind the image, as `iolite run` takes them, are part of its name here: say so.
fn hint_at_keys(path: &Path, error: OpenError) -> Error {
    let text = path.to_string_lossy();
    match error {
        OpenError::Missing(_) if text.contains(',') => ConfigError::KeysOfDemo(text.into()).into(),
        error => error.into(),
    }
}

/// A temporary disk: the same content every time, without a pattern that a misplaced sector could
/// hide in.
fn generate() -> io::Result<DemoDisk> {
    let mut file = tempfile::tempfile()?;
    let mut hasher = Sha256::new();
    let mut random = SplitMix64(TEMPORARY_BYTES);
    let mut block = vec![0; BLOCK_BYTES];
    for _ in 0..TEMPORARY_BYTES / BLOCK_BYTES as u64 {
        for word in block.chunks_exact_mut(8) {
            word.copy_from_slice(&random.next().to_le_bytes());
        }
        hasher.update(&block);
        file.write_all(&block)?;
    }
    let before = Some(format!("{:x}", hasher.finalize()));
    Ok(DemoDisk {
        path: None,
        file: Arc::new(file),
        bytes: TEMPORARY_BYTES,
        before,
    })
}

/// The generator splitmix64 (Steele, Lea, Flood 2014).
struct SplitMix64(u64);

impl SplitMix64 {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::os::unix::fs::FileExt;

    #[test]
    fn the_temporary_disk_has_the_digest_of_its_content() {
        let disk = generate().unwrap();
        let mut content = vec![0; TEMPORARY_BYTES as usize];
        disk.file.read_exact_at(&mut content, 0).unwrap();
        assert_eq!(
            Some(format!("{:x}", Sha256::digest(&content)).as_str()),
            disk.digest_before()
        );
        // Every sector differs from every other.
        let mut sectors: Vec<_> = content.chunks_exact(512).collect();
        sectors.sort_unstable();
        sectors.dedup();
        assert_eq!(sectors.len() * 512, content.len());
    }
}
