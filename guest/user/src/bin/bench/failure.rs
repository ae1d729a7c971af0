//! What can go wrong while a disk is loaded.

use core::fmt;
use iolite_user::Errno;

/// Why a cell could not be measured.
pub enum Failure {
    /// The kernel refused something.
    Refused(Errno),
    /// A request failed, at this offset.
    Request(u64),
    /// The sectors at this offset are not those that should be there.
    Content(u64),
    /// No completion comes.
    Lost,
}

impl From<Errno> for Failure {
    fn from(errno: Errno) -> Failure {
        Failure::Refused(errno)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Refused(errno) => errno.fmt(f),
            Failure::Request(offset) => write!(f, "the request at byte {offset} failed"),
            Failure::Content(offset) => write!(f, "wrong content at byte {offset}"),
            Failure::Lost => f.write_str("a request does not complete"),
        }
    }
}

/// What may fail.
pub type Result<T> = core::result::Result<T, Failure>;
