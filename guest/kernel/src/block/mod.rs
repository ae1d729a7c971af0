//! Block I/O: the one primitive, `submit -> completion`, and the thin procedure that makes it
//! synchronous.
//!
//! - [`submit`] hands a request to the disk's driver. `Ok` means that exactly one completion will
//!   come, `Err` that none will. It never blocks.
//! - The interrupt handler ([`interrupt`]) harvests every completion and tells the request's
//!   [`Owner`]: a thread that has one request fewer in flight, pages that have been read or written,
//!   or a process whose asynchronous request is done. It allocates nothing and blocks nobody.
//! - [`transfer`] is `submit` + wait, and knows nothing of drivers.
//!
//! A disk can be [`lent`] to a process that drives it itself.
//!
//! A disk may take a request in parts, if it is more than the device takes at once; the driver sees to
//! that, and there is one completion all the same.
//!
//! There is no queue of requests but the disk's own: when that is full, `submit` says so, and who
//! may block waits with [`wait_for_room`].

mod disk;
pub mod keeper;
pub mod lent;
mod owner;
mod sync;

pub use disk::{
    DiskId, Submitter, count, count_work, disks, in_flight, init, interrupt, notify, stats, submit,
    submit_at_once_and_notify, submitter, system_disk, wait_for_room,
};
pub use owner::Owner;
use sync::identify;
pub use sync::{flush, read_sector, transfer};
