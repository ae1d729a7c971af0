//! The fixed parts of the machine: ports, addresses and interrupt lines (docs/machine.md).

/// First guest physical address of the hole below 4 GiB that holds device windows; RAM ends here
/// and, if there is more, goes on at 4 GiB.
pub const MMIO_HOLE_START: u64 = 0xd000_0000;
/// First guest physical address above the hole.
pub const MMIO_HOLE_END: u64 = 1 << 32;

/// Guest physical address of the first virtio-mmio window.
pub const VIRTIO_MMIO_BASE: u64 = MMIO_HOLE_START;
/// Size in bytes of one virtio-mmio window, and the distance from one to the next.
pub const VIRTIO_MMIO_SIZE: u64 = 0x1000;
/// Interrupt line (IOAPIC input, ISA numbering) of the first virtio-mmio window.
pub const VIRTIO_MMIO_FIRST_IRQ: u32 = 5;
/// How many windows there can be: lines 5 to 23 of the IOAPIC.
pub const VIRTIO_MMIO_WINDOWS: usize = 19;

/// First I/O port of the 16550A UART, COM1.
pub const COM1_PORT: u16 = 0x3f8;
/// How many ports COM1 has.
pub const COM1_PORTS: u16 = 8;
/// Interrupt line of COM1.
pub const COM1_IRQ: u32 = 4;

/// The exit port, with the meaning of QEMU's `isa-debug-exit`: writing `value` ends the virtual
/// machine, and the VMM's process exits with `value * 2 + 1`.
pub const EXIT_PORT: u16 = 0xf4;

/// Command and status port of the i8042 controller.
pub const I8042_COMMAND_PORT: u16 = 0x64;
/// The i8042 command that pulses the CPU's reset line: the clean end of a virtual machine.
pub const I8042_RESET: u8 = 0xfe;
