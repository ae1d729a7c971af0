//! The guest that comes with this program: its kernel and its system disk, as built by
//! `guest/build` (resources/guest).

use crate::loader::Image;

/// The kernel, a PVH ELF file.
pub const KERNEL: Image = Image::BuiltIn(include_bytes!("../../resources/guest/kernel"));
/// The system disk, a ustar archive.
pub const SYSTEM: Image = Image::BuiltIn(include_bytes!("../../resources/guest/system.tar"));
