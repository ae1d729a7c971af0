//! Opening a disk image: every reason why it cannot be a disk, told apart.
#![allow(unsafe_code)]

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Seek, SeekFrom};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::lock::lock;

/// Is a block device read-only? From linux/fs.h; the libc crate does not have it.
const BLKROGET: libc::Ioctl = 0x125e;

/// Why an image cannot be used. What is advised leaves every byte of it alone.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// There is nothing at the path.
    #[error("disk {0}: no such file; create one with `truncate -s 64M {word}`", word = Quoted(.0))]
    Missing(PathBuf),
    /// The path names a directory.
    #[error("disk {0}: is a directory; name a disk image or a block device")]
    Directory(PathBuf),
    /// The path names a pipe, a socket, a character device.
    #[error("disk {0}: is neither a file nor a block device; name a disk image")]
    NotADisk(PathBuf),
    /// The file may not be read.
    #[error("disk {0}: cannot be read; check its permissions with `ls -l {word}`", word = Quoted(.0))]
    NotReadable(PathBuf),
    /// The file or the block device may be read, but not written.
    #[error("disk {0}: cannot be written; make it writable or attach it with `readonly`")]
    NotWritable(PathBuf),
    /// There are no bytes.
    #[error("disk {0}: is empty; give it a size with `truncate -s 64M {word}`", word = Quoted(.0))]
    Empty(PathBuf),
    /// The size is not a whole number of sectors.
    #[error(
        "disk {path}: its size of {size} bytes is not a multiple of 512, as a raw image's is; \
         give a copy of it that is padded with `truncate -s %512 COPY`"
    )]
    PartialSector {
        /// The image.
        path: PathBuf,
        /// Its size in bytes.
        size: u64,
    },
    /// Its file system has no direct I/O.
    #[error("disk {0}: its file system cannot read and write directly; leave out `direct`")]
    NoDirect(PathBuf),
    /// The size is not a whole number of the blocks of direct I/O.
    #[error(
        "disk {path}: its size of {size} bytes is not a multiple of {block}, as direct I/O needs it; \
         leave out `direct`, or give a copy of it that is padded with `truncate -s %{block} COPY`"
    )]
    PartialBlock {
        /// The image.
        path: PathBuf,
        /// Its size in bytes.
        size: u64,
        /// A block in bytes.
        block: u64,
    },
    /// Somebody else writes to the image, or reads it while we want to write.
    #[error(
        "disk {0}: is in use by another process; stop it, or attach the disk with `readonly` to \
         both"
    )]
    Locked(PathBuf),
    /// Anything else.
    #[error("disk {path}: {error}")]
    Io {
        /// The image.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
}

/// Opens, checks and locks the image at `path`; returns it with its size in bytes.
/// `flags` are opened with besides the usual ones.
pub(super) fn open(
    path: &Path,
    read_only: bool,
    flags: libc::c_int,
) -> Result<(File, u64), OpenError> {
    // Asked before opening: opening a pipe or a terminal would have effects.
    let kind = path
        .metadata()
        .map_err(|error| refused(path, error))?
        .file_type();
    if kind.is_dir() {
        return Err(OpenError::Directory(path.to_owned()));
    }
    if !kind.is_file() && !kind.is_block_device() {
        return Err(OpenError::NotADisk(path.to_owned()));
    }
    let file = OpenOptions::new()
        .read(true)
        .write(!read_only)
        .custom_flags(libc::O_CLOEXEC | libc::O_NONBLOCK | flags)
        .open(path)
        .map_err(|error| refused(path, error))?;
    // The kernel lets anybody open one that was set read-only, and refuses each write.
    if !read_only && kind.is_block_device() && is_set_read_only(&file) {
        return Err(OpenError::NotWritable(path.to_owned()));
    }
    let size = adopt(&file, path, read_only)?;
    Ok((file, size))
}

/// Checks and locks an image that is open; returns its size in bytes. `path` is for messages.
pub(super) fn adopt(file: &File, path: &Path, read_only: bool) -> Result<u64, OpenError> {
    let io_error = |error| OpenError::Io {
        path: path.to_owned(),
        error,
    };
    let size = size(file).map_err(io_error)?;
    if size == 0 {
        return Err(OpenError::Empty(path.to_owned()));
    }
    if !size.is_multiple_of(512) {
        return Err(OpenError::PartialSector {
            path: path.to_owned(),
            size,
        });
    }
    if !lock(file, read_only).map_err(io_error)? {
        return Err(OpenError::Locked(path.to_owned()));
    }
    forget_access_times(file);
    Ok(size)
}

/// A block device, by `blockdev --setro` or by nature.
fn is_set_read_only(device: &File) -> bool {
    let mut is_set: libc::c_int = 0;
    // SAFETY: the descriptor is open, and the call writes an int.
    let asked = unsafe { libc::ioctl(device.as_raw_fd(), BLKROGET, &mut is_set) };
    asked == 0 && is_set != 0
}

/// Reads no longer look at the clock to note when they were: of a read from the page cache that is
/// some hundredths. Only the owner of an image may ask for it; others do without.
fn forget_access_times(file: &File) {
    let fd = file.as_raw_fd();
    // SAFETY: both commands take or return a number, and the descriptor is open.
    unsafe {
        let flags = libc::fcntl(fd, libc::F_GETFL);
        if flags >= 0 {
            libc::fcntl(fd, libc::F_SETFL, flags | libc::O_NOATIME);
        }
    }
}

/// The size of an image in bytes: where its end is, for files and block devices alike.
pub(super) fn size(mut file: &File) -> io::Result<u64> {
    file.seek(SeekFrom::End(0))
}

/// Size in bytes of an image as the host knows it now, without asking a network or a server, and without
/// waiting for whoever writes. None for block devices, which keep theirs.
pub(super) fn known_size(file: &File) -> Option<u64> {
    // SAFETY: a statx is plain data, for which zero is valid; the path is an empty one, and the call
    // writes to the statx and to nothing else.
    let (done, stat) = unsafe {
        let mut stat: libc::statx = std::mem::zeroed();
        let flags = libc::AT_EMPTY_PATH | libc::AT_STATX_DONT_SYNC;
        let mask = libc::STATX_SIZE | libc::STATX_TYPE;
        let done = libc::statx(file.as_raw_fd(), c"".as_ptr(), flags, mask, &mut stat);
        (done, stat)
    };
    let is_file = u32::from(stat.stx_mode) & libc::S_IFMT == libc::S_IFREG;
    (done == 0 && is_file).then_some(stat.stx_size)
}

/// Size in bytes of the blocks in which an image is best read and written: what its file system
/// says, within reason.
pub(super) fn block_size(file: &File) -> u32 {
    let says = file.metadata().map_or(0, |metadata| metadata.blksize());
    let reasonable = |size: &u32| size.is_power_of_two() && (512..=65536).contains(size);
    u32::try_from(says).ok().filter(reasonable).unwrap_or(4096)
}

fn refused(path: &Path, error: io::Error) -> OpenError {
    let owned = path.to_owned();
    match error.kind() {
        io::ErrorKind::NotFound => OpenError::Missing(owned),
        io::ErrorKind::PermissionDenied if File::open(path).is_ok() => {
            OpenError::NotWritable(owned)
        }
        io::ErrorKind::PermissionDenied => OpenError::NotReadable(owned),
        io::ErrorKind::ReadOnlyFilesystem => OpenError::NotWritable(owned),
        // Of all flags O_DIRECT alone can be impossible.
        io::ErrorKind::InvalidInput => OpenError::NoDirect(owned),
        _ => OpenError::Io { path: owned, error },
    }
}

/// A path as a word for a shell.
struct Quoted<'a>(&'a Path);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.0.to_string_lossy();
        let plain = |c: char| c.is_alphanumeric() || "/._-+:,@%=".contains(c);
        let path = match path.strip_prefix('-') {
            Some(_) => format!("./{path}"),
            None => path.into_owned(),
        };
        match path.chars().all(plain) {
            true => f.write_str(&path),
            false => write!(f, "'{}'", path.replace('\'', r"'\''")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_advised_is_one_word_for_a_shell() {
        for (path, word) in [
            ("/a/b-c.img", "/a/b-c.img"),
            ("a b", "'a b'"),
            ("it's; rm x", r"'it'\''s; rm x'"),
            ("-rf", "./-rf"),
        ] {
            assert_eq!(Quoted(Path::new(path)).to_string(), word);
        }
        let missing = OpenError::Missing("a b".into()).to_string();
        assert!(missing.ends_with("`truncate -s 64M 'a b'`"), "{missing}");
    }
}
