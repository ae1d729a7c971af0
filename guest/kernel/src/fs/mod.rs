//! Files: what a path names (`directory`, filled by `mount`), what is behind a name (`object`), a
//! process's descriptors (`file`), and reading and writing through them (`transfer`). `async_io` is
//! the other way to read and write: submit now, collect later.

pub mod async_io;
pub mod directory;
pub mod file;
pub mod growth;
pub mod mount;
pub mod object;
pub mod pinned;
pub mod scan;
pub mod transfer;

pub use file::Files;
