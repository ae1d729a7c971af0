//! `iolite bench`: what I/O costs. By itself it loads a disk from inside the guest (`load`); `cost`
//! counts what the guest's kernel does for an operation, and `idle` what a machine costs at rest.

pub mod args;
pub mod cost;
pub mod idle;
pub mod load;
