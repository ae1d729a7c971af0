//! The MP table (Intel MultiProcessor Specification 1.4): how a kernel without ACPI finds the
//! local APIC and the IOAPIC. It lies in the EBDA, which kernels search for "_MP_".
//!
//! One processor, one ISA bus, one IOAPIC; ISA line n is IOAPIC input n, as KVM routes it.

use vm_memory::{Bytes, GuestMemoryError, GuestMemoryMmap};

use crate::memory::EBDA;

/// Revision 1.4.
const SPEC_REVISION: u8 = 4;
const LOCAL_APIC_ADDRESS: u32 = 0xfee0_0000;
const IOAPIC_ADDRESS: u32 = 0xfec0_0000;
/// The version that KVM's local APIC and IOAPIC report.
const APIC_VERSION: u8 = 0x14;
const IOAPIC_VERSION: u8 = 0x11;
/// The processor's local APIC has id 0; the IOAPIC gets the next one.
const IOAPIC_ID: u8 = 1;
const IOAPIC_INPUTS: u8 = 24;
/// The processor entry's flags: enabled, boot processor.
const ENABLED_BOOT_PROCESSOR: u8 = 3;
/// Interrupt types of interrupt entries.
const INT: u8 = 0;
const NMI: u8 = 1;
const EXT_INT: u8 = 3;

/// Writes the floating pointer, and the table right after it.
pub fn write(memory: &GuestMemoryMmap) -> Result<(), GuestMemoryError> {
    let mut bytes = floating_pointer().to_vec();
    bytes.extend(table());
    memory.write_slice(&bytes, EBDA)
}

/// The MP floating pointer structure (section 4.1).
fn floating_pointer() -> [u8; 16] {
    let mut pointer = [0; 16];
    pointer[0..4].copy_from_slice(b"_MP_");
    pointer[4..8].copy_from_slice(&(EBDA.0 as u32 + 16).to_le_bytes());
    pointer[8] = 1; // length in units of 16 bytes
    pointer[9] = SPEC_REVISION;
    pointer[10] = checksum(&pointer);
    pointer
}

/// The MP configuration table (sections 4.2 and 4.3).
fn table() -> Vec<u8> {
    let mut entries = Vec::new();
    let mut count = 0u16;
    let mut entry = |bytes: &[u8]| {
        entries.extend_from_slice(bytes);
        count += 1;
    };
    // Processor (20 bytes): id 0; signature and feature flags are left to CPUID.
    let mut processor = [0; 20];
    processor[2..4].copy_from_slice(&[APIC_VERSION, ENABLED_BOOT_PROCESSOR]);
    entry(&processor);
    // Bus 0 (8 bytes).
    entry(b"\x01\x00ISA   ");
    // IOAPIC (8 bytes): enabled.
    let mut ioapic = [2, IOAPIC_ID, IOAPIC_VERSION, 1, 0, 0, 0, 0];
    ioapic[4..8].copy_from_slice(&IOAPIC_ADDRESS.to_le_bytes());
    entry(&ioapic);
    // Interrupts (8 bytes): type, flags (2), source bus, source line, destination, input.
    for line in 0..IOAPIC_INPUTS {
        entry(&[3, INT, 0, 0, 0, line, IOAPIC_ID, line]);
    }
    // Local interrupts: the PIC at LINT0 of the boot processor, NMI at LINT1 of all.
    entry(&[4, EXT_INT, 0, 0, 0, 0, 0, 0]);
    entry(&[4, NMI, 0, 0, 0, 0, 0xff, 1]);

    let mut table = vec![0; 44];
    table[0..4].copy_from_slice(b"PCMP");
    table[4..6].copy_from_slice(&((44 + entries.len()) as u16).to_le_bytes());
    table[6] = SPEC_REVISION;
    table[8..16].copy_from_slice(b"IOLITE  ");
    table[16..28].copy_from_slice(b"VIRTUAL     ");
    table[34..36].copy_from_slice(&count.to_le_bytes());
    table[36..40].copy_from_slice(&LOCAL_APIC_ADDRESS.to_le_bytes());
    table.extend(entries);
    table[7] = checksum(&table);
    table
}

/// The byte that makes all bytes add up to zero.
fn checksum(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0u8, |sum, &byte| sum.wrapping_sub(byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_add_up_to_zero_and_fit_the_ebda() {
        let sum = |bytes: &[u8]| bytes.iter().fold(0u8, |a, &b| a.wrapping_add(b));
        assert_eq!(sum(&floating_pointer()), 0);
        let table = table();
        assert_eq!(sum(&table), 0);
        assert_eq!(
            usize::from(u16::from_le_bytes([table[4], table[5]])),
            table.len()
        );
        assert_eq!(table.len(), 44 + 20 + 8 + 8 + 24 * 8 + 2 * 8);
        assert!(16 + table.len() <= 1024);
    }
}
