//! The guest that comes with this program: its kernel and its system disk, as built by
//! `guest/build` (resources/guest).

use crate::loader::Image;

/// The kernel for a machine that is traced, or not.
pub fn kernel(traced: bool) -> Image {
    if traced { KERNEL_TRACED } else { KERNEL }
}

/// The kernel, a PVH ELF file.
pub const KERNEL: Image = Image::BuiltIn(include_bytes!("../../resources/guest/kernel"));
/// The kernel that writes events for a trace.
pub const KERNEL_TRACED: Image =
    Image::BuiltIn(include_bytes!("../../resources/guest/kernel-traced"));
/// The system disk, a ustar archive.
pub const SYSTEM: Image = Image::BuiltIn(include_bytes!("../../resources/guest/system.tar"));
