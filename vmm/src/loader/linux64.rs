//! The Linux 64-bit boot protocol (Linux, Documentation/arch/x86/boot.rst): the kernel is entered
//! in long mode with memory mapped one to one, and finds a `boot_params` ("zero page") through rsi.

use linux_loader::loader::bootparam::{boot_e820_entry, boot_params};
use vm_memory::{Address, Bytes, GuestMemoryError, GuestMemoryMmap};

use super::Initrd;
use crate::memory::{self, CMDLINE, PAGE_TABLES, REACH, RangeKind, ZERO_PAGE};

/// `boot_flag` of every boot sector.
const BOOT_FLAG: u16 = 0xaa55;
/// `header`: "HdrS".
const HEADER_MAGIC: u32 = u32::from_le_bytes(*b"HdrS");
/// `type_of_loader`: none that is registered.
const LOADER_UNDEFINED: u8 = 0xff;
/// `kernel_alignment`: what a relocatable kernel would be aligned to.
const KERNEL_ALIGNMENT: u32 = 0x0100_0000;

/// Page-table entry bits: present, writable; and for a directory entry, a page of 2 MiB.
const TABLE: u64 = 0x3;
const LARGE_PAGE: u64 = 0x83;
const PAGE_SHIFT: u64 = 12;
const LARGE_PAGE_SHIFT: u64 = 21;
const GIB_SHIFT: u64 = 30;

/// Writes the zero page. `cmdline_bytes` is the command line's length with its NUL.
pub fn write_boot_params(
    memory: &GuestMemoryMmap,
    memory_bytes: u64,
    initrd: Option<Initrd>,
    cmdline_bytes: usize,
) -> Result<(), GuestMemoryError> {
    let mut params = boot_params::default();
    params.hdr.type_of_loader = LOADER_UNDEFINED;
    params.hdr.boot_flag = BOOT_FLAG;
    params.hdr.header = HEADER_MAGIC;
    params.hdr.kernel_alignment = KERNEL_ALIGNMENT;
    // Both lie below 4 GiB: the first by definition, the second because it ends below the hole.
    params.hdr.cmd_line_ptr = CMDLINE.0 as u32;
    params.hdr.cmdline_size = cmdline_bytes as u32;
    if let Some(initrd) = initrd {
        params.hdr.ramdisk_image = initrd.start as u32;
        params.hdr.ramdisk_size = initrd.size as u32;
    }
    for (entry, range) in params.e820_table.iter_mut().zip(memory::map(memory_bytes)) {
        let r#type = match range.kind {
            RangeKind::Ram => 1,
            RangeKind::Reserved => 2,
        };
        *entry = boot_e820_entry {
            addr: range.start,
            size: range.size,
            r#type,
        };
        params.e820_entries += 1;
    }
    memory.write_obj(params, ZERO_PAGE)
}

/// Writes page tables that map the first 4 GiB one to one, with pages of 2 MiB: a page of the table
/// for each GiB, after the two above them.
pub fn write_page_tables(memory: &GuestMemoryMmap) -> Result<(), GuestMemoryError> {
    let pml4 = PAGE_TABLES;
    let pdpt = PAGE_TABLES.unchecked_add(0x1000);
    let directories = PAGE_TABLES.unchecked_add(0x2000);
    memory.write_obj(pdpt.0 | TABLE, pml4)?;
    for gib in 0..REACH >> GIB_SHIFT {
        let directory = directories.0 + (gib << PAGE_SHIFT);
        memory.write_obj(directory | TABLE, pdpt.unchecked_add(8 * gib))?;
    }
    for page in 0..REACH >> LARGE_PAGE_SHIFT {
        let entry = page << LARGE_PAGE_SHIFT | LARGE_PAGE;
        memory.write_obj(entry, directories.unchecked_add(8 * page))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use vm_memory::GuestAddress;

    #[test]
    fn all_that_can_be_entered_is_mapped() {
        let memory = memory::create(memory::MIN_BYTES).unwrap();
        write_page_tables(&memory).unwrap();
        let entry = |table: u64, index: u64| {
            let entry: u64 = memory.read_obj(GuestAddress(table + 8 * index)).unwrap();
            assert_eq!(entry & 3, 3, "{table:#x} {index}");
            entry & !0xfff
        };
        for address in [
            0,
            0x10_0000,
            0x3fff_ffff,
            0x4000_0000,
            0xcfff_ffff,
            REACH - 1,
        ] {
            let directory = entry(entry(PAGE_TABLES.0, 0), address >> 30);
            assert!(directory + 0x1000 <= CMDLINE.0);
            assert_eq!(entry(directory, address >> 21 & 511), address >> 21 << 21);
        }
    }
}
