//! Opening a disk image: every reason why it cannot be a disk, told apart.
#![allow(unsafe_code)]

use std::fs::{File, OpenOptions};
use std::io::{self, Seek, SeekFrom};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Why an image cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// There is nothing at the path.
    #[error("disk {0}: no such file; create one with `truncate -s 64M {0}`")]
    Missing(PathBuf),
    /// The path names a directory.
    #[error("disk {0}: is a directory; name a disk image or a block device")]
    Directory(PathBuf),
    /// The path names a pipe, a socket, a character device.
    #[error("disk {0}: is neither a file nor a block device; name a disk image")]
    NotADisk(PathBuf),
    /// The file may not be read.
    #[error("disk {0}: cannot be read; check its permissions with `ls -l {0}`")]
    NotReadable(PathBuf),
    /// The file may be read, but not written.
    #[error("disk {0}: cannot be written; make it writable or attach it with `readonly`")]
    NotWritable(PathBuf),
    /// There are no bytes.
    #[error("disk {0}: is empty; give it a size with `truncate -s 64M {0}`")]
    Empty(PathBuf),
    /// The size is not a whole number of sectors.
    #[error(
        "disk {path}: its size of {size} bytes is not a multiple of 512; \
         round it up with `truncate -s %512 {path}`"
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
         leave out `direct`, or round it up with `truncate -s %{block} {path}`"
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
    let io_error = |error| OpenError::Io {
        path: path.to_owned(),
        error,
    };
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
    let size = size(&file).map_err(io_error)?;
    if size == 0 {
        return Err(OpenError::Empty(path.to_owned()));
    }
    if !size.is_multiple_of(512) {
        return Err(OpenError::PartialSector {
            path: path.to_owned(),
            size,
        });
    }
    if !lock(&file, read_only).map_err(io_error)? {
        return Err(OpenError::Locked(path.to_owned()));
    }
    forget_access_times(&file);
    Ok((file, size))
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

/// Takes the lock that tells writers apart: shared for a reader, exclusive for a writer. False if
/// somebody holds one that excludes ours.
fn lock(file: &File, read_only: bool) -> io::Result<bool> {
    let kind = if read_only {
        libc::F_RDLCK
    } else {
        libc::F_WRLCK
    };
    let Err(error) = set_lock(file, kind) else {
        return Ok(true);
    };
    match error.raw_os_error() {
        Some(libc::EAGAIN | libc::EACCES) => Ok(false),
        // File systems without locks: nobody else is excluded there either.
        Some(libc::EINVAL | libc::ENOLCK | libc::EOPNOTSUPP | libc::ENOSYS) => Ok(true),
        _ => Err(error),
    }
}

/// Gives the lock back. Closing the file does so too, but not at once where an io_uring has it.
pub(super) fn unlock(file: &File) {
    // If there was none, there is none.
    let _ = set_lock(file, libc::F_UNLCK);
}

fn set_lock(file: &File, kind: libc::c_int) -> io::Result<()> {
    // SAFETY: flock is plain data; all zeros mean "from byte 0 to the end", and OFD locks require
    // a zero pid.
    let mut request: libc::flock = unsafe { std::mem::zeroed() };
    request.l_type = kind as libc::c_short;
    request.l_whence = libc::SEEK_SET as libc::c_short;
    // SAFETY: the descriptor is open and the pointer valid for the duration of the call.
    match unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_SETLK, &request) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
