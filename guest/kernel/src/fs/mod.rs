//! Files: what a path names (`directory`, filled by `mount`), what is behind a name (`object`), and
//! a process's descriptors (`file`).

pub mod directory;
pub mod file;
pub mod mount;
pub mod object;

pub use file::Files;
