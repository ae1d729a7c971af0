//! The guest's parts as files: the ones in resources/guest, or in IOLITE_GUEST_DIR.

use std::path::{Path, PathBuf};
use std::{env, fs, io};

pub fn kernel() -> PathBuf {
    directory().join("kernel")
}

/// The system disk: a tar may end anywhere, a disk has whole sectors.
pub fn system() -> io::Result<Vec<u8>> {
    let mut system = fs::read(directory().join("system.tar"))?;
    system.resize(system.len().next_multiple_of(512), 0);
    Ok(system)
}

fn directory() -> PathBuf {
    match env::var_os("IOLITE_GUEST_DIR") {
        Some(directory) => PathBuf::from(directory),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join("../resources/guest"),
    }
}
