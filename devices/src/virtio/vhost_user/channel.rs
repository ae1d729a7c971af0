//! The socket: messages of a header of 12 bytes (request, flags, size), a payload, and descriptors.
#![allow(unsafe_code)]

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsRawFd, FromRawFd, RawFd};
use std::os::unix::net::UnixStream;

use vmm_sys_util::sock_ctrl_msg::ScmSocket;

/// The most bytes of a payload that any message has.
const MAX_PAYLOAD: usize = 4096;
/// The most descriptors of a message: one for each region of memory.
pub(super) const MAX_FILES: usize = 8;
const HEADER_BYTES: usize = 12;

/// `flags`: the version, which is 1, in the lowest two bits.
const VERSION_MASK: u32 = 3;
const VERSION: u32 = 1;
const REPLY: u32 = 1 << 2;
const NEED_REPLY: u32 = 1 << 3;

/// Why the connection cannot go on.
#[derive(Debug, thiserror::Error)]
pub(super) enum ChannelError {
    /// The other side has gone in the middle of a message.
    #[error("it ended in the middle of a message")]
    CutOff,
    /// What came is not vhost-user.
    #[error("it speaks no vhost-user: {0}")]
    NotVhostUser(&'static str),
    /// The socket failed.
    #[error("{0}")]
    Socket(#[from] io::Error),
}

/// A message from the front-end.
pub(super) struct Incoming {
    /// Which request it is.
    pub(super) request: u32,
    /// The front-end waits for an answer, if that was negotiated (REPLY_ACK).
    pub(super) needs_reply: bool,
    /// What belongs to it.
    pub(super) payload: Vec<u8>,
    /// Descriptors that came with it.
    pub(super) files: Vec<File>,
}

/// One side of a connection.
pub(super) struct Channel(UnixStream);

impl Channel {
    pub(super) fn new(socket: UnixStream) -> Self {
        Channel(socket)
    }

    /// The next message; none at the end.
    pub(super) fn receive(&self) -> Result<Option<Incoming>, ChannelError> {
        let mut files = Vec::new();
        let mut header = [0; HEADER_BYTES];
        match self.fill(&mut header, &mut files)? {
            0 => return Ok(None),
            HEADER_BYTES => {}
            _ => return Err(ChannelError::CutOff),
        }
        let [request, flags, size] = [0, 4, 8].map(|at| {
            let mut word = [0; 4];
            word.copy_from_slice(&header[at..at + 4]);
            u32::from_le_bytes(word)
        });
        if flags & VERSION_MASK != VERSION {
            return Err(ChannelError::NotVhostUser("no message of version 1"));
        }
        if flags & REPLY != 0 {
            return Err(ChannelError::NotVhostUser("a reply that nobody asked for"));
        }
        let size = usize::try_from(size).unwrap_or(usize::MAX);
        if size > MAX_PAYLOAD {
            return Err(ChannelError::NotVhostUser("a message that is too long"));
        }
        let mut payload = vec![0; size];
        if self.fill(&mut payload, &mut files)? != size {
            return Err(ChannelError::CutOff);
        }
        Ok(Some(Incoming {
            request,
            needs_reply: flags & NEED_REPLY != 0,
            payload,
            files,
        }))
    }

    /// Answers `request`.
    pub(super) fn reply(
        &self,
        request: u32,
        payload: &[u8],
        file: Option<&File>,
    ) -> Result<(), ChannelError> {
        self.send(request, VERSION | REPLY, payload, file)
    }

    /// Says something unasked, and waits for no answer.
    pub(super) fn tell(&self, request: u32) -> Result<(), ChannelError> {
        self.send(request, VERSION, &[], None)
    }

    fn send(
        &self,
        request: u32,
        flags: u32,
        payload: &[u8],
        file: Option<&File>,
    ) -> Result<(), ChannelError> {
        let mut bytes = Vec::with_capacity(HEADER_BYTES + payload.len());
        for word in [request, flags, payload.len() as u32] {
            bytes.extend_from_slice(&word.to_le_bytes());
        }
        bytes.extend_from_slice(payload);
        let fd: Option<RawFd> = file.map(AsRawFd::as_raw_fd);
        let sent = self
            .0
            .send_with_fds(&[&bytes[..]], fd.as_slice())
            .map_err(|error| io::Error::from_raw_os_error(error.errno()))?;
        (&self.0).write_all(&bytes[sent..])?;
        Ok(())
    }

    /// Fills `buffer`, unless the end comes first; returns how many bytes came.
    fn fill(&self, buffer: &mut [u8], files: &mut Vec<File>) -> Result<usize, ChannelError> {
        let mut filled = 0;
        while filled < buffer.len() {
            match self.receive_some(&mut buffer[filled..], files) {
                Ok(0) => break,
                Ok(bytes) => filled += bytes,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => {
                    return Err(ChannelError::NotVhostUser("too many descriptors"));
                }
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => break,
                Err(error) => return Err(error.into()),
            }
            if files.len() > MAX_FILES {
                return Err(ChannelError::NotVhostUser("too many descriptors"));
            }
        }
        Ok(filled)
    }

    fn receive_some(&self, buffer: &mut [u8], files: &mut Vec<File>) -> io::Result<usize> {
        let mut fds: [RawFd; MAX_FILES] = [-1; MAX_FILES];
        let mut iovecs = [libc::iovec {
            iov_base: buffer.as_mut_ptr().cast(),
            iov_len: buffer.len(),
        }];
        // SAFETY: the iovec is `buffer`, which is borrowed for the call.
        let (bytes, count) = unsafe { self.0.recv_with_fds(&mut iovecs, &mut fds) }
            .map_err(|error| io::Error::from_raw_os_error(error.errno()))?;
        for &fd in fds.iter().take(count) {
            // SAFETY: the system has just given us this descriptor, and nobody else has it. Not to
            // survive an exec is a flag of it, which concerns no memory.
            files.push(unsafe {
                libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC);
                File::from_raw_fd(fd)
            });
        }
        Ok(bytes)
    }
}

impl AsRawFd for Channel {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    fn header(request: u32, flags: u32, size: u32) -> Vec<u8> {
        [request, flags, size]
            .iter()
            .flat_map(|word| word.to_le_bytes())
            .collect()
    }

    fn received(bytes: &[u8]) -> Result<Option<Incoming>, ChannelError> {
        let (ours, theirs) = UnixStream::pair().unwrap();
        (&theirs).write_all(bytes).unwrap();
        drop(theirs);
        Channel::new(ours).receive()
    }

    #[test]
    fn a_message_comes_whole_or_is_an_error() {
        let mut message = header(11, VERSION | NEED_REPLY, 8);
        message.extend([1, 2, 3, 4, 5, 6, 7, 8]);
        let incoming = received(&message).unwrap().unwrap();
        assert_eq!((incoming.request, incoming.needs_reply), (11, true));
        assert_eq!(incoming.payload, [1, 2, 3, 4, 5, 6, 7, 8]);
        assert!(received(&[]).unwrap().is_none());
        for end in 1..message.len() {
            assert!(
                matches!(received(&message[..end]), Err(ChannelError::CutOff)),
                "{end}"
            );
        }
        for (flags, size) in [
            (0, 0),
            (2, 0),
            (3, 0),
            (VERSION | REPLY, 0),
            (1, 4097),
            (1, u32::MAX),
        ] {
            let error = received(&header(1, flags, size)).err();
            assert!(
                matches!(error, Some(ChannelError::NotVhostUser(_))),
                "{flags} {size}"
            );
        }
    }

    #[test]
    fn descriptors_come_with_their_message_and_are_not_inherited() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let file = tempfile::tempfile().unwrap();
        let fds = [file.as_raw_fd(); 3];
        theirs
            .send_with_fds(&[&header(5, VERSION, 0)[..]], &fds)
            .unwrap();
        let incoming = Channel::new(ours.try_clone().unwrap())
            .receive()
            .unwrap()
            .unwrap();
        assert_eq!(incoming.files.len(), 3);
        for file in &incoming.files {
            // SAFETY: the call takes an open descriptor and nothing else.
            let flags = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_GETFD) };
            assert_eq!(flags, libc::FD_CLOEXEC);
        }
        let fds = [file.as_raw_fd(); MAX_FILES + 1];
        theirs
            .send_with_fds(&[&header(5, VERSION, 0)[..]], &fds)
            .unwrap();
        assert!(Channel::new(ours).receive().is_err());
    }

    #[test]
    fn an_answer_is_a_reply_of_the_same_request() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        Channel::new(ours).reply(17, &[9; 8], None).unwrap();
        let mut bytes = Vec::new();
        theirs.read_to_end(&mut bytes).unwrap();
        assert_eq!(bytes, [header(17, VERSION | REPLY, 8), vec![9; 8]].concat());
    }
}
