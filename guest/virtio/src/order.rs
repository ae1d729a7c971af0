//! Whether a locked instruction orders a write before the reads after it, as on every processor.
//!
//! Not in QEMU without KVM: where its TCG emulates one processor it makes plain instructions of
//! locked ones, and in older versions of `mfence` too. Then the driver may read that the device
//! wants no notification before the device can see the request, and that nothing has been used
//! before the device can see that an interrupt is wanted: each waits for the other. Nobody tells
//! how many processors QEMU emulates, so under TCG the driver has neither wish: it notifies of
//! every request, and is interrupted for every one.

use core::arch::x86_64::__cpuid;

const HYPERVISOR_LEAF: u32 = 0x4000_0000;
/// "TCGTCGTCGTCG".
const QEMU_TCG: [u32; 3] = [0x5447_4354, 0x4354_4743, 0x4743_5447];

/// Does it?
pub fn locked_instructions_order() -> bool {
    let leaf = __cpuid(HYPERVISOR_LEAF);
    [leaf.ebx, leaf.ecx, leaf.edx] != QEMU_TCG
}
