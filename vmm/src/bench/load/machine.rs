//! A virtual machine that runs our guest's program `bench`: a process, iolite's own (`ours`) or another
//! VMM's (`qemu`), with the guest's console as its stdin and stdout.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

use iolite_guest_core::bench::{Cell, Measured, Ready};

use super::subject::{Load, Sample};
use crate::error::Error;
use crate::process_cpu::ProcessCpu;

/// The program that the guest runs, on its command line: the disk is its second one.
pub const INIT: &str = "init=bench /dev/vdb";
/// Ctrl-D, which the guest's console takes for the end of the input.
const END_OF_INPUT: u8 = 0x04;
/// How long a machine may take to boot, and how much longer than its time a cell may take.
const PATIENCE: Duration = Duration::from_secs(60);
/// Lines of the guest and of the VMM that are kept for a message.
const LAST_LINES: usize = 8;

/// A machine whose guest waits for cells.
pub struct Machine {
    name: String,
    child: Child,
    cells: Option<ChildStdin>,
    lines: Receiver<String>,
    /// What came that was no answer.
    last_lines: VecDeque<String>,
    /// What the guest has found; none before that.
    ready: Option<Ready>,
    cpu: ProcessCpu,
}

impl Machine {
    /// Starts `command`, whose vCPU's thread has this name, and waits until the guest is ready.
    ///
    /// # Errors
    /// [`Error::Bench`] if it does not get ready.
    pub fn start(name: &str, mut command: Command, vcpu: &str) -> Result<Machine, Error> {
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let what = format!("cannot start {:?}", command.get_program());
        let mut child = command.spawn().map_err(Error::host(what))?;
        let (sender, lines) = mpsc::channel();
        let streams: [Option<Box<dyn Read + Send>>; 2] = [
            child.stdout.take().map(|stream| Box::new(stream) as _),
            child.stderr.take().map(|stream| Box::new(stream) as _),
        ];
        for stream in streams.into_iter().flatten() {
            let sender = sender.clone();
            // It ends with the stream.
            thread::spawn(move || {
                for line in BufReader::new(stream).lines().map_while(Result::ok) {
                    if sender.send(line).is_err() {
                        return;
                    }
                }
            });
        }
        let mut machine = Machine {
            ready: None,
            name: name.to_owned(),
            cpu: ProcessCpu::of(child.id(), vcpu).map_err(Error::host("cannot read a clock"))?,
            cells: child.stdin.take(),
            child,
            lines,
            last_lines: VecDeque::new(),
        };
        machine.ready = Some(machine.answer(PATIENCE, Ready::parse)?);
        Ok(machine)
    }

    /// The next line that `understand` makes something of.
    fn answer<T>(
        &mut self,
        patience: Duration,
        understand: impl Fn(&str) -> Option<T>,
    ) -> Result<T, Error> {
        let end = Instant::now() + patience;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let Ok(line) = self.lines.recv_timeout(left) else {
                return Err(self.failed(&format!("its guest has said nothing for {patience:?}")));
            };
            // Escape sequences of a guest have no business on our terminal.
            let line: String = line.chars().filter(|c| !c.is_control()).collect();
            if let Some(answer) = understand(&line) {
                return Ok(answer);
            }
            if let Some(error) = line.strip_prefix("bench: failed error=") {
                return Err(self.failed(error));
            }
            self.last_lines.push_back(line);
            if self.last_lines.len() > LAST_LINES {
                self.last_lines.pop_front();
            }
        }
    }

    fn failed(&self, why: &str) -> Error {
        let mut text = format!("{}: {why}", self.name);
        if !self.last_lines.is_empty() {
            text.push_str("; its last lines:");
        }
        for line in &self.last_lines {
            text.push_str("\n  ");
            text.push_str(line);
        }
        Error::Bench(text)
    }
}

impl Load for Machine {
    fn measure(&mut self, cell: &Cell) -> Result<Sample, Error> {
        if let Some(ready) = self.ready.filter(|ready| !ready.has_room_for(cell)) {
            let Ready {
                queues,
                queue_depth,
                ..
            } = ready;
            let depth = cell.depth;
            let why = format!("depth {depth} needs more than {queues} queues of {queue_depth}");
            return Err(self.failed(&why));
        }
        let before = self.cpu.without_vcpu();
        let sent = match &mut self.cells {
            Some(cells) => writeln!(cells, "{cell}").is_ok(),
            None => false,
        };
        if !sent {
            return Err(self.failed("it has gone"));
        }
        let patience = PATIENCE + Duration::from_millis(cell.ms);
        let measured = self.answer(patience, Measured::parse)?;
        let after = self.cpu.without_vcpu();
        if measured.requests == 0 || measured.verified == 0 {
            return Err(self.failed(&format!("nothing was measured of {cell}")));
        }
        Ok(Sample {
            measured,
            cpu_ns: after.saturating_sub(before),
        })
    }

    fn finish(mut self: Box<Self>) -> Result<(), Error> {
        // Not every VMM tells its guest that the input has ended. If this fails it has gone already.
        if let Some(mut cells) = self.cells.take() {
            let _ = cells.write_all(&[END_OF_INPUT]);
        }
        let end = Instant::now() + PATIENCE;
        while Instant::now() < end {
            if let Ok(Some(_)) = self.child.try_wait() {
                return Ok(());
            }
            thread::sleep(Duration::from_millis(2));
        }
        Err(self.failed("it does not end"))
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // Both fail for a process that has ended and been waited for: then nothing is left to do.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
