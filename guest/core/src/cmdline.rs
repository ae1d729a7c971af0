//! The kernel's command line.
//!
//! Words are separated by blanks. `virtio_mmio.device=` names a device, and `iolite.trace=` a window
//! for trace events, wherever it stands, since VMMs append it; `init=` and `cache=` are the
//! kernel's own, and `tsc_early_khz=` tells the clock's frequency, as it tells Linux; words that
//! Linux would take for itself (`console=`, `reboot=`, `panic=`, names with a dot) are passed over.
//! Every other word is an argument of the first program, as is every word after `--`.

/// What the command line calls the window for trace events (docs/tracing.md).
const TRACE_WORD: &str = "iolite.trace";

/// A virtio-mmio register window and its interrupt line:
/// `virtio_mmio.device=SIZE@ADDRESS:LINE` (Linux, Documentation/admin-guide/kernel-parameters.txt).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// Physical address of the registers.
    pub address: u64,
    /// Size of the window in bytes.
    pub bytes: u64,
    /// Interrupt line.
    pub line: u8,
}

/// What one word of the command line says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Word<'a> {
    /// A device.
    Device(Window),
    /// The first program.
    Init(&'a str),
    /// The size of the page cache in bytes.
    Cache(u64),
    /// The window for trace events; it has no interrupt line.
    Trace(Window),
    /// Ticks of the time stamp counter in a second.
    TscHz(u64),
    /// An argument of the first program.
    Argument(&'a str),
    /// A word for another kernel.
    Ignored,
    /// A word the kernel knows, with a value it does not understand.
    Bad(&'a str),
}

/// The words of a command line, in order.
pub fn words(line: &str) -> impl Iterator<Item = Word<'_>> {
    let mut arguments_only = false;
    line.split_ascii_whitespace().filter_map(move |word| {
        if word == "--" && !arguments_only {
            arguments_only = true;
            return None;
        }
        Some(understand(word, arguments_only))
    })
}

fn understand(word: &str, arguments_only: bool) -> Word<'_> {
    let (name, value) = word.split_once('=').unwrap_or((word, ""));
    let known = match name {
        "virtio_mmio.device" => window(value).map(Word::Device),
        TRACE_WORD => trace_window(value).map(Word::Trace),
        _ if arguments_only => Some(Word::Argument(word)),
        "init" => (!value.is_empty()).then_some(Word::Init(value)),
        "tsc_early_khz" => tsc_khz(value).map(|khz| Word::TscHz(khz * 1000)),
        "cache" => size(value).filter(|bytes| *bytes > 0).map(Word::Cache),
        "console" | "reboot" | "panic" | "earlyprintk" | "root" | "rootwait" | "quiet"
        | "nomodule" | "pci" | "acpi" | "noapic" | "nolapic" => Some(Word::Ignored),
        _ if word.contains('=') && name.contains('.') && !name.contains('/') => Some(Word::Ignored),
        _ => Some(Word::Argument(word)),
    };
    known.unwrap_or(Word::Bad(word))
}

/// The frequency of the time stamp counter that the command line tells.
pub fn tsc_hz(line: &str) -> Option<u64> {
    words(line).find_map(|word| match word {
        Word::TscHz(hz) => Some(hz),
        _ => None,
    })
}

/// From 1 MHz to 1 THz: a clock that nobody has is a mistake.
fn tsc_khz(text: &str) -> Option<u64> {
    number(text).filter(|khz| (1_000..=1_000_000_000).contains(khz))
}

fn trace_window(text: &str) -> Option<Window> {
    let (bytes, address) = text.split_once('@')?;
    Some(Window {
        address: number(address)?,
        bytes: size(bytes)?,
        line: 0,
    })
}

fn window(text: &str) -> Option<Window> {
    let (bytes, rest) = text.split_once('@')?;
    let mut parts = rest.split(':');
    let address = number(parts.next()?)?;
    let line = u8::try_from(number(parts.next()?)?).ok()?;
    Some(Window {
        address,
        bytes: size(bytes)?,
        line,
    })
}

/// A number of bytes: decimal or `0x` hexadecimal, with `K`, `M` or `G` after it.
pub fn size(text: &str) -> Option<u64> {
    let (digits, shift) = match text.as_bytes().last()? {
        b'k' | b'K' => (&text[..text.len() - 1], 10),
        b'm' | b'M' => (&text[..text.len() - 1], 20),
        b'g' | b'G' => (&text[..text.len() - 1], 30),
        _ => (text, 0),
    };
    number(digits)?.checked_mul(1 << shift)
}

fn number(text: &str) -> Option<u64> {
    match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16).ok(),
        None => text.parse().ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::{Window, Word, size, tsc_hz, words};

    fn all(line: &str) -> impl PartialEq<[Word<'_>]> + core::fmt::Debug {
        extern crate std;
        words(line).collect::<std::vec::Vec<_>>()
    }

    #[test]
    fn devices_are_found_as_each_vmm_writes_them() {
        let iolite = Window {
            address: 0xd000_0000,
            bytes: 4096,
            line: 5,
        };
        let qemu = Window {
            address: 0xfeb0_2a00,
            bytes: 512,
            line: 12,
        };
        assert_eq!(
            all("virtio_mmio.device=4K@0xd0000000:5 virtio_mmio.device=512@0xfeb02a00:12"),
            [Word::Device(iolite), Word::Device(qemu)][..]
        );
    }

    #[test]
    fn what_is_not_the_kernels_is_the_first_programs() {
        assert_eq!(
            all("console=ttyS0 init=demo /dev/vdb --write a=b cache=8M"),
            [
                Word::Ignored,
                Word::Init("demo"),
                Word::Argument("/dev/vdb"),
                Word::Argument("--write"),
                Word::Argument("a=b"),
                Word::Cache(8 << 20),
            ][..]
        );
    }

    #[test]
    fn after_two_dashes_only_devices_are_the_kernels() {
        assert_eq!(
            all("-- init=x virtio_mmio.device=4K@0xd0000000:5 --"),
            [
                Word::Argument("init=x"),
                Word::Device(Window {
                    address: 0xd000_0000,
                    bytes: 4096,
                    line: 5
                }),
                Word::Argument("--"),
            ][..]
        );
    }

    #[test]
    fn the_window_for_events_is_found() {
        let window = Window {
            address: 0xe000_0000,
            bytes: 0x20_1000,
            line: 0,
        };
        let line = "-- iolite.trace=2101248@0xe0000000";
        assert_eq!(all(line), [Word::Trace(window)][..]);
    }

    #[test]
    fn the_frequency_of_the_clock_is_found() {
        assert_eq!(
            tsc_hz("init=x tsc_early_khz=2593906 a"),
            Some(2_593_906_000)
        );
        assert_eq!(tsc_hz("init=x tsc_early_khz= tsc_early_khz=1 a"), None);
        assert_eq!(tsc_hz("init=x -- tsc_early_khz=2593906"), None);
    }

    #[test]
    fn values_that_make_no_sense_are_named() {
        for word in [
            "tsc_early_khz=0",
            "tsc_early_khz=2600MHz",
            "tsc_early_khz=18446744073709551",
            "cache=lots",
            "cache=0",
            "init=",
            "iolite.trace=4K",
            "virtio_mmio.device=4K@",
            "virtio_mmio.device=4K@0x1:999",
        ] {
            assert_eq!(all(word), [Word::Bad(word)][..]);
        }
    }

    #[test]
    fn sizes_have_units_and_do_not_overflow() {
        assert_eq!(size("512"), Some(512));
        assert_eq!(size("4K"), Some(4096));
        assert_eq!(size("0x10"), Some(16));
        assert_eq!(size("99999999999G"), None);
        assert_eq!(size(""), None);
        assert_eq!(size("K"), None);
    }
}
