//! Files: what a path names (`directory`, filled by `mount`), what is behind a name (`object`), and
//! a process's descriptors (`file`). `async_io` is the other way to read and write: submit now,
//! collect later.

pub mod async_io;
pub mod directory;
pub mod file;
pub mod mount;
pub mod object;

pub use file::Files;
