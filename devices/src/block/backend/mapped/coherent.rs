//! Whether a mapping shows what a read would return.
//!
//! Both look at the same page cache where the file system keeps the bytes on this host alone. A network
//! or FUSE server is asked by reads, now and then, whether they are still right, and not by who looks at
//! a page. On overlayfs, what was opened for reading may be replaced by a copy, as soon as somebody
//! opens it for writing: reads go to the copy, and a mapping stays with the original.
#![allow(unsafe_code)]

use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileTypeExt;

/// Their numbers are those of include/uapi/linux/magic.h, or of their own sources.
const LOCAL: [libc::c_long; 7] = [
    libc::EXT4_SUPER_MAGIC, // and ext2, ext3
    libc::XFS_SUPER_MAGIC,
    libc::BTRFS_SUPER_MAGIC,
    libc::F2FS_SUPER_MAGIC,
    libc::TMPFS_MAGIC,
    0x8584_58f6, // ramfs
    0xca45_1a4e, // bcachefs
];

/// Whether `file` can be mapped for good. Not all that can be is known.
pub(super) fn is_coherent(file: &File) -> bool {
    let metadata = file.metadata();
    // A node may be on any file system; the page cache is that of the device.
    let is_device = metadata.is_ok_and(|metadata| metadata.file_type().is_block_device());
    is_device
        || match file_system(file) {
            Some(libc::OVERLAYFS_SUPER_MAGIC) => is_writable(file),
            magic => magic.is_some_and(|magic| LOCAL.contains(&magic)),
        }
}

fn file_system(file: &File) -> Option<libc::c_long> {
    // SAFETY: a statfs is plain data, for which zero is valid; the call writes to it and nothing else.
    let (done, found) = unsafe {
        let mut found: libc::statfs = std::mem::zeroed();
        (libc::fstatfs(file.as_raw_fd(), &mut found), found)
    };
    (done == 0).then_some(found.f_type)
}

/// Whether `file` is open for writing: then overlayfs has made its copy.
fn is_writable(file: &File) -> bool {
    // SAFETY: the command returns a number, and the descriptor is open.
    let flags = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_GETFL) };
    flags >= 0 && flags & libc::O_ACCMODE != libc::O_RDONLY
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_server_makes_up_is_not() {
        assert!(!is_coherent(&File::open("/proc/self/status").unwrap()));
        assert!(is_coherent(&tempfile::tempfile_in("/dev/shm").unwrap()));
    }
}
