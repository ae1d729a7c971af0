//! Rows 1 to 29, and RING_RESET: the set-up of a queue, the device status field and the other
//! registers.

use iolite_devices_abi::blk::{S_OK, T_IN};
use iolite_devices_abi::mmio as reg;
use iolite_devices_abi::status::*;

use super::tiny_driver::*;
use super::{Row, SECTORS};

pub const ROWS: &[Row] = &[
    ("01 queue size 0", |g| {
        g.negotiate(FEATURES).place(0, DESC, AVAIL, USED).refused()
    }),
    ("02 queue size 12", |g| {
        g.negotiate(FEATURES).place(12, DESC, AVAIL, USED).refused()
    }),
    ("03 queue too large", |g| {
        g.negotiate(FEATURES)
            .place(4096, DESC, AVAIL, USED)
            .refused()
    }),
    ("04 high bits", |g| {
        g.negotiate(FEATURES)
            .place(0x1_0008, DESC, AVAIL, USED)
            .refused()
    }),
    ("05 a queue beyond the last", |g| {
        let g = g.negotiate(FEATURES).register(reg::QUEUE_SEL, 0x1_0000);
        g.expect(address_of(reg::QUEUE_NUM_MAX), u32::MAX, 0)
    }),
    ("06 a ring outside memory", |g| {
        g.negotiate(FEATURES)
            .place(QUEUE_SIZE, NOWHERE, AVAIL, USED)
            .refused()
    }),
    ("07 an address that wraps", |g| {
        g.negotiate(FEATURES)
            .place(QUEUE_SIZE, DESC, u32::MAX - 1, USED)
            .refused()
    }),
    ("08 a misaligned ring", |g| {
        g.negotiate(FEATURES)
            .place(QUEUE_SIZE, DESC, AVAIL, USED + 2)
            .refused()
    }),
    ("09 rings that overlap", |g| {
        let g = g.negotiate(FEATURES).place(QUEUE_SIZE, DESC, DESC, DESC);
        g.register(reg::STATUS, UP | DRIVER_OK).submit(&[0, 1, 2])
    }),
    ("10 a ring over the end of memory", |g| {
        let g = g.negotiate(FEATURES);
        g.place(QUEUE_SIZE, END - 64, AVAIL, USED).refused()
    }),
    ("11 ready without addresses", |g| {
        g.negotiate(FEATURES)
            .register(reg::QUEUE_READY, 1)
            .refused()
    }),
    ("12 registers of a live queue", |g| {
        let g = g
            .live()
            .place(3, NOWHERE, 1, 2)
            .register(reg::QUEUE_READY, 1);
        g.request(T_IN, 1, [DATA, 512, WRITE]).answered(S_OK, 513)
    }),
    ("13 a live queue is taken away", |g| {
        let g = g.live().register(reg::QUEUE_READY, 0);
        let g = g.wait(address_of(reg::QUEUE_READY), 1, 0);
        g.request(T_IN, 1, [DATA, 512, WRITE])
            .expect(USED, 0xffff_0000, 0)
    }),
    ("RING_RESET and what is in flight", |g| {
        let g = g.live_with(FEATURES | F_RING_RESET);
        let g = g.request(T_IN, 1, [DATA, 512, WRITE]).reset_queue();
        let g = g.place(QUEUE_SIZE, DESC, AVAIL, USED).store(DATA, 0);
        let g = g.request(T_IN, 1, [DATA, 512, WRITE]).answered(S_OK, 513);
        g.expect(DATA, u32::MAX, CONTENT)
    }),
    (
        "RING_RESET again and again, and a ring outside memory",
        |g| {
            let g = g.live_with(FEATURES | F_RING_RESET).reset_queue();
            let g = g.reset_queue().place(QUEUE_SIZE, NOWHERE, AVAIL, USED);
            g.broken()
        },
    ),
    ("RING_RESET was not negotiated", |g| {
        let g = g.live().register(reg::QUEUE_RESET, 1);
        g.request(T_IN, 1, [DATA, 512, WRITE]).answered(S_OK, 513)
    }),
    ("14 DRIVER_OK too early", |g| {
        let g = g
            .register(reg::STATUS, 0)
            .register(reg::STATUS, UP | DRIVER_OK);
        g.expect(address_of(reg::STATUS), DRIVER_OK, 0)
    }),
    ("15 status steps out of order", |g| {
        let g = g.register(reg::STATUS, 0).register(reg::STATUS, DRIVER);
        g.expect(address_of(reg::STATUS), u32::MAX, 0)
    }),
    ("16 features that were not offered", |g| {
        let g = g.negotiate(FEATURES | 1 << 63);
        g.expect(address_of(reg::STATUS), u32::MAX, ACKNOWLEDGE | DRIVER)
    }),
    ("17 without VERSION_1", |g| {
        let g = g.negotiate(FEATURES & !F_VERSION_1);
        g.expect(address_of(reg::STATUS), u32::MAX, ACKNOWLEDGE | DRIVER)
    }),
    ("18 a feature selector of 2", |g| {
        let g = g.live().register(reg::DEVICE_FEATURES_SEL, 2);
        g.expect(address_of(reg::DEVICE_FEATURES), u32::MAX, 0)
    }),
    ("19 going on after FAILED", |g| {
        let g = g.live().register(reg::STATUS, UP | DRIVER_OK | FAILED);
        let g = g.request(T_IN, 1, [DATA, 512, WRITE]);
        g.expect(address_of(reg::STATUS), FAILED, FAILED)
            .expect(USED, 0xffff_0000, 0)
    }),
    ("20 the driver sets NEEDS_RESET", |g| {
        let g = g
            .live()
            .register(reg::STATUS, UP | DRIVER_OK | DEVICE_NEEDS_RESET);
        g.expect(address_of(reg::STATUS), DEVICE_NEEDS_RESET, 0)
    }),
    ("21 reset with requests in flight", |g| {
        let g = g
            .live()
            .request(T_IN, 1, [DATA, 512, WRITE])
            .register(reg::STATUS, 0);
        g.wait(address_of(reg::STATUS), u32::MAX, 0)
    }),
    ("22 a queue that is not there", |g| {
        g.live().register(reg::QUEUE_NOTIFY, 7)
    }),
    ("23 notifying too early", |g| {
        g.negotiate(FEATURES).register(reg::QUEUE_NOTIFY, 0)
    }),
    ("24 a storm of notifications", |g| {
        (0..500).fold(g.live(), |g, _| g.register(reg::QUEUE_NOTIFY, 0))
    }),
    ("25 one byte, two bytes, and four of two registers", |g| {
        let (magic, status) = (address_of(reg::MAGIC_VALUE), address_of(reg::STATUS));
        let g = g.live().store_byte(status, 0).store_word(status, 0);
        let g = g.store(status + 1, 0).store(status - 2, 0);
        let g = g.expect_byte(magic, 0).expect_word(magic, 0);
        let g = g.expect(magic + 2, u32::MAX, 0);
        g.expect(status, u32::MAX, UP | DRIVER_OK)
    }),
    ("26 reading what can only be written", |g| {
        let g = g.live().register(reg::MAGIC_VALUE, 0);
        g.expect(address_of(reg::QUEUE_NUM), u32::MAX, 0)
    }),
    ("27 configuration past the end", |g| {
        let past = address_of(reg::CONFIG) + 60;
        g.live()
            .expect(past, u32::MAX, 0)
            .expect(past + 0xe00, u32::MAX, 0)
    }),
    ("28 configuration writes", |g| {
        let capacity = address_of(reg::CONFIG);
        g.live()
            .store(capacity, 7)
            .expect(capacity, u32::MAX, SECTORS)
    }),
    ("29 undefined interrupts are acknowledged", |g| {
        let used = reg::INTERRUPT_USED_RING;
        let g = g.live().request(T_IN, 1, [DATA, 512, WRITE]);
        let g = g.answered(S_OK, 513).register(reg::INTERRUPT_ACK, !used);
        // The interrupt comes a moment after the answer.
        let g = g.wait(address_of(reg::INTERRUPT_STATUS), u32::MAX, used);
        let g = g.register(reg::INTERRUPT_ACK, u32::MAX);
        g.expect(address_of(reg::INTERRUPT_STATUS), u32::MAX, 0)
    }),
];
