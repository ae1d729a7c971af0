//! A kernel that writes one byte to COM1 and halts: a 64-bit ELF file, entered in long mode, padded to
//! the size of a small kernel.

use std::io::{self, Write};

use tempfile::NamedTempFile;

/// Its size in bytes.
pub const BYTES: usize = 100 << 10;
/// Where it is loaded: the lowest address that a kernel may have.
const LOAD: u64 = 0x10_0000;
/// Sizes of an ELF header and of a program header.
const HEADER_BYTES: u64 = 64;
const PROGRAM_HEADER_BYTES: u64 = 56;
const CODE_AT: u64 = HEADER_BYTES + PROGRAM_HEADER_BYTES;
/// mov al, '!'; mov dx, 0x3f8; out dx, al; hlt; jmp to the hlt.
const CODE: [u8; 10] = [0xb0, b'!', 0x66, 0xba, 0xf8, 0x03, 0xee, 0xf4, 0xeb, 0xfd];

/// The kernel in a temporary file.
pub fn file() -> io::Result<NamedTempFile> {
    let mut file = NamedTempFile::new()?;
    file.write_all(&elf())?;
    Ok(file)
}

fn elf() -> Vec<u8> {
    let mut elf = Vec::with_capacity(BYTES);
    // 64 bits, little-endian, version 1.
    elf.extend(*b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0");
    let mut put = |value: u64, bytes: usize| elf.extend(&value.to_le_bytes()[..bytes]);
    // An executable (ET_EXEC) for x86-64 (EM_X86_64), version 1.
    put(2, 2);
    put(62, 2);
    put(1, 4);
    put(LOAD + CODE_AT, 8);
    // Program headers follow at once; no section headers; no flags.
    put(HEADER_BYTES, 8);
    put(0, 8);
    put(0, 4);
    put(HEADER_BYTES, 2);
    put(PROGRAM_HEADER_BYTES, 2);
    put(1, 2);
    put(64, 2);
    put(0, 4);
    // All of the file (PT_LOAD), to be read, written and executed.
    put(1, 4);
    put(7, 4);
    put(0, 8);
    put(LOAD, 8);
    put(LOAD, 8);
    put(BYTES as u64, 8);
    put(BYTES as u64, 8);
    put(4096, 8);
    elf.extend(CODE);
    elf.resize(BYTES, 0);
    elf
}
