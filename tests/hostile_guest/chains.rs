//! Rows 30 to 52: the rings, and chains of descriptors.

use iolite_devices_abi::blk::{S_IOERR, S_OK, T_IN, T_OUT};
use iolite_devices_abi::mmio as reg;
use iolite_devices_abi::status::*;

use super::Row;
use super::tiny_driver::*;

pub const ROWS: &[Row] = &[
    ("30 too many available", |g| {
        g.live().available(QUEUE_SIZE + 1).broken()
    }),
    ("31 the index goes backwards", |g| {
        g.live().available(0xffff).broken()
    }),
    ("32 a head outside the queue", |g| {
        g.live().submit(&[QUEUE_SIZE]).broken()
    }),
    ("36 any used_event", |g| {
        [0, 1, 0x7fff, 0xffff].into_iter().fold(g, |g, event| {
            let g = g.live_with(FEATURES | F_EVENT_IDX);
            let g = g.store(AVAIL + 4 + 2 * QUEUE_SIZE, event);
            g.request(T_IN, 1, [DATA, 512, WRITE]).answered(S_OK, 513)
        })
    }),
    ("38 a loop", |g| {
        let g = g.live().descriptor(DESC, 0, [HEADER, 16, NEXT, 1]);
        g.descriptor(DESC, 1, [DATA, 512, NEXT, 0])
            .submit(&[0])
            .broken()
    }),
    ("39 next outside the table", |g| {
        g.live()
            .descriptor(DESC, 0, [HEADER, 16, NEXT, QUEUE_SIZE])
            .submit(&[0])
            .broken()
    }),
    ("40 longer than 2^32", |g| {
        let g = g
            .live()
            .header(T_OUT, 0)
            .descriptor(DESC, 0, [HEADER, 16, NEXT, 1]);
        let g = g.descriptor(DESC, 1, [DATA, u32::MAX, NEXT, 2]);
        g.descriptor(DESC, 2, [STATUS, 1, WRITE, 0])
            .submit(&[0])
            .answered(S_IOERR, 1)
    }),
    ("41 indirect was not negotiated", |g| {
        let g = g
            .negotiate(FEATURES & !F_INDIRECT_DESC)
            .place(QUEUE_SIZE, DESC, AVAIL, USED);
        let g = g.register(reg::STATUS, UP | DRIVER_OK);
        g.descriptor(DESC, 0, [TABLE, 48, INDIRECT, 0])
            .submit(&[0])
            .broken()
    }),
    ("42 indirect with next", |g| {
        g.live()
            .descriptor(DESC, 0, [TABLE, 48, INDIRECT | NEXT, 1])
            .submit(&[0])
            .broken()
    }),
    ("43 indirect in indirect", |g| {
        let g = g.live().descriptor(DESC, 0, [TABLE, 16, INDIRECT, 0]);
        g.descriptor(TABLE, 0, [TABLE, 16, INDIRECT, 0])
            .submit(&[0])
            .broken()
    }),
    ("44 an indirect table of 20 bytes", |g| {
        g.live()
            .descriptor(DESC, 0, [TABLE, 20, INDIRECT, 0])
            .submit(&[0])
            .broken()
    }),
    ("45 an indirect table outside memory", |g| {
        g.live()
            .descriptor(DESC, 0, [NOWHERE, 48, INDIRECT, 0])
            .submit(&[0])
            .broken()
    }),
    ("46 next outside an indirect table", |g| {
        let g = g.live().descriptor(DESC, 0, [TABLE, 32, INDIRECT, 0]);
        let g = g.descriptor(TABLE, 0, [HEADER, 16, NEXT, 1]);
        g.descriptor(TABLE, 1, [DATA, 512, WRITE | NEXT, 2])
            .submit(&[0])
            .broken()
    }),
    ("47 longer than the queue", |g| {
        let pieces = QUEUE_SIZE + 1;
        let g = g
            .live()
            .descriptor(DESC, 0, [TABLE, 16 * pieces, INDIRECT, 0]);
        let g = (0..pieces).fold(g, |g, at| {
            g.descriptor(TABLE, at, [DATA, 1, NEXT | WRITE, at + 1])
        });
        g.descriptor(TABLE, QUEUE_SIZE, [DATA, 1, WRITE, 0])
            .submit(&[0])
            .broken()
    }),
    ("48 indirect with write", |g| {
        let flags = INDIRECT | WRITE;
        let g = g.live().descriptor(DESC, 0, [TABLE, 48, flags, 0]);
        g.read_chain(TABLE).submit(&[0]).answered(S_OK, 513)
    }),
    ("49 direct, then indirect", |g| {
        let g = g.live().header(T_IN, 1);
        let g = g.descriptor(DESC, 0, [HEADER, 16, NEXT, 1]);
        let g = g.descriptor(DESC, 1, [TABLE, 32, INDIRECT, 0]);
        let g = g.descriptor(TABLE, 0, [DATA, 512, WRITE | NEXT, 1]);
        g.descriptor(TABLE, 1, [STATUS, 1, WRITE, 0])
            .submit(&[0])
            .answered(S_OK, 513)
    }),
    ("50 a descriptor of no length", |g| {
        let g = g.live().header(T_IN, 1);
        let g = g.descriptor(DESC, 0, [HEADER, 16, NEXT, 1]);
        let g = g.descriptor(DESC, 1, [NOWHERE, 0, WRITE | NEXT, 2]);
        let g = g.descriptor(DESC, 2, [DATA, 512, WRITE | NEXT, 3]);
        g.descriptor(DESC, 3, [STATUS, 1, WRITE, 0])
            .submit(&[0])
            .answered(S_OK, 513)
    }),
    ("51 readable after writable", |g| {
        let g = g
            .live()
            .header(T_IN, 0)
            .descriptor(DESC, 0, [HEADER, 16, NEXT, 1]);
        let g = g.descriptor(DESC, 1, [DATA, 512, WRITE | NEXT, 2]);
        let g = g.descriptor(DESC, 2, [DATA, 512, NEXT, 3]);
        g.descriptor(DESC, 3, [STATUS, 1, WRITE, 0])
            .submit(&[0])
            .answered(S_IOERR, 1)
    }),
];
