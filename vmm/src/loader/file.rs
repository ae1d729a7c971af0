//! Files of the user's: opened without waiting, and read into guest memory whole or not at all.

use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use vm_memory::{
    GuestAddress, GuestMemoryBackend, GuestMemoryMmap, ReadVolatile, VolatileMemoryError,
};

/// Opens a regular file for reading.
///
/// # Errors
/// What is wrong, and what to do.
pub fn open(path: &Path) -> Result<File, String> {
    // What is no regular file may do something when it is opened: look first. That a named pipe
    // takes its place meanwhile should not make us wait for it.
    check(&std::fs::metadata(path).map_err(cannot_open)?)?;
    let mut options = OpenOptions::new();
    let options = options.read(true).custom_flags(libc::O_NONBLOCK);
    let file = options.open(path).map_err(cannot_open)?;
    check(&file.metadata().map_err(cannot_open)?)?;
    Ok(file)
}

fn check(metadata: &Metadata) -> Result<(), String> {
    match metadata.is_file() {
        true => Ok(()),
        false if metadata.is_dir() => Err("is a directory: give a file".into()),
        false => Err("is not a regular file: give the path of one".into()),
    }
}

fn cannot_open(error: io::Error) -> String {
    match error.kind() {
        ErrorKind::NotFound => "does not exist: check the path".into(),
        ErrorKind::PermissionDenied => "is not readable: check its permissions".into(),
        _ => format!("cannot be opened: {error}"),
    }
}

/// Reads the next `bytes` bytes of `file` into guest memory at `address`, with as many reads as it
/// takes: one gives 2 GiB at most, and may give less or be interrupted.
///
/// # Errors
/// What is wrong, and what to do.
pub fn read_into(
    memory: &GuestMemoryMmap,
    address: u64,
    file: &mut impl ReadVolatile,
    bytes: u64,
) -> Result<(), String> {
    let slice = memory.get_slice(GuestAddress(address), bytes as usize);
    let mut slice = slice.map_err(|error| error.to_string())?;
    file.read_exact_volatile(&mut slice).map_err(cannot_read)
}

fn cannot_read(error: VolatileMemoryError) -> String {
    match error {
        VolatileMemoryError::IOError(error) if error.kind() == ErrorKind::UnexpectedEof => {
            "has become shorter while it was read: try again".into()
        }
        VolatileMemoryError::IOError(error) => format!("cannot be read: {error}"),
        error => format!("cannot be read: {error}"),
    }
}
