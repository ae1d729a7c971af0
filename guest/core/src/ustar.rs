//! The system disk's format: a plain ustar archive (POSIX.1-1988), so that `tar tf` lists it on the
//! host. A header is one 512-byte block, its file's data follows in whole blocks, and so every file
//! begins on a sector.

/// Size in bytes of a header, and the unit of a file's place.
pub const BLOCK: usize = 512;

/// A file in the archive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry<'a> {
    /// Its name, without a leading `./` or `/`.
    pub name: &'a str,
    /// Its size in bytes.
    pub bytes: u64,
    /// It is a regular file; anything else (a folder, a link) is passed over.
    pub regular: bool,
}

impl Entry<'_> {
    /// How many blocks of data follow the header.
    pub fn blocks(&self) -> u64 {
        self.bytes.div_ceil(BLOCK as u64)
    }
}

/// What a header block says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Header<'a> {
    /// A file.
    Entry(Entry<'a>),
    /// The end of the archive: a block of zeroes.
    End,
    /// Not a header.
    Bad,
}

/// Reads a header block. Names longer than 100 bytes (the `prefix` field) are `Bad`.
pub fn header(block: &[u8; BLOCK]) -> Header<'_> {
    if block[0] == 0 {
        return Header::End;
    }
    if &block[257..262] != b"ustar" || octal(&block[148..156]) != Some(checksum(block)) {
        return Header::Bad;
    }
    let name = text(&block[..100]).filter(|_| block[345] == 0);
    let (Some(name), Some(bytes)) = (name, octal(&block[124..136])) else {
        return Header::Bad;
    };
    let name = name
        .strip_prefix("./")
        .unwrap_or(name)
        .trim_start_matches('/');
    Header::Entry(Entry {
        name,
        bytes,
        regular: matches!(block[156], b'0' | 0),
    })
}

fn text(field: &[u8]) -> Option<&str> {
    let end = field
        .iter()
        .position(|byte| *byte == 0)
        .unwrap_or(field.len());
    core::str::from_utf8(&field[..end]).ok()
}

/// An octal number, ended by a blank or NUL.
fn octal(field: &[u8]) -> Option<u64> {
    let digits = text(field)?.trim_matches(' ');
    u64::from_str_radix(digits, 8).ok()
}

/// The sum of the header's bytes, its checksum field read as blanks. Eight bytes at a time: ring 0
/// may be slow.
fn checksum(block: &[u8; BLOCK]) -> u64 {
    const EVEN_BYTES: u64 = 0x00ff_00ff_00ff_00ff;
    let mut lanes = 0u64;
    for word in block.chunks_exact(8) {
        let word = word
            .iter()
            .rev()
            .fold(0u64, |word, byte| word << 8 | u64::from(*byte));
        lanes += (word & EVEN_BYTES) + (word >> 8 & EVEN_BYTES);
    }
    let sum = (lanes & 0xffff) + (lanes >> 16 & 0xffff) + (lanes >> 32 & 0xffff) + (lanes >> 48);
    let field: u64 = block[148..156].iter().map(|byte| u64::from(*byte)).sum();
    sum - field + 8 * u64::from(b' ')
}

#[cfg(test)]
mod tests {
    use super::{BLOCK, Entry, Header, header};

    fn block(name: &str, bytes: u64, kind: u8) -> [u8; BLOCK] {
        extern crate std;
        let mut block = [0; BLOCK];
        block[..name.len()].copy_from_slice(name.as_bytes());
        block[124..136].copy_from_slice(std::format!("{bytes:011o}\0").as_bytes());
        block[156] = kind;
        block[257..263].copy_from_slice(b"ustar\0");
        block[148..156].fill(b' ');
        let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
        block[148..156].copy_from_slice(std::format!("{sum:06o}\0 ").as_bytes());
        block
    }

    #[test]
    fn a_header_gives_name_and_size() {
        let block = block("./bin/demo", 1025, b'0');
        let Header::Entry(entry) = header(&block) else {
            panic!("not an entry")
        };
        assert_eq!(
            entry,
            Entry {
                name: "bin/demo",
                bytes: 1025,
                regular: true
            }
        );
        assert_eq!(entry.blocks(), 3);
    }

    #[test]
    fn a_folder_is_no_regular_file() {
        assert!(matches!(header(&block("bin/", 0, b'5')), Header::Entry(e) if !e.regular));
    }

    #[test]
    fn zeroes_end_the_archive() {
        assert_eq!(header(&[0; BLOCK]), Header::End);
    }

    #[test]
    fn damage_is_noticed() {
        let good = block("bin/demo", 77, b'0');
        for (at, with) in [(0, b'x'), (130, b'7'), (150, b'9'), (258, b'!')] {
            let mut bad = good;
            bad[at] = with;
            assert_eq!(header(&bad), Header::Bad, "byte {at}");
        }
        assert_eq!(header(&[0xff; BLOCK]), Header::Bad);
    }
}
