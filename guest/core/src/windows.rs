//! Which windows of the command line can be a device's registers. Whoever wrote the line may have
//! been wrong: a window named twice would be two drivers of one device.

use crate::cmdline::Window;
use core::fmt;
use core::ops::Range;

/// Why a window is left alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// There is no such line, or something else interrupts by it.
    Line(u8),
    /// It begins between two registers, or ends where no address leads.
    Place,
    /// RAM, interrupt controllers, or a window before it are there.
    Taken,
}

/// Checks a window: its line is one of those below `lines` and not `reserved_line`, and its addresses
/// lie below `end` and in none of the ranges `taken`. Gives its addresses.
///
/// # Errors
///
/// [`Refused`].
pub fn check<'a>(
    window: &Window,
    (lines, reserved_line): (u8, u8),
    end: u64,
    taken: impl IntoIterator<Item = &'a Range<u64>>,
) -> Result<Range<u64>, Refused> {
    if window.line >= lines || window.line == reserved_line {
        return Err(Refused::Line(window.line));
    }
    let past = window.address.checked_add(window.bytes);
    let past = past.filter(|past| *past <= end && window.bytes > 0);
    let past = past.filter(|_| window.address.is_multiple_of(size_of::<u32>() as u64));
    let range = window.address..past.ok_or(Refused::Place)?;
    let meets = |other: &Range<u64>| other.start < range.end && range.start < other.end;
    match taken.into_iter().any(meets) {
        true => Err(Refused::Taken),
        false => Ok(range),
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refused::Line(line) => write!(f, "interrupt line {line} is no device's"),
            Refused::Place => f.write_str("no registers can be there"),
            Refused::Taken => f.write_str("something else is there"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Refused, check};
    use crate::cmdline::Window;

    const END: u64 = 1 << 40;

    fn window(address: u64, bytes: u64, line: u8) -> Window {
        Window {
            address,
            bytes,
            line,
        }
    }

    #[test]
    fn neighbours_are_welcome_and_intruders_are_not() {
        let taken = [0..0x1000_0000, 0xd000_0000..0xd000_1000];
        for (address, bytes, allowed) in [
            (0xd000_1000, 0x1000, true),
            (0xcfff_f000, 0x1000, true),
            (0x1000_0000, 1, true),
            (0xd000_0000, 0x1000, false),
            (0xd000_0ffc, 0x200, false),
            (0xcfff_fffc, 0x200, false),
            (0xc000_0000, 0x2000_0000, false),
            (0x0fff_fffc, 4, false),
        ] {
            let result = check(&window(address, bytes, 5), (24, 4), END, &taken);
            let expected = match allowed {
                true => Ok(address..address + bytes),
                false => Err(Refused::Taken),
            };
            assert_eq!(result, expected, "{address:#x} {bytes:#x}");
        }
    }

    #[test]
    fn places_without_registers() {
        for (address, bytes) in [
            (0xd000_0000, 0),
            (0xd000_0001, 0x1000),
            (u64::MAX - 3, 0x1000),
            (END - 0x200, 0x201),
        ] {
            let result = check(&window(address, bytes, 5), (24, 4), END, &[]);
            assert_eq!(result, Err(Refused::Place), "{address:#x} {bytes:#x}");
        }
        assert!(check(&window(END - 0x200, 0x200, 5), (24, 4), END, &[]).is_ok());
    }

    #[test]
    fn lines_of_others() {
        for line in [4, 24, 255] {
            let result = check(&window(0xd000_0000, 512, line), (24, 4), END, &[]);
            assert_eq!(result, Err(Refused::Line(line)));
        }
        for line in [0, 3, 5, 23] {
            assert!(check(&window(0xd000_0000, 512, line), (24, 4), END, &[]).is_ok());
        }
    }
}
