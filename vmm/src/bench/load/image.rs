//! The disk that is loaded: an image whose every sector says which one it is
//! (`iolite_guest_core::bench`).

use std::fs::{File, OpenOptions};
use std::io::{Seek, SeekFrom, Write};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use iolite_devices::block::backend::Backend as _;
use iolite_devices::block::backend::file::FileBackend;
use iolite_guest_core::bench::{MAX_BLOCK_BYTES, MAX_DEPTH, stamp_block};
use iolite_guest_core::pattern;

use crate::config::ConfigError;
use crate::error::Error;

/// How much is filled at a time.
const CHUNK_BYTES: usize = 1 << 20;
/// How much of it is written at a time. File systems make a folio of the page cache as large as the
/// write that begins it, and with large ones what is measured is how the host finds a block in
/// them: ext4 looks at all 256 blocks of a folio of 1 MiB to write one, which takes 20 us.
const WRITE_BYTES: usize = 16 << 10;

/// The image, filled.
pub struct Image {
    /// None for the temporary one, which has no name.
    path: Option<PathBuf>,
    file: File,
    bytes: u64,
}

impl Image {
    /// The smallest image on which all cells make sense: no two requests in flight need to meet.
    pub const MIN_BYTES: u64 = (MAX_BLOCK_BYTES * MAX_DEPTH) as u64;

    /// Overwrites the disk at `path`, or makes a temporary one of `size` bytes.
    ///
    /// # Errors
    /// [`Error::Image`] if the disk cannot be had for oneself, [`Error::Host`] if the host refuses it,
    /// [`Error::Config`] if it is too small.
    pub fn prepare(path: Option<&Path>, size: u64) -> Result<Image, Error> {
        // Nobody else may write to it, nor a machine have it: this has the lock until it is filled,
        // and then each machine in its turn.
        let locked = path
            .map(|path| FileBackend::open(path, false))
            .transpose()?;
        let bytes = locked.as_ref().map_or(size, FileBackend::capacity);
        if bytes < Image::MIN_BYTES {
            let least = Image::MIN_BYTES >> 20;
            return Err(ConfigError::BenchDiskTooSmall { bytes, least }.into());
        }
        let image = Image {
            path: path.map(Path::to_owned),
            file: open(path)?,
            bytes,
        };
        image.fill().map_err(Error::host("cannot fill the disk"))?;
        image.sync()?;
        Ok(image)
    }

    /// Keeps others away for a subject that does not.
    ///
    /// # Errors
    /// [`Error::Image`] if somebody has it.
    pub fn lock(&self) -> Result<FileBackend, Error> {
        Ok(FileBackend::open(&self.path(), false)?)
    }

    /// The image's size in bytes.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Has what was written to it written back: nothing is to be while something is measured.
    ///
    /// # Errors
    /// [`Error::Host`] if the host cannot.
    pub fn sync(&self) -> Result<(), Error> {
        let synced = self.file.sync_data();
        synced.map_err(Error::host("cannot write the disk back"))
    }

    /// Where other processes find it. The temporary one has no name any more, but we hold it.
    pub fn path(&self) -> PathBuf {
        let own = || format!("/proc/{}/fd/{}", std::process::id(), self.file.as_raw_fd());
        self.path.clone().unwrap_or_else(|| own().into())
    }

    /// What to call it.
    pub fn name(&self) -> String {
        match &self.path {
            Some(path) => path.display().to_string(),
            None => "(temporary)".into(),
        }
    }

    /// The image in a few words.
    pub fn describe(&self, direct: bool) -> String {
        let cache = if direct {
            "past the host's page cache"
        } else {
            "in the host's page cache"
        };
        format!("{}, {} MiB, {cache}", self.name(), self.bytes >> 20)
    }

    /// Fills it with what no host can compress or share, and marks each sector.
    fn fill(&self) -> std::io::Result<()> {
        let mut file = &self.file;
        file.seek(SeekFrom::Start(0))?;
        let mut chunk = vec![0; CHUNK_BYTES];
        let mut at = 0;
        while at < self.bytes {
            let len = (self.bytes - at).min(CHUNK_BYTES as u64) as usize;
            pattern::fill(&mut chunk[..len], 0, at);
            stamp_block(&mut chunk[..len], at, 0);
            for piece in chunk[..len].chunks(WRITE_BYTES) {
                file.write_all(piece)?;
            }
            at += len as u64;
        }
        Ok(())
    }
}

/// The file at `path`, or a temporary one.
fn open(path: Option<&Path>) -> Result<File, Error> {
    let Some(path) = path else {
        return tempfile::tempfile().map_err(Error::host("cannot make a temporary disk"));
    };
    let cannot = format!("cannot overwrite {}", path.display());
    let options = OpenOptions::new().read(true).write(true).open(path);
    options.map_err(Error::host(cannot))
}

#[cfg(test)]
mod tests {
    use super::*;
    use iolite_guest_core::bench::holds;

    #[test]
    fn the_image_is_filled_to_its_end() {
        let bytes = Image::MIN_BYTES + 512;
        let image = Image::prepare(None, bytes).unwrap();
        let content = std::fs::read(image.path()).unwrap();
        assert_eq!(content.len() as u64, bytes);
        assert!(holds(&content, 0, Some(0)));
    }

    #[test]
    fn a_disk_of_somebody_else_is_not_overwritten() {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(Image::MIN_BYTES).unwrap();
        let machine = FileBackend::open(file.path(), true).unwrap();
        let refused = Image::prepare(Some(file.path()), 0);
        assert!(matches!(refused, Err(Error::Image(_))));
        let content = std::fs::read(file.path()).unwrap();
        assert!(content.iter().all(|byte| *byte == 0));
        drop(machine);
        let image = Image::prepare(Some(file.path()), 0).unwrap();
        let locked = image.lock().unwrap();
        assert!(FileBackend::open(file.path(), true).is_err());
        drop(locked);
        assert!(FileBackend::open(file.path(), true).is_ok());
    }

    #[test]
    fn a_small_disk_is_refused() {
        assert!(matches!(Image::prepare(None, 4096), Err(Error::Config(_))));
    }
}
