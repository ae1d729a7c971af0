//! Rows 53 to 75: what a chain asks for.

use iolite_devices_abi::blk::{self, S_IOERR, S_OK, S_UNSUPP, T_FLUSH, T_GET_ID, T_IN, T_OUT};

use super::tiny_driver::*;
use super::{Row, SECTORS};

pub const ROWS: &[Row] = &[
    ("53 a header in two pieces", |g| {
        let g = g.live().header(T_IN, 1);
        let g = g.descriptor(DESC, 0, [HEADER, 7, NEXT, 1]);
        let g = g.descriptor(DESC, 1, [HEADER + 7, 9, NEXT, 2]);
        let g = g.descriptor(DESC, 2, [DATA, 512, WRITE | NEXT, 3]);
        g.descriptor(DESC, 3, [STATUS, 1, WRITE, 0])
            .submit(&[0])
            .answered(S_OK, 513)
    }),
    ("54 a header that is too short", |g| {
        let g = g.live().descriptor(DESC, 0, [HEADER, 15, NEXT, 1]);
        g.descriptor(DESC, 1, [STATUS, 1, WRITE, 0])
            .submit(&[0])
            .answered(S_IOERR, 1)
    }),
    ("55 a header that can be written", |g| {
        let g = g.live().header(T_IN, 1);
        let g = g.descriptor(DESC, 0, [HEADER, 16, WRITE | NEXT, 1]);
        g.descriptor(DESC, 1, [STATUS, 1, WRITE, 0])
            .submit(&[0])
            .answered(S_IOERR, 1)
    }),
    ("56 a header alone", |g| {
        let g = g
            .live()
            .header(T_IN, 0)
            .descriptor(DESC, 0, [HEADER, 16, 0, 0]);
        g.submit(&[0]).answered(UNTOUCHED as u8, 0)
    }),
    ("57 a status that cannot be written", |g| {
        let g = g
            .live()
            .header(T_IN, 0)
            .descriptor(DESC, 0, [HEADER, 16, NEXT, 1]);
        g.descriptor(DESC, 1, [NOWHERE, 1, WRITE, 0])
            .submit(&[0])
            .answered(UNTOUCHED as u8, 0)
    }),
    ("58 the status behind the data", |g| {
        let g = g.live().header(T_IN, 1).store(DATA + 512, UNTOUCHED);
        let g = g.descriptor(DESC, 0, [HEADER, 16, NEXT, 1]);
        let g = g.descriptor(DESC, 1, [DATA, 513, WRITE, 0]).submit(&[0]);
        let g = g.wait(USED, 0xffff_0000, 1 << 16);
        g.expect_byte(DATA + 512, S_OK)
            .expect(USED + 8, u32::MAX, 513)
    }),
    ("59 data outside memory", |g| {
        g.live()
            .request(T_IN, 1, [NOWHERE, 512, WRITE])
            .answered(S_IOERR, 1)
    }),
    ("60 data of the wrong direction", |g| {
        g.live()
            .request(T_IN, 1, [DATA, 512, 0])
            .answered(S_IOERR, 1)
    }),
    ("61 a length of 511", |g| {
        g.live()
            .request(T_IN, 1, [DATA, 511, WRITE])
            .answered(S_IOERR, 1)
    }),
    ("62 a position that overflows", |g| {
        let g = g.live().store(HEADER + 12, u32::MAX);
        let g = g
            .descriptor(DESC, 0, [HEADER, 16, NEXT, 1])
            .store(HEADER, T_IN);
        let g = g.descriptor(DESC, 1, [DATA, 512, WRITE | NEXT, 2]);
        g.descriptor(DESC, 2, [STATUS, 1, WRITE, 0])
            .submit(&[0])
            .answered(S_IOERR, 1)
    }),
    ("63 beyond the capacity", |g| {
        g.live()
            .request(T_OUT, SECTORS, [DATA, 512, 0])
            .answered(S_IOERR, 1)
    }),
    ("65 nothing to transfer", |g| {
        g.live()
            .request(T_IN, 1, [DATA, 0, WRITE])
            .answered(S_OK, 1)
    }),
    ("68 an unknown type", |g| {
        g.live()
            .request(77, 0, [DATA, 512, WRITE])
            .answered(S_UNSUPP, 1)
    }),
    ("69 a flush with data", |g| {
        g.live()
            .request(T_FLUSH, 9, [DATA, 512, 0])
            .answered(S_OK, 1)
    }),
    ("70 an identification of 19 bytes", |g| {
        g.live()
            .request(T_GET_ID, 0, [DATA, 19, WRITE])
            .answered(S_IOERR, 1)
    }),
    ("71 write-zeroes was not negotiated", |g| {
        g.live()
            .request(blk::T_WRITE_ZEROES, 0, [DATA, 16, 0])
            .answered(S_UNSUPP, 1)
    }),
    ("72 a payload of 17 bytes", |g| {
        g.live_with(FEATURES | blk::F_DISCARD)
            .request(blk::T_DISCARD, 0, [DATA, 17, 0])
            .answered(S_IOERR, 1)
    }),
    ("73 discard with unmap", |g| {
        let g = g
            .live_with(FEATURES | blk::F_DISCARD)
            .store(DATA, 0)
            .store(DATA + 4, 0)
            .store(DATA + 8, 1);
        let g = g.store(DATA + 12, blk::FLAG_UNMAP);
        g.request(blk::T_DISCARD, 0, [DATA, 16, 0])
            .answered(S_UNSUPP, 1)
    }),
    ("74 a discard beyond the disk", |g| {
        let g = g
            .live_with(FEATURES | blk::F_DISCARD)
            .store(DATA, SECTORS)
            .store(DATA + 4, 0)
            .store(DATA + 8, 1);
        let g = g.store(DATA + 12, 0);
        g.request(blk::T_DISCARD, 0, [DATA, 16, 0])
            .answered(S_IOERR, 1)
    }),
];
