//! The lock of an image: one writes to it and nobody else has it, or any number read it. It holds
//! among iolites, against QEMU, and against whoever locks whole files.
//!
//! QEMU (its block/file-posix.c) says on single bytes what it does with an image: a shared lock on byte
//! 100 + n says "I do this", one on 200 + n "nobody else may", where n stands for reading, writing, and
//! so on. Everybody takes their bytes first, and then looks for bytes that contradict them: whoever is
//! the second sees the first. We do the same, and lock all other bytes too, shared or exclusively as we
//! read or write.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::thread;
use std::time::{Duration, Instant};

/// "I do this": the first of QEMU's bytes.
const DOES: i64 = 100;
/// "Nobody else may": the first of these.
const DENIES: i64 = 200;
/// What can be done, as a distance from the first byte.
const READ: i64 = 0;
const WRITE: i64 = 1;
/// QEMU has fewer bytes than this of either kind.
const KINDS: i64 = 8;
/// The bytes that are not QEMU's: where they begin, and how many they are; 0 for all that follow.
const OTHERS: [(i64, i64); 3] = [
    (0, DOES),
    (DOES + KINDS, DENIES - DOES - KINDS),
    (DENIES + KINDS, 0),
];

/// Of a process that was killed, the kernel ends an io_uring some time later, and so the lock of a file
/// that it was used on.
const PATIENCE: Duration = Duration::from_millis(500);
const PAUSE: Duration = Duration::from_millis(5);

/// Takes the lock for a reader, or for a writer. False if somebody has one that excludes it, and keeps
/// it for longer than a process takes to end.
pub(super) fn lock(file: &File, read_only: bool) -> io::Result<bool> {
    let started = Instant::now();
    while !try_lock(file, read_only)? {
        unlock(file);
        if started.elapsed() > PATIENCE || a_stop_is_wanted() {
            return Ok(false);
        }
        thread::sleep(PAUSE);
    }
    Ok(true)
}

/// Gives the lock back. Closing the file does so too, but not at once where an io_uring has it.
pub(super) fn unlock(file: &File) {
    // If there was none, there is none.
    let _ = set(file, libc::F_UNLCK, (0, 0));
}

fn try_lock(file: &File, read_only: bool) -> io::Result<bool> {
    match take(file, read_only) {
        Ok(()) => Ok(!is_contradicted(file, read_only)?),
        Err(error) => match error.raw_os_error() {
            Some(libc::EAGAIN | libc::EACCES) => Ok(false),
            // File systems without locks: nobody else is excluded there either.
            Some(libc::EINVAL | libc::ENOLCK | libc::EOPNOTSUPP | libc::ENOSYS) => Ok(true),
            _ => Err(error),
        },
    }
}

fn take(file: &File, read_only: bool) -> io::Result<()> {
    let others = if read_only {
        libc::F_RDLCK
    } else {
        libc::F_WRLCK
    };
    for range in OTHERS {
        set(file, others, range)?;
    }
    set(file, libc::F_RDLCK, (DOES + READ, 1))?;
    if !read_only {
        set(file, libc::F_RDLCK, (DOES + WRITE, 1))?;
    }
    set(file, libc::F_RDLCK, (DENIES + WRITE, 1))
}

/// Does somebody write, or deny what we do?
fn is_contradicted(file: &File, read_only: bool) -> io::Result<bool> {
    let denied = if read_only { READ } else { WRITE };
    for byte in [DOES + WRITE, DENIES + READ, DENIES + denied] {
        let found = get(file, (byte, 1))?;
        let is_shared = i32::from(found.l_type) == libc::F_RDLCK;
        // Who shares the bytes before QEMU's as well reads, and says so for the whole file.
        let reads = is_shared && found.l_start < DOES;
        if i32::from(found.l_type) != libc::F_UNLCK && !reads {
            return Ok(true);
        }
    }
    Ok(false)
}

fn set(file: &File, kind: libc::c_int, range: (i64, i64)) -> io::Result<()> {
    call(file, libc::F_OFD_SETLK, kind, range).map(|_| ())
}

/// Somebody's lock that an exclusive one of this range would meet; of kind F_UNLCK if there is none.
fn get(file: &File, range: (i64, i64)) -> io::Result<libc::flock> {
    call(file, libc::F_OFD_GETLK, libc::F_WRLCK, range)
}

fn call(
    file: &File,
    command: libc::c_int,
    kind: libc::c_int,
    (start, len): (i64, i64),
) -> io::Result<libc::flock> {
    // SAFETY: flock is plain data, and locks of open file descriptions require a zero pid.
    let mut request: libc::flock = unsafe { std::mem::zeroed() };
    request.l_type = kind as libc::c_short;
    request.l_whence = libc::SEEK_SET as libc::c_short;
    (request.l_start, request.l_len) = (start, len);
    // SAFETY: the descriptor is open and the pointer valid for the duration of the call.
    match unsafe { libc::fcntl(file.as_raw_fd(), command, &mut request) } {
        0 => Ok(request),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Does a signal wait that is to end the process? One that is not blocked has ended it.
fn a_stop_is_wanted() -> bool {
    // SAFETY: a set of signals is plain data, for which zero is valid, and lives during the calls.
    unsafe {
        let mut pending: libc::sigset_t = std::mem::zeroed();
        let stops = [libc::SIGINT, libc::SIGTERM, libc::SIGHUP, libc::SIGQUIT];
        libc::sigpending(&mut pending) == 0
            && stops
                .into_iter()
                .any(|stop| libc::sigismember(&pending, stop) == 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::fs::OpenOptions;
    use std::path::Path;

    /// An image, for somebody of its own.
    fn open(path: &Path) -> File {
        OpenOptions::new()
            .read(true)
            .write(true)
            .open(path)
            .unwrap()
    }

    /// Somebody with shared locks on single bytes, as QEMU has them.
    fn qemu(path: &Path, bytes: &[i64]) -> File {
        let file = open(path);
        for byte in bytes {
            set(&file, libc::F_RDLCK, (*byte, 1)).unwrap();
        }
        file
    }

    /// Somebody who locks the whole file.
    fn whole(path: &Path, kind: libc::c_int) -> Option<File> {
        let file = open(path);
        set(&file, kind, (0, 0)).ok().map(|()| file)
    }

    /// May we read, and may we write?
    fn may(path: &Path) -> (bool, bool) {
        let may = |read_only| try_lock(&open(path), read_only).unwrap();
        (may(true), may(false))
    }

    const EVERYTHING: (bool, bool) = (true, true);
    const READ_ONLY: (bool, bool) = (true, false);
    const NOTHING: (bool, bool) = (false, false);

    #[test]
    fn one_writes_or_many_read() {
        let image = tempfile::NamedTempFile::new().unwrap();
        let path = image.path();
        let (reader, writer) = (open(path), open(path));
        assert!(try_lock(&reader, true).unwrap());
        assert_eq!(may(path), READ_ONLY);
        unlock(&reader);
        assert!(try_lock(&writer, false).unwrap());
        assert_eq!(may(path), NOTHING);
        unlock(&writer);
        assert_eq!(may(path), EVERYTHING);
    }

    #[test]
    fn qemus_bytes_are_understood() {
        let image = tempfile::NamedTempFile::new().unwrap();
        let path = image.path();
        // A guest's disk; a read-only one; qemu-img info --force-share; share-rw=on; who lets nobody read.
        for (bytes, what) in [
            ([100, 101, 201].as_slice(), NOTHING),
            (&[100, 201], READ_ONLY),
            (&[100], EVERYTHING),
            (&[100, 101], NOTHING),
            (&[200], NOTHING),
        ] {
            let _qemu = qemu(path, bytes);
            assert_eq!(may(path), what, "{bytes:?}");
        }
    }

    #[test]
    fn qemu_is_told_the_same() {
        let image = tempfile::NamedTempFile::new().unwrap();
        let path = image.path();
        for (read_only, bytes) in [(true, [100, 201].as_slice()), (false, &[100, 101, 201])] {
            let ours = open(path);
            assert!(try_lock(&ours, read_only).unwrap());
            let theirs = open(path);
            for byte in (100..108).chain(200..208) {
                let found = get(&theirs, (byte, 1)).unwrap();
                let is_ours = i32::from(found.l_type) != libc::F_UNLCK;
                assert_eq!(is_ours, bytes.contains(&byte), "{byte}");
                // QEMU takes its own whatever we have.
                set(&theirs, libc::F_RDLCK, (byte, 1)).unwrap();
                set(&theirs, libc::F_UNLCK, (byte, 1)).unwrap();
            }
        }
    }

    #[test]
    fn whoever_locks_whole_files_is_understood() {
        let image = tempfile::NamedTempFile::new().unwrap();
        let path = image.path();
        let reader = whole(path, libc::F_RDLCK);
        assert_eq!(may(path), READ_ONLY);
        drop(reader);
        let writer = whole(path, libc::F_WRLCK);
        assert_eq!(may(path), NOTHING);
        drop(writer);
        let ours = open(path);
        assert!(try_lock(&ours, true).unwrap());
        assert!(whole(path, libc::F_RDLCK).is_some());
        assert!(whole(path, libc::F_WRLCK).is_none());
        unlock(&ours);
        assert!(try_lock(&ours, false).unwrap());
        assert!(whole(path, libc::F_RDLCK).is_none());
    }

    #[test]
    fn a_lock_that_goes_away_is_waited_for() {
        let image = tempfile::NamedTempFile::new().unwrap();
        let ending = whole(image.path(), libc::F_WRLCK).unwrap();
        let waiter = open(image.path());
        let waits = thread::spawn(move || lock(&waiter, false).unwrap());
        thread::sleep(Duration::from_millis(30));
        drop(ending);
        assert!(waits.join().unwrap());
    }

    #[test]
    fn a_lock_that_stays_is_told() {
        let image = tempfile::NamedTempFile::new().unwrap();
        let _staying = whole(image.path(), libc::F_RDLCK).unwrap();
        assert!(!lock(&open(image.path()), false).unwrap());
    }
}
