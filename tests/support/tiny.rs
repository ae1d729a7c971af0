//! Kernels of a few bytes, assembled by hand: an ELF file with one segment at 1 MiB, entered by
//! PVH (32-bit protected mode, paging off) or by the Linux 64-bit protocol. They know one thing
//! each, so that a test of the machine needs no guest operating system.

// Each test uses its part of this.
#![allow(dead_code)]

use std::io::Write;

use tempfile::NamedTempFile;

/// Where the file is loaded if nothing else is said, and where its code begins in it.
const LOAD: u32 = 0x10_0000;
const CODE: u32 = 0x100;

/// How a kernel is entered.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Entry {
    /// By the PVH note.
    Pvh,
    /// By `e_entry`, in 64-bit mode.
    Linux64,
}

/// A kernel in the making. All instructions used mean the same in 32-bit and in 64-bit mode.
pub struct Tiny {
    entry: Entry,
    load: u32,
    code: Vec<u8>,
}

impl Tiny {
    pub fn new(entry: Entry) -> Self {
        Tiny {
            entry,
            load: LOAD,
            code: Vec::new(),
        }
    }

    /// Loads it elsewhere; only before anything is appended.
    pub fn at(mut self, load: u32) -> Self {
        self.load = load;
        self
    }

    /// Appends machine code.
    pub fn raw(mut self, code: &[u8]) -> Self {
        self.code.extend_from_slice(code);
        self
    }

    /// Prints to COM1 with one `rep outsb`.
    pub fn print(mut self, text: &str) -> Self {
        let len = text.len() as u32;
        self = self.raw(&[0xe9]).raw(&len.to_le_bytes()); // jmp over the text
        let address = self.load + CODE + self.code.len() as u32;
        self.raw(text.as_bytes())
            .raw(&[0xbe])
            .raw(&address.to_le_bytes()) // mov esi, text
            .raw(&[0xb9])
            .raw(&len.to_le_bytes()) // mov ecx, len
            .raw(&[0x66, 0xba, 0xf8, 0x03]) // mov dx, 0x3f8
            .raw(&[0xf3, 0x6e]) // rep outsb
    }

    /// Prints the NUL-terminated command line, whose address is where the VMM documents it.
    pub fn print_cmdline(self) -> Self {
        self.raw(&[0xbe, 0x00, 0x00, 0x02, 0x00]) // mov esi, 0x20000
            .raw(&[0x66, 0xba, 0xf8, 0x03]) // mov dx, 0x3f8
            // next: mov al, [esi]; inc esi; test al, al; je end; out dx, al; jmp next; end:
            .raw(&[
                0x8a, 0x06, 0xff, 0xc6, 0x84, 0xc0, 0x74, 0x03, 0xee, 0xeb, 0xf5,
            ])
    }

    /// Copies COM1's input to its output up to and including the byte `last`.
    pub fn echo_until(self, last: u8) -> Self {
        // next: mov dx, 0x3fd; in al, dx; test al, 1; je next; mov dx, 0x3f8; in al, dx;
        // out dx, al; cmp al, last; jne next
        self.raw(&[0x66, 0xba, 0xfd, 0x03, 0xec, 0xa8, 0x01, 0x74, 0xf7])
            .raw(&[0x66, 0xba, 0xf8, 0x03, 0xec, 0xee, 0x3c, last, 0x75, 0xed])
    }

    /// Writes a byte to a port.
    pub fn out(self, port: u16, value: u8) -> Self {
        let [low, high] = port.to_le_bytes();
        self.raw(&[0xb0, value, 0x66, 0xba, low, high, 0xee]) // mov al; mov dx; out dx, al
    }

    /// Writes `value` to the exit port.
    pub fn exit(self, value: u8) -> Self {
        self.out(0xf4, value).halt()
    }

    /// Pulses the reset line.
    pub fn reset(self) -> Self {
        self.out(0x64, 0xfe).halt()
    }

    /// Halts for good, interrupts off.
    pub fn halt(self) -> Self {
        self.raw(&[0xf4, 0xeb, 0xfd]) // hlt; jmp back
    }

    /// Runs for ever.
    pub fn spin(self) -> Self {
        self.raw(&[0xeb, 0xfe])
    }

    /// Faults without handlers.
    pub fn triple_fault(self) -> Self {
        self.raw(&[0x0f, 0x0b]) // ud2
    }

    /// The ELF file.
    pub fn elf(&self) -> Vec<u8> {
        let size = u64::from(CODE) + self.code.len() as u64;
        let mut elf = b"\x7fELF\x02\x01\x01".to_vec();
        elf.resize(16, 0);
        elf.extend([2u16, 62].iter().flat_map(|v| v.to_le_bytes())); // executable, x86-64
        elf.extend(1u32.to_le_bytes());
        elf.extend(u64::from(self.load + CODE).to_le_bytes()); // e_entry
        elf.extend(64u64.to_le_bytes()); // e_phoff
        elf.extend([0; 12]); // e_shoff, e_flags
        elf.extend(
            [64u16, 56, 2, 64, 0, 0]
                .iter()
                .flat_map(|v| v.to_le_bytes()),
        );
        // PT_LOAD: the whole file. PT_NOTE: 20 bytes at 0xb0.
        for (kind, flags, offset, size) in [(1u32, 7u32, 0u64, size), (4, 4, 0xb0, 20)] {
            elf.extend(kind.to_le_bytes());
            elf.extend(flags.to_le_bytes());
            let address = u64::from(self.load) + offset;
            for field in [offset, address, address, size, size, 4] {
                elf.extend(field.to_le_bytes());
            }
        }
        // "Xen", XEN_ELFNOTE_PHYS32_ENTRY; another type where PVH is not wanted.
        let kind = if self.entry == Entry::Pvh { 18 } else { 0 };
        elf.extend([4u32, 4, kind].iter().flat_map(|v| v.to_le_bytes()));
        elf.extend(b"Xen\0");
        elf.extend((self.load + CODE).to_le_bytes());
        elf.resize(CODE as usize, 0);
        elf.extend(&self.code);
        elf
    }

    /// The ELF file, in a temporary file.
    pub fn file(&self) -> NamedTempFile {
        let mut file = NamedTempFile::new().unwrap();
        file.write_all(&self.elf()).unwrap();
        file
    }
}
