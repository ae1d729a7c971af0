//! `iolite bench`: what I/O costs. `cost` counts what the guest's kernel does for an operation.

pub mod cost;
