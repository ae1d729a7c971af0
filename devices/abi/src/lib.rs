//! What a virtio-mmio block device and its driver agree on, and nothing else.
//!
//! Host and guest share this crate: it is `no_std`, has no dependencies and no code beyond
//! constants, wire types and their encodings. All multi-byte fields are little-endian (virtio 1.2,
//! section 1.4). Names are those of the specification.

#![no_std]

pub mod blk;
pub mod machine;
pub mod mmio;
pub mod ring;
pub mod status;
pub mod trace;
