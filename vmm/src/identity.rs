//! Which file a path leads to: by whatever name, and behind a loop device too.

use std::ffi::OsString;
use std::fs::{self, Metadata};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

/// A file that keeps bytes, or a stream that mixes them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Identity {
    /// By the file system and the number it has there.
    File(u64, u64),
    /// By the device's number, whichever node names it.
    BlockDevice(u64),
}

impl Identity {
    /// None for a character device: what many write to a terminal or to /dev/null overwrites nothing.
    pub fn of(metadata: &Metadata) -> Option<Identity> {
        let kind = metadata.file_type();
        if kind.is_block_device() {
            return Some(Identity::BlockDevice(metadata.rdev()));
        }
        let file = Identity::File(metadata.dev(), metadata.ino());
        (!kind.is_char_device()).then_some(file)
    }

    /// What is at `path`, and the file behind it if that is a loop device. None where there is nothing.
    pub fn all_at(path: &Path) -> Vec<Identity> {
        let at = |path: &Path| fs::metadata(path).ok().as_ref().and_then(Identity::of);
        let found = at(path);
        let behind = match found {
            Some(Identity::BlockDevice(number)) => behind_loop(number).and_then(|file| at(&file)),
            _ => None,
        };
        found.into_iter().chain(behind).collect()
    }
}

/// The file that a loop device shows.
fn behind_loop(number: u64) -> Option<std::path::PathBuf> {
    let (major, minor) = (libc::major(number), libc::minor(number));
    let says = format!("/sys/dev/block/{major}:{minor}/loop/backing_file");
    let mut path = fs::read(says).ok()?;
    path.pop_if(|last| *last == b'\n');
    Some(OsString::from_vec(path).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::os::unix::fs::symlink;

    #[test]
    fn a_file_is_the_same_by_all_its_names() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        for name in ["a", "b"] {
            fs::write(at(name), "").unwrap();
        }
        fs::hard_link(at("a"), at("hard")).unwrap();
        symlink(at("a"), at("soft")).unwrap();
        let a = Identity::all_at(&at("a"));
        assert_eq!(a.len(), 1);
        for name in ["hard", "soft"] {
            assert_eq!(Identity::all_at(&at(name)), a, "{name}");
        }
        assert_ne!(Identity::all_at(&at("b")), a);
        assert_eq!(Identity::all_at(&at("none")), []);
        assert_eq!(Identity::all_at(Path::new("/dev/null")), []);
    }
}
