//! ELF files made to order, right and wrong.

use proptest::prelude::*;

pub const PT_LOAD: u32 = 1;
pub const PT_NOTE: u32 = 4;
pub const SHT_NOTE: u32 = 7;

/// Where the body begins in the file.
pub const BODY: u64 = 0x4000;

/// A program header, or a section header: these have neither address nor size in memory.
#[derive(Clone, Debug, Default)]
pub struct Header {
    pub kind: u32,
    pub offset: u64,
    pub address: u64,
    pub file_bytes: u64,
    pub memory_bytes: u64,
    pub align: u64,
}

/// What is in a file.
#[derive(Clone, Debug)]
pub struct Made {
    /// Is it of the 64-bit class?
    pub wide: bool,
    pub entry: u64,
    pub headers: Vec<Header>,
    pub sections: Vec<Header>,
    pub body: Vec<u8>,
    /// Other values than the right ones: how many headers of what size there are, and sections.
    pub wrong: [Option<u16>; 4],
}

impl Made {
    /// A 64-bit kernel with a page of code at 1 MiB.
    pub fn kernel() -> Made {
        Made {
            wide: true,
            entry: 0x10_0000,
            headers: vec![load(BODY, 0x10_0000, 0x1000, 0x1000)],
            sections: Vec::new(),
            body: vec![0xf4; 0x1000],
            wrong: [None; 4],
        }
    }

    /// Adds bytes to the body, and gives where in the file they are.
    pub fn append(&mut self, bytes: &[u8]) -> u64 {
        let at = BODY + self.body.len() as u64;
        self.body.extend(bytes);
        at
    }

    /// The file.
    pub fn bytes(&self) -> Vec<u8> {
        let [header_bytes, program_header, section_header] = match self.wide {
            true => [64u16, 56, 64],
            false => [52, 32, 40],
        };
        let sections_at = BODY + self.body.len() as u64;
        let mut out = Out(b"\x7fELF".to_vec(), self.wide);
        out.0.extend([1 + u8::from(self.wide), 1, 1]);
        out.0.resize(16, 0);
        out.half(2); // an executable
        out.half(if self.wide { 62 } else { 3 }); // x86-64, 386
        out.word(1);
        out.long(self.entry);
        out.long(header_bytes.into());
        out.long(if self.sections.is_empty() {
            0
        } else {
            sections_at
        });
        out.word(0);
        out.half(header_bytes);
        let counts = [
            program_header,
            self.headers.len() as u16,
            section_header,
            self.sections.len() as u16,
        ];
        for (right, wrong) in counts.iter().zip(self.wrong) {
            out.half(wrong.unwrap_or(*right));
        }
        out.half(0);
        for header in &self.headers {
            out.program_header(header);
        }
        out.0.resize(BODY as usize, 0);
        out.0.extend(&self.body);
        for header in &self.sections {
            out.section_header(header);
        }
        out.0
    }
}

/// A segment to be loaded.
pub fn load(offset: u64, address: u64, file_bytes: u64, memory_bytes: u64) -> Header {
    Header {
        kind: PT_LOAD,
        offset,
        address,
        file_bytes,
        memory_bytes,
        align: 1,
    }
}

/// A note, filled up to `align`.
pub fn note(name: &[u8], kind: u32, contents: &[u8], align: usize) -> Vec<u8> {
    let sizes = [name.len() as u32, contents.len() as u32, kind];
    let mut bytes: Vec<u8> = sizes.iter().flat_map(|size| size.to_le_bytes()).collect();
    for part in [name, contents] {
        bytes.extend(part);
        bytes.resize(bytes.len().next_multiple_of(align), 0);
    }
    bytes
}

/// Little-endian numbers of a class.
struct Out(Vec<u8>, bool);

impl Out {
    fn half(&mut self, value: u16) {
        self.0.extend(value.to_le_bytes());
    }

    fn word(&mut self, value: u32) {
        self.0.extend(value.to_le_bytes());
    }

    fn long(&mut self, value: u64) {
        match self.1 {
            true => self.0.extend(value.to_le_bytes()),
            false => self.word(value as u32),
        }
    }

    fn program_header(&mut self, header: &Header) {
        self.word(header.kind);
        if self.1 {
            self.word(7);
        }
        self.long(header.offset);
        self.long(header.address.wrapping_add(0xffff_8000_0000_0000)); // virtual
        self.long(header.address);
        self.long(header.file_bytes);
        self.long(header.memory_bytes);
        if !self.1 {
            self.word(7);
        }
        self.long(header.align);
    }

    fn section_header(&mut self, header: &Header) {
        self.word(0);
        self.word(header.kind);
        [0, header.address, header.offset, header.file_bytes]
            .into_iter()
            .for_each(|value| self.long(value));
        self.word(0);
        self.word(0);
        self.long(header.align);
        self.long(0);
    }
}

/// Any file at all, and often a kernel.
pub fn any_file() -> impl Strategy<Value = Made> {
    prop_oneof![any_kernel(), any_headers()]
}

/// A few segments near each other, of which the first is entered.
fn any_kernel() -> impl Strategy<Value = Made> {
    let place = (0x100u64..0x110).prop_map(|page| page << 12);
    let segment = (place, 1u64..0x1801, 0u64..0x1000);
    let segments = prop::collection::vec(segment, 1..5);
    (any::<bool>(), segments, any_note()).prop_map(|(wide, segments, notes)| {
        let mut made = Made::kernel();
        let header =
            |(address, file_bytes, more)| load(BODY, address, file_bytes, file_bytes + more);
        made.headers = segments.into_iter().map(header).collect();
        made.entry = made.headers[0].address;
        made.wide = wide;
        made.body.resize(0x2000, 0x90);
        let offset = made.append(&notes);
        made.headers.push(Header {
            kind: PT_NOTE,
            offset,
            file_bytes: notes.len() as u64,
            ..Header::default()
        });
        made
    })
}

fn any_headers() -> impl Strategy<Value = Made> {
    let headers = || prop::collection::vec(any_header(), 0..6);
    let wrong = prop_oneof![
        8 => Just([None; 4]),
        1 => [any_half(), any_half(), any_half(), any_half()],
    ];
    let body = prop::collection::vec(any_note(), 0..8);
    let fields = (
        any::<bool>(),
        any_address(),
        headers(),
        headers(),
        body,
        wrong,
    );
    fields.prop_map(|(wide, entry, headers, sections, notes, wrong)| {
        let mut body = notes.concat();
        body.resize(0x2000, 0x90);
        Made {
            wide,
            entry,
            headers,
            sections,
            body,
            wrong,
        }
    })
}

fn any_half() -> impl Strategy<Value = Option<u16>> {
    let odd = prop::sample::select(vec![0u16, 1, 2, 32, 40, 56, 64, 255, 256, 257, 0xffff]);
    prop::option::of(odd)
}

fn any_header() -> impl Strategy<Value = Header> {
    let kind = prop::sample::select(vec![PT_LOAD, PT_LOAD, PT_LOAD, PT_NOTE, SHT_NOTE, 0, 2]);
    let file_bytes = prop_oneof![4 => 0u64..0x2000, 1 => any_size()];
    let more = prop_oneof![Just(0u64), 0u64..0x3000, any_size()];
    let offset = prop_oneof![3 => Just(BODY), 1 => 0u64..0x7000, 1 => any_size()];
    let align = prop::sample::select(vec![0u64, 1, 2, 4, 8, 16, 4096, u64::MAX]);
    let fields = (kind, offset, any_address(), file_bytes, more, align);
    fields.prop_map(|(kind, offset, address, file_bytes, more, align)| Header {
        kind,
        offset,
        address,
        file_bytes,
        memory_bytes: file_bytes.wrapping_add(more),
        align,
    })
}

/// Where something lies or ends, and what is near to it.
fn any_address() -> impl Strategy<Value = u64> {
    let border = prop::sample::select(vec![
        0u64,
        0x500,
        0x6000,
        0x7000,
        0x9000,
        0xf000,
        0x2_0000,
        0x9_fc00,
        0x10_0000,
        0x40_0000,
        0x2010_0000,
        0x4000_0000,
        0xd000_0000,
        0xe000_0000,
        1 << 32,
        (1 << 32) + (1 << 20),
        u64::MAX,
    ]);
    let near = (border, -0x1001i64..0x1001).prop_map(|(at, by)| at.wrapping_add_signed(by));
    prop_oneof![4 => 0x10_0000u64..0x40_0000, 3 => near, 1 => any::<u64>()]
}

fn any_size() -> impl Strategy<Value = u64> {
    let sizes = vec![0u64, 1, 0xfff, 0x10_0000, 0x7fff_f000, 1 << 31, 1 << 32];
    let near_the_end = (0u64..0x2000).prop_map(|less| u64::MAX - less);
    prop_oneof![prop::sample::select(sizes), near_the_end, any::<u64>()]
}

fn any_note() -> impl Strategy<Value = Vec<u8>> {
    let name = prop::sample::select(vec![&b"Xen\0"[..], b"Xen", b"", b"GNU\0", b"Linux\0"]);
    let kind = prop::sample::select(vec![18u32, 18, 0, 5, u32::MAX]);
    let entry = prop_oneof![0x10_0000u64..0x40_0000, any_address()];
    let contents = (entry, 0usize..9).prop_map(|(entry, len)| entry.to_le_bytes()[..len].to_vec());
    let align = prop::sample::select(vec![1usize, 4, 8]);
    let whole = (name, kind, contents, align)
        .prop_map(|(name, kind, contents, align)| note(name, kind, &contents, align));
    prop_oneof![6 => whole, 1 => prop::collection::vec(any::<u8>(), 0..40)]
}
