//! The PVH boot protocol (Xen, docs/misc/pvh.pandoc and arch-x86/hvm/start_info.h): a structure
//! `hvm_start_info` whose address the kernel finds in ebx.

use std::mem::size_of;

use linux_loader::loader::elf::start_info::{
    XEN_HVM_MEMMAP_TYPE_RAM, XEN_HVM_MEMMAP_TYPE_RESERVED, XEN_HVM_START_MAGIC_VALUE,
    hvm_memmap_table_entry, hvm_modlist_entry, hvm_start_info,
};
use vm_memory::{Address, Bytes, GuestMemoryError, GuestMemoryMmap};

use super::Initrd;
use crate::memory::{self, CMDLINE, PVH_START_INFO, RangeKind};

/// Writes the start info, the module list and the memory map, one after the other.
pub fn write_start_info(
    memory: &GuestMemoryMmap,
    memory_bytes: u64,
    initrd: Option<Initrd>,
) -> Result<(), GuestMemoryError> {
    let modules = PVH_START_INFO.unchecked_add(0x40);
    let memory_map = PVH_START_INFO.unchecked_add(0x80);
    if let Some(initrd) = initrd {
        let module = hvm_modlist_entry {
            paddr: initrd.start,
            size: initrd.size,
            ..Default::default()
        };
        memory.write_obj(module, modules)?;
    }
    let ranges = memory::map(memory_bytes);
    let mut at = memory_map;
    for range in &ranges {
        let type_ = match range.kind {
            RangeKind::Ram => XEN_HVM_MEMMAP_TYPE_RAM,
            RangeKind::Reserved => XEN_HVM_MEMMAP_TYPE_RESERVED,
        };
        let entry = hvm_memmap_table_entry {
            addr: range.start,
            size: range.size,
            type_,
            reserved: 0,
        };
        memory.write_obj(entry, at)?;
        at = at.unchecked_add(size_of::<hvm_memmap_table_entry>() as u64);
    }
    let start_info = hvm_start_info {
        magic: XEN_HVM_START_MAGIC_VALUE,
        // Version 1 has the memory map.
        version: 1,
        nr_modules: initrd.map_or(0, |_| 1),
        modlist_paddr: initrd.map_or(0, |_| modules.0),
        cmdline_paddr: CMDLINE.0,
        memmap_paddr: memory_map.0,
        memmap_entries: ranges.len() as u32,
        ..Default::default()
    };
    memory.write_obj(start_info, PVH_START_INFO)
}

#[cfg(test)]
mod tests {
    use super::*;
    use vm_memory::GuestAddress;

    #[test]
    fn a_kernel_finds_initrd_and_memory_map() {
        let bytes = 8 << 20;
        let memory = crate::memory::create(bytes).unwrap();
        let initrd = Initrd {
            start: 0x7f_f000,
            size: 5,
        };
        write_start_info(&memory, bytes, Some(initrd)).unwrap();
        let info: hvm_start_info = memory.read_obj(PVH_START_INFO).unwrap();
        assert_eq!(
            (info.magic, info.version, info.nr_modules),
            (0x336e_c578, 1, 1)
        );
        let module: hvm_modlist_entry = memory.read_obj(GuestAddress(info.modlist_paddr)).unwrap();
        assert_eq!((module.paddr, module.size), (0x7f_f000, 5));
        let high = GuestAddress(info.memmap_paddr + 2 * 24);
        let high: hvm_memmap_table_entry = memory.read_obj(high).unwrap();
        assert_eq!(
            (high.addr, high.addr + high.size, high.type_),
            (0x10_0000, bytes, 1)
        );
        assert_eq!(info.memmap_entries, 4);
    }
}
