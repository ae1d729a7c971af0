//! The split virtqueue in memory (virtio 1.2, section 2.7).

/// Alignment in bytes of the descriptor table.
pub const DESC_TABLE_ALIGN: u64 = 16;
/// Alignment in bytes of the available ring.
pub const AVAIL_RING_ALIGN: u64 = 2;
/// Alignment in bytes of the used ring.
pub const USED_RING_ALIGN: u64 = 4;

/// VIRTQ_DESC_F_NEXT: the chain goes on at `next`.
pub const DESC_F_NEXT: u16 = 1;
/// VIRTQ_DESC_F_WRITE: the buffer is device-writable (otherwise device-readable).
pub const DESC_F_WRITE: u16 = 2;
/// VIRTQ_DESC_F_INDIRECT: the buffer holds a table of descriptors.
pub const DESC_F_INDIRECT: u16 = 4;

/// VIRTQ_AVAIL_F_NO_INTERRUPT.
pub const AVAIL_F_NO_INTERRUPT: u16 = 1;
/// VIRTQ_USED_F_NO_NOTIFY.
pub const USED_F_NO_NOTIFY: u16 = 1;

/// `struct virtq_desc`, 16 bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Descriptor {
    /// Guest physical address of the buffer.
    pub addr: u64,
    /// Length of the buffer in bytes.
    pub len: u32,
    /// `DESC_F_*`.
    pub flags: u16,
    /// Index of the next descriptor of the chain if `flags` has [`DESC_F_NEXT`].
    pub next: u16,
}

impl Descriptor {
    /// Size in bytes on the wire.
    pub const SIZE: usize = 16;

    /// Decodes the descriptor from its wire form.
    pub fn from_le_bytes(bytes: [u8; Self::SIZE]) -> Self {
        let bits = u128::from_le_bytes(bytes);
        Descriptor {
            addr: bits as u64,
            len: (bits >> 64) as u32,
            flags: (bits >> 96) as u16,
            next: (bits >> 112) as u16,
        }
    }

    /// Encodes the descriptor into its wire form.
    pub fn to_le_bytes(self) -> [u8; Self::SIZE] {
        let mut bytes = [0; Self::SIZE];
        bytes[0..8].copy_from_slice(&self.addr.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.len.to_le_bytes());
        bytes[12..14].copy_from_slice(&self.flags.to_le_bytes());
        bytes[14..16].copy_from_slice(&self.next.to_le_bytes());
        bytes
    }
}

/// `struct virtq_used_elem`, 8 bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UsedElem {
    /// Head index of the used descriptor chain.
    pub id: u32,
    /// How many bytes the device wrote into the chain's device-writable buffers.
    pub len: u32,
}

/// Size in bytes of the descriptor table of a queue of `size` entries.
pub const fn desc_table_bytes(size: u16) -> usize {
    16 * size as usize
}

/// Size in bytes of the available ring of a queue of `size` entries, `used_event` included:
/// `flags: u16, idx: u16, ring: [u16; size], used_event: u16`.
pub const fn avail_ring_bytes(size: u16) -> usize {
    6 + 2 * size as usize
}

/// Size in bytes of the used ring of a queue of `size` entries, `avail_event` included:
/// `flags: u16, idx: u16, ring: [UsedElem; size], avail_event: u16`.
pub const fn used_ring_bytes(size: u16) -> usize {
    6 + 8 * size as usize
}

/// `vring_need_event` (section 2.7.10): does moving an index from `old` to `new` pass `event`?
pub const fn need_event(event: u16, new: u16, old: u16) -> bool {
    new.wrapping_sub(event).wrapping_sub(1) < new.wrapping_sub(old)
}

#[cfg(test)]
mod tests {
    use super::{Descriptor, need_event};

    #[test]
    fn a_descriptor_survives_its_wire_form() {
        let descriptor = Descriptor {
            addr: 0x0102_0304_0506_0708,
            len: 9,
            flags: 3,
            next: 11,
        };
        let bytes = descriptor.to_le_bytes();
        assert_eq!((bytes[0], bytes[8], bytes[12], bytes[14]), (8, 9, 3, 11));
        assert_eq!(Descriptor::from_le_bytes(bytes), descriptor);
    }

    #[test]
    fn an_event_is_needed_when_the_index_passes_it() {
        assert!(need_event(0, 1, 0));
        assert!(!need_event(1, 1, 0));
        assert!(need_event(3, 5, 2));
        assert!(!need_event(5, 5, 2));
    }

    #[test]
    fn an_event_is_found_across_the_wrap() {
        assert!(need_event(u16::MAX, 0, u16::MAX));
        assert!(need_event(u16::MAX, 2, u16::MAX - 1));
        assert!(!need_event(2, 2, u16::MAX - 1));
    }
}
