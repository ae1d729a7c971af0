//! A driver of a few instructions for a [tiny](super::tiny) guest: 32-bit code that stores to the
//! registers of the first disk and to its rings, and looks at what comes back.

use iolite_devices_abi::blk::{self, S_OK, T_IN};
use iolite_devices_abi::machine::VIRTIO_MMIO_BASE;
use iolite_devices_abi::mmio as reg;
use iolite_devices_abi::ring::{DESC_F_INDIRECT, DESC_F_NEXT, DESC_F_WRITE};
use iolite_devices_abi::status::*;

use super::tiny::{Entry, Tiny};

/// Where things are in the guest's memory.
pub const DESC: u32 = 0x20_0000;
pub const AVAIL: u32 = 0x20_1000;
pub const USED: u32 = 0x20_2000;
pub const HEADER: u32 = 0x20_3000;
pub const STATUS: u32 = 0x20_4000;
pub const DATA: u32 = 0x20_5000;
pub const TABLE: u32 = 0x20_8000;
/// Where RAM ends.
pub const END: u32 = 128 << 20;
/// Nobody is there.
pub const NOWHERE: u32 = 0x4000_0000;

pub const QUEUE_SIZE: u32 = 8;
/// What no device writes as a status.
pub const UNTOUCHED: u32 = 0xaa;

pub const NEXT: u32 = DESC_F_NEXT as u32;
pub const WRITE: u32 = DESC_F_WRITE as u32;
pub const INDIRECT: u32 = DESC_F_INDIRECT as u32;
pub const UP: u32 = ACKNOWLEDGE | DRIVER | FEATURES_OK;
/// What every disk offers.
pub const FEATURES: u64 = F_VERSION_1 | F_INDIRECT_DESC | blk::F_FLUSH;

/// The guest's code in the making.
pub struct Guest(pub Tiny);

impl Guest {
    pub fn new() -> Self {
        Guest(Tiny::new(Entry::Pvh))
    }

    fn raw(mut self, code: &[u8]) -> Self {
        self.0 = self.0.raw(code);
        self
    }

    // Memory and registers.

    pub fn store(self, addr: u32, value: u32) -> Self {
        // mov dword [addr], value
        let code = self.raw(&[0xc7, 0x05]).raw(&addr.to_le_bytes());
        code.raw(&value.to_le_bytes())
    }

    pub fn register(self, offset: u64, value: u32) -> Self {
        self.store(address_of(offset), value)
    }

    pub fn store_byte(self, addr: u32, value: u8) -> Self {
        // mov byte [addr], value
        self.raw(&[0xc6, 0x05])
            .raw(&addr.to_le_bytes())
            .raw(&[value])
    }

    pub fn store_word(self, addr: u32, value: u16) -> Self {
        // mov word [addr], value
        let code = self.raw(&[0x66, 0xc7, 0x05]).raw(&addr.to_le_bytes());
        code.raw(&value.to_le_bytes())
    }

    /// Looks until the bits of `mask` at `addr` are `value`.
    pub fn wait(self, addr: u32, mask: u32, value: u32) -> Self {
        // jne back over itself and the comparison
        self.compare(addr, mask, value).raw(&[0x75, 0xef])
    }

    /// Stops the machine with an exit code unless the bits of `mask` at `addr` are `value`.
    pub fn expect(self, addr: u32, mask: u32, value: u32) -> Self {
        self.compare(addr, mask, value).or_stop()
    }

    /// The same, by a load of one byte.
    pub fn expect_byte(self, addr: u32, value: u8) -> Self {
        // movzx eax, byte [addr]
        let code = self.raw(&[0x0f, 0xb6, 0x05]).raw(&addr.to_le_bytes());
        code.compare_eax(value.into()).or_stop()
    }

    /// The same, by a load of two bytes.
    pub fn expect_word(self, addr: u32, value: u16) -> Self {
        // movzx eax, word [addr]
        let code = self.raw(&[0x0f, 0xb7, 0x05]).raw(&addr.to_le_bytes());
        code.compare_eax(value.into()).or_stop()
    }

    fn or_stop(self) -> Self {
        // je over: mov al, 1; mov dx, 0xf4; out dx, al; hlt; jmp back
        self.raw(&[
            0x74, 10, 0xb0, 1, 0x66, 0xba, 0xf4, 0, 0xee, 0xf4, 0xeb, 0xfd,
        ])
    }

    /// Compares the bits of `mask` at `addr` with `value`: 15 bytes.
    fn compare(self, addr: u32, mask: u32, value: u32) -> Self {
        // mov eax, [addr]; and eax, mask
        let code = self.raw(&[0xa1]).raw(&addr.to_le_bytes());
        let code = code.raw(&[0x25]).raw(&mask.to_le_bytes());
        code.compare_eax(value)
    }

    fn compare_eax(self, value: u32) -> Self {
        // cmp eax, value
        self.raw(&[0x3d]).raw(&value.to_le_bytes())
    }

    pub fn says(mut self, text: &str) -> Self {
        self.0 = self.0.print(text);
        self
    }

    // A driver's steps.

    /// Everything up to FEATURES_OK, with the queue's memory as new.
    pub fn negotiate(self, features: u64) -> Self {
        let mut code = self.register(reg::STATUS, 0);
        code = code.wait(address_of(reg::STATUS), u32::MAX, 0);
        for status in [ACKNOWLEDGE, ACKNOWLEDGE | DRIVER] {
            code = code.register(reg::STATUS, status);
        }
        for half in 0..2 {
            code = code.register(reg::DRIVER_FEATURES_SEL, half);
            code = code.register(reg::DRIVER_FEATURES, (features >> (32 * half)) as u32);
        }
        code = code.register(reg::STATUS, UP);
        code.clear()
    }

    /// The queue's memory as new.
    fn clear(self) -> Self {
        self.store(AVAIL, 0).store(USED, 0).store(STATUS, UNTOUCHED)
    }

    pub fn place(self, size: u32, desc: u32, avail: u32, used: u32) -> Self {
        let mut code = self.register(reg::QUEUE_SEL, 0);
        code = code.register(reg::QUEUE_NUM, size);
        let places = [
            reg::QUEUE_DESC_LOW,
            reg::QUEUE_DRIVER_LOW,
            reg::QUEUE_DEVICE_LOW,
        ];
        for (low, addr) in places.into_iter().zip([desc, avail, used]) {
            code = code.register(low, addr).register(low + 4, 0);
        }
        code.register(reg::QUEUE_READY, 1)
    }

    pub fn live(self) -> Self {
        self.live_with(FEATURES)
    }

    pub fn live_with(self, features: u64) -> Self {
        let code = self
            .negotiate(features)
            .place(QUEUE_SIZE, DESC, AVAIL, USED);
        code.register(reg::STATUS, UP | DRIVER_OK)
    }

    /// RING_RESET of queue 0, and its memory as new.
    pub fn reset_queue(self) -> Self {
        let code = self
            .register(reg::QUEUE_SEL, 0)
            .register(reg::QUEUE_RESET, 1);
        let code = code.wait(address_of(reg::QUEUE_RESET), 1, 0);
        code.expect(address_of(reg::QUEUE_READY), 1, 0).clear()
    }

    pub fn descriptor(self, table: u32, index: u32, [addr, len, flags, next]: [u32; 4]) -> Self {
        let at = table + 16 * index;
        let code = self.store(at, addr).store(at + 4, 0).store(at + 8, len);
        code.store(at + 12, flags | next << 16)
    }

    pub fn header(self, request_type: u32, sector: u32) -> Self {
        let code = self.store(HEADER, request_type).store(HEADER + 4, 0);
        code.store(HEADER + 8, sector).store(HEADER + 12, 0)
    }

    /// A read of sector 1 in descriptors 0 to 2 of `table`.
    pub fn read_chain(self, table: u32) -> Self {
        let code = self.header(T_IN, 1);
        let code = code.descriptor(table, 0, [HEADER, 16, NEXT, 1]);
        let code = code.descriptor(table, 1, [DATA, 512, WRITE | NEXT, 2]);
        code.descriptor(table, 2, [STATUS, 1, WRITE, 0])
    }

    /// Makes `heads` available at once, and notifies.
    pub fn submit(self, heads: &[u32]) -> Self {
        let mut code = self;
        for (slot, pair) in heads.chunks(2).enumerate() {
            let second = pair.get(1).copied().unwrap_or(0);
            code = code.store(AVAIL + 4 + 4 * slot as u32, pair[0] | second << 16);
        }
        code.available(heads.len() as u32)
    }

    /// Says that there are `count` heads, and notifies.
    pub fn available(self, count: u32) -> Self {
        let code = self.store(AVAIL, count << 16);
        code.register(reg::QUEUE_NOTIFY, 0)
    }

    /// A request of one data buffer in descriptors 0 to 2.
    pub fn request(self, request_type: u32, sector: u32, data: [u32; 3]) -> Self {
        let [addr, len, flags] = data;
        let code = self.header(request_type, sector);
        let code = code.descriptor(DESC, 0, [HEADER, 16, NEXT, 1]);
        let code = code.descriptor(DESC, 1, [addr, len, NEXT | flags, 2]);
        code.descriptor(DESC, 2, [STATUS, 1, WRITE, 0]).submit(&[0])
    }

    // What must come of it.

    pub fn answered(self, status: u8, len: u32) -> Self {
        let code = self.wait(USED, 0xffff_0000, 1 << 16);
        let code = code.expect(STATUS, 0xff, status.into());
        code.expect(USED + 8, u32::MAX, len)
    }

    /// DEVICE_NEEDS_RESET, and nothing is used.
    pub fn broken(self) -> Self {
        let needs_reset = DEVICE_NEEDS_RESET;
        let code = self.wait(address_of(reg::STATUS), needs_reset, needs_reset);
        let code = code.expect(USED, 0xffff_0000, 0);
        code.expect(STATUS, 0xff, UNTOUCHED)
    }

    /// The set-up is refused, and DRIVER_OK with it.
    pub fn refused(self) -> Self {
        let code = self.register(reg::STATUS, UP | DRIVER_OK);
        let status = address_of(reg::STATUS);
        code.expect(status, DEVICE_NEEDS_RESET | DRIVER_OK, DEVICE_NEEDS_RESET)
    }

    /// A new start, and a read that comes out right.
    pub fn recovers(self) -> Self {
        let code = self.live().store(DATA, 0);
        let code = code.request(T_IN, 1, [DATA, 512, WRITE]);
        code.answered(S_OK, 513).expect(DATA, u32::MAX, CONTENT)
    }
}

/// What begins sector 1 of the disk.
pub const CONTENT: u32 = 0x0101_0101;

pub fn address_of(offset: u64) -> u32 {
    (VIRTIO_MMIO_BASE + offset) as u32
}
