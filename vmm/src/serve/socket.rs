//! The socket that a disk is served at: made anew, and gone with us.

use std::fs;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use nix::sys::socket::{Shutdown, shutdown};

/// Why there is no socket at a path.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// There is something else.
    #[error("socket {}: there is a file that is no socket; give another path", .0.display())]
    NoSocket(PathBuf),
    /// Somebody serves there.
    #[error("socket {}: another process serves there; stop it, or give another path", .0.display())]
    InUse(PathBuf),
    /// The system refuses.
    #[error("socket {}: {error}", path.display())]
    System {
        /// The path.
        path: PathBuf,
        /// What it said.
        error: io::Error,
    },
}

/// A socket that front-ends connect to.
pub(super) struct Socket {
    path: PathBuf,
    /// Device and number of the file: somebody may have put another in its place.
    file: (u64, u64),
    listener: UnixListener,
}

impl Socket {
    /// Makes the socket at `path`, in place of one that nobody serves at any more.
    pub(super) fn bind(path: &Path) -> Result<Socket, SocketError> {
        let system = |error| SocketError::System {
            path: path.to_owned(),
            error,
        };
        match fs::symlink_metadata(path) {
            Ok(found) if !found.file_type().is_socket() => {
                return Err(SocketError::NoSocket(path.to_owned()));
            }
            Ok(_) => match UnixStream::connect(path) {
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                    fs::remove_file(path).map_err(system)?;
                }
                Ok(_) => return Err(SocketError::InUse(path.to_owned())),
                Err(error) => return Err(system(error)),
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(system(error)),
        }
        let listener = UnixListener::bind(path).map_err(system)?;
        let found = fs::symlink_metadata(path).map_err(system)?;
        Ok(Socket {
            path: path.to_owned(),
            file: (found.dev(), found.ino()),
            listener,
        })
    }

    /// Where it is.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The next front-end; an error after [`close`](Socket::close).
    pub(super) fn accept(&self) -> io::Result<UnixStream> {
        self.listener.accept().map(|(stream, _)| stream)
    }

    /// Lets nobody connect any more.
    pub(super) fn close(&self) {
        // It only fails if it is closed already.
        let _ = shutdown(self.listener.as_raw_fd(), Shutdown::Both);
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        let ours = fs::symlink_metadata(&self.path)
            .is_ok_and(|found| (found.dev(), found.ino()) == self.file);
        if ours {
            // If it cannot be removed, the next one who serves there does.
            let _ = fs::remove_file(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_socket_that_nobody_serves_at_is_replaced() {
        let directory = tempfile::tempdir_in("/tmp").unwrap();
        let path = directory.path().join("disk.sock");
        let socket = Socket::bind(&path).unwrap();
        assert!(matches!(Socket::bind(&path), Err(SocketError::InUse(_))));
        drop(socket);
        assert!(!path.exists(), "a socket is gone with us");
        // As after a SIGKILL: the file stays, and nobody listens.
        drop(UnixListener::bind(&path).unwrap());
        let again = Socket::bind(&path).unwrap();
        fs::remove_file(&path).unwrap();
        fs::write(&path, "somebody's").unwrap();
        drop(again);
        assert_eq!(fs::read(&path).unwrap(), b"somebody's");
        assert!(matches!(Socket::bind(&path), Err(SocketError::NoSocket(_))));
        let nowhere = directory.path().join("no/such/directory");
        assert!(matches!(
            Socket::bind(&nowhere),
            Err(SocketError::System { .. })
        ));
    }

    #[test]
    fn closing_ends_a_wait_for_the_next_front_end() {
        let directory = tempfile::tempdir_in("/tmp").unwrap();
        let socket = Socket::bind(&directory.path().join("s")).unwrap();
        std::thread::scope(|scope| {
            let waits = scope.spawn(|| socket.accept().is_err());
            std::thread::sleep(std::time::Duration::from_millis(5));
            socket.close();
            assert!(waits.join().unwrap());
        });
        assert!(socket.accept().is_err());
    }
}
