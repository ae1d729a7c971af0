//! COM1: a 16550A UART (vm-superio's) on a port bus.
//!
//! Output: the bytes of one VM exit (one, or many of a `rep outsb`) are gathered and written with
//! one `write` and one flush, after the registers' lock is released: a terminal that does not take
//! output never stops the thread that brings input.
//!
//! Input: the UART's receive FIFO holds 64 bytes, a backlog on our side holds [`BACKLOG_BYTES`]
//! more. [`Serial::enqueue`] says how many bytes it took; nothing taken is lost. When it took less
//! than it was given, the caller keeps the rest and waits for [`Serial::room`]. When there is to be no
//! more input, the line's carrier is lost (DCD in the modem status register reads 0) as soon as the
//! guest has read all there is, as if a modem had hung up.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::mem;
use std::sync::{Arc, Mutex, PoisonError};

use log::Level;
use vm_superio::serial::NoEvents;
use vm_superio::{Serial as Uart, Trigger};
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use crate::bus::BusDevice;
use crate::interrupt::Interrupt;
use crate::lines::{Lines, Lock, debug_later};

/// How many bytes of input wait on our side when the UART's FIFO is full.
pub const BACKLOG_BYTES: usize = 4096;
/// Offset of the data register.
const DATA: u64 = 0;
/// Offset of the modem status register, and its bit for the carrier.
const MODEM_STATUS: u64 = 6;
const CARRIER: u8 = 0x80;
/// Offset of the line status register, and its bit for received data.
const LINE_STATUS: u64 = 5;
const DATA_READY: u8 = 0x01;

/// A serial port.
pub struct Serial {
    state: Lock<State>,
    output: Mutex<Box<dyn Write + Send>>,
    room: EventFd,
}

struct State {
    uart: Uart<Line, NoEvents, Vec<u8>>,
    backlog: VecDeque<u8>,
    /// An `enqueue` took less than it was given.
    caller_waits: bool,
    /// There is to be no more input.
    ended: bool,
}

/// vm-superio's name for an [`Interrupt`].
struct Line(Arc<dyn Interrupt>);

impl Trigger for Line {
    type E = io::Error;

    fn trigger(&self) -> io::Result<()> {
        self.0.trigger()
    }
}

impl Serial {
    /// A serial port that writes what the guest sends to `output`, and raises `interrupt`.
    ///
    /// # Errors
    /// If the system has no eventfd left.
    pub fn new(output: Box<dyn Write + Send>, interrupt: Arc<dyn Interrupt>) -> io::Result<Self> {
        Ok(Serial {
            state: Lock::new(State {
                uart: Uart::new(Line(interrupt), Vec::new()),
                backlog: VecDeque::new(),
                caller_waits: false,
                ended: false,
            }),
            output: Mutex::new(output),
            room: EventFd::new(EFD_CLOEXEC | EFD_NONBLOCK)?,
        })
    }

    /// Hands input to the guest and returns how many bytes were taken: all of them, or as many as
    /// FIFO and backlog have room for.
    pub fn enqueue(&self, input: &[u8]) -> usize {
        let mut state = self.state.lock();
        let (state, lines) = state.split();
        state.enqueue(input, lines)
    }

    /// The same for the last of the input: if all of it is taken, there is to be no more.
    pub fn enqueue_last(&self, input: &[u8]) -> usize {
        let mut state = self.state.lock();
        let (state, lines) = state.split();
        let taken = state.enqueue(input, lines);
        state.ended = taken == input.len();
        taken
    }

    /// Readable (an eventfd, non-blocking) when there is room again after an
    /// [`enqueue`](Serial::enqueue) that took less than it was given.
    pub fn room(&self) -> &EventFd {
        &self.room
    }

    fn print(&self, bytes: &[u8]) {
        let mut output = self.output.lock().unwrap_or_else(PoisonError::into_inner);
        let written = output.write_all(bytes).and_then(|()| output.flush());
        drop(output);
        if let Err(error) = written {
            // A closed pipe or terminal is the user's choice; the guest goes on without it.
            log::debug!("console output of {} bytes is lost: {error}", bytes.len());
        }
    }
}

impl State {
    fn enqueue(&mut self, input: &[u8], lines: &mut Lines) -> usize {
        let taken = input.len().min(BACKLOG_BYTES - self.backlog.len());
        self.backlog.extend(&input[..taken]);
        self.refill(lines);
        // What the FIFO took just now made room again.
        let more = (input.len() - taken).min(BACKLOG_BYTES - self.backlog.len());
        self.backlog.extend(&input[taken..taken + more]);
        self.caller_waits = taken + more < input.len();
        taken + more
    }

    fn read(&mut self, offset: u64) -> u8 {
        let value = self.uart.read(offset as u8);
        if offset == MODEM_STATUS && self.has_hung_up() {
            return value & !CARRIER;
        }
        value
    }

    /// Has the guest read all there will ever be?
    fn has_hung_up(&mut self) -> bool {
        let mut unread = || self.uart.read(LINE_STATUS as u8) & DATA_READY != 0;
        self.ended && self.backlog.is_empty() && !unread()
    }

    /// Moves input from the backlog to the FIFO.
    fn refill(&mut self, lines: &mut Lines) {
        while !self.backlog.is_empty() && self.uart.fifo_capacity() > 0 {
            let front = self.backlog.as_slices().0;
            let len = front.len().min(self.uart.fifo_capacity());
            let chunk = front[..len].to_vec();
            match self.uart.enqueue_raw_bytes(&chunk) {
                // In loopback mode the line's input is cut off: it waits.
                Ok(0) => return,
                Ok(taken) => drop(self.backlog.drain(..taken)),
                Err(error) => {
                    // The bytes are in the FIFO, only the interrupt failed.
                    let what = format_args!("the serial interrupt cannot be raised: {error}");
                    lines.add(Level::Warn, module_path!(), what);
                    self.backlog.drain(..len);
                    return;
                }
            }
        }
    }
}

impl BusDevice for Serial {
    fn read(&self, offset: u64, data: &mut [u8]) {
        let mut state = self.state.lock();
        let (state, lines) = state.split();
        for byte in data.iter_mut() {
            *byte = state.read(offset);
        }
        if offset == DATA {
            state.refill(lines);
            if state.caller_waits && state.backlog.len() < BACKLOG_BYTES {
                state.caller_waits = false;
                // It only fails when the counter is full: then it is readable already.
                let _ = self.room.write(1);
            }
        }
    }

    fn write(&self, offset: u64, data: &[u8]) {
        let mut guard = self.state.lock();
        let (state, lines) = guard.split();
        for &byte in data {
            if let Err(error) = state.uart.write(offset as u8, byte) {
                debug_later!(lines, "serial register {offset}: {error}");
            }
        }
        state.refill(lines);
        let printed = mem::take(state.uart.writer_mut());
        drop(guard);
        if !printed.is_empty() {
            self.print(&printed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU32, Ordering};

    const IER: u64 = 1;

    #[derive(Default)]
    struct Edges(AtomicU32);

    impl Interrupt for Edges {
        fn trigger(&self) -> io::Result<()> {
            self.0.fetch_add(1, Ordering::Relaxed);
            Ok(())
        }
    }

    /// What was written, and how many times it was flushed.
    #[derive(Clone, Default)]
    struct Terminal(Arc<Mutex<(Vec<u8>, usize)>>);

    impl Write for Terminal {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().0.extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            self.0.lock().unwrap().1 += 1;
            Ok(())
        }
    }

    fn serial() -> (Serial, Terminal, Arc<Edges>) {
        let (terminal, edges) = (Terminal::default(), Arc::new(Edges::default()));
        let serial = Serial::new(Box::new(terminal.clone()), edges.clone()).unwrap();
        (serial, terminal, edges)
    }

    fn read(serial: &Serial, register: u64) -> u8 {
        let mut byte = [0];
        serial.read(register, &mut byte);
        byte[0]
    }

    #[test]
    fn the_bytes_of_one_exit_are_flushed_once() {
        let (serial, terminal, _) = serial();
        serial.write(DATA, b"hello, ");
        serial.write(DATA, b"world");
        assert_eq!(*terminal.0.lock().unwrap(), (b"hello, world".to_vec(), 2));
    }

    #[test]
    fn a_closed_output_does_not_stop_the_guest() {
        struct Closed;
        impl Write for Closed {
            fn write(&mut self, _bytes: &[u8]) -> io::Result<usize> {
                Err(io::ErrorKind::BrokenPipe.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let serial = Serial::new(Box::new(Closed), Arc::new(Edges::default())).unwrap();
        serial.write(DATA, b"lost");
        assert_eq!(
            read(&serial, LINE_STATUS) & 0x60,
            0x60,
            "the transmitter is not ready"
        );
    }

    #[test]
    fn input_beyond_the_fifo_arrives_in_order() {
        let (serial, _, edges) = serial();
        serial.write(IER, &[1]);
        let input: Vec<u8> = (0..1000).map(|at| at as u8).collect();
        assert_eq!(serial.enqueue(&input), 1000);
        let mut arrived = Vec::new();
        while read(&serial, LINE_STATUS) & 1 != 0 {
            arrived.push(read(&serial, DATA));
        }
        assert_eq!(arrived, input);
        assert!(edges.0.load(Ordering::Relaxed) > 0);
    }

    #[test]
    fn the_caller_learns_what_was_taken_and_when_there_is_room() {
        let (serial, ..) = serial();
        let input: Vec<u8> = (0..10_000).map(|at| (at % 251) as u8).collect();
        let mut taken = serial.enqueue(&input);
        assert_eq!(taken, BACKLOG_BYTES + 64);
        assert_eq!(serial.enqueue(&input[taken..]), 0);
        assert!(serial.room().read().is_err(), "there is no room yet");
        let mut arrived = Vec::new();
        while arrived.len() < input.len() {
            arrived.push(read(&serial, DATA));
            if serial.room().read().is_ok() {
                taken += serial.enqueue(&input[taken..]);
            }
        }
        assert_eq!(arrived, input);
    }

    #[test]
    fn the_carrier_is_lost_when_the_last_of_the_input_was_read() {
        let (serial, ..) = serial();
        let carrier = || read(&serial, MODEM_STATUS) & CARRIER != 0;
        // More than FIFO and backlog hold.
        let input = vec![b'x'; 2 * BACKLOG_BYTES];
        let taken = serial.enqueue_last(&input);
        assert!(taken < input.len() && carrier());
        for _ in 0..taken {
            read(&serial, DATA);
        }
        assert!(carrier(), "there is more to come");
        let rest = input.len() - taken;
        assert_eq!(serial.enqueue_last(&input[taken..]), rest);
        for _ in 0..rest {
            assert!(carrier());
            read(&serial, DATA);
        }
        assert!(!carrier());
    }

    #[test]
    fn an_interrupt_comes_for_each_refill() {
        // A driver that reads only in its interrupt handler, 64 bytes at a time, gets everything.
        let (serial, _, edges) = serial();
        serial.write(IER, &[1]);
        serial.enqueue(&[7; 300]);
        let (mut seen, mut arrived) = (0, 0);
        while edges.0.load(Ordering::Relaxed) > seen {
            seen = edges.0.load(Ordering::Relaxed);
            while read(&serial, LINE_STATUS) & 1 != 0 {
                read(&serial, DATA);
                arrived += 1;
            }
        }
        assert_eq!(arrived, 300);
    }
}
