//! ELF notes, and the one among them that makes a PVH kernel: owner "Xen", type 18
//! (XEN_ELFNOTE_PHYS32_ENTRY).
//!
//! ```text
//! a note   u32 bytes of the name | u32 bytes of the contents | u32 type | name | contents
//!          the contents, and the next note, are aligned
//! ```
//!
//! The alignment is 8 where the segment says 8, and 4 where it says anything else (as binutils and
//! Linux have it). Not every linker keeps to that: Linux has been built with notes aligned to 4 in
//! a segment that said 8. So what is not found one way is looked for the other way.

/// The note's contents are the 32-bit entry point.
const PHYS32_ENTRY: u32 = 18;

/// The entry point in the first PVH note among `notes`, which lie in a segment with alignment
/// `align`.
pub fn pvh_entry(notes: &[u8], align: u64) -> Option<u64> {
    let alignments = if align == 8 { [8, 4] } else { [4, 8] };
    alignments.into_iter().find_map(|align| find(notes, align))
}

fn find(mut notes: &[u8], align: usize) -> Option<u64> {
    loop {
        let (note, rest) = Note::split(notes, align)?;
        if note.r#type == PHYS32_ENTRY
            && note.name.strip_suffix(b"\0").unwrap_or(note.name) == b"Xen"
            && let Some(entry) = address(note.contents)
        {
            return Some(entry);
        }
        notes = rest;
    }
}

/// 4 bytes by the book, 8 in 64-bit kernels that write it as an address.
fn address(contents: &[u8]) -> Option<u64> {
    match contents.first_chunk() {
        Some(bytes) => Some(u64::from_le_bytes(*bytes)),
        None => Some(u32::from_le_bytes(*contents.first_chunk()?).into()),
    }
}

struct Note<'a> {
    r#type: u32,
    name: &'a [u8],
    contents: &'a [u8],
}

impl<'a> Note<'a> {
    /// The first note of `notes`, and what comes after it. None if there is no whole note.
    fn split(notes: &'a [u8], align: usize) -> Option<(Note<'a>, &'a [u8])> {
        let (words, _) = notes.as_chunks::<4>();
        let [name_bytes, content_bytes, r#type] =
            [0, 1, 2].map(|i| words.get(i).copied().map(u32::from_le_bytes));
        let name_end = 12 + name_bytes? as usize;
        let start = name_end.next_multiple_of(align);
        let end = start + content_bytes? as usize;
        let note = Note {
            r#type: r#type?,
            name: notes.get(12..name_end)?,
            contents: notes.get(start..end)?,
        };
        // The last one may lack what fills it up.
        let rest = notes.get(end.next_multiple_of(align)..);
        Some((note, rest.unwrap_or_default()))
    }
}
