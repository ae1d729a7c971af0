//! Reading along with the guest's console while it runs.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError};
use std::thread;
use std::time::{Duration, Instant};

use super::progress::Progress;
use super::protocol::{self, Line, PathResult};
use crate::power::Power;
use crate::screen::{Screen, size};

/// The longest line that is read as one; longer ones are cut there.
const MAX_LINE_BYTES: usize = 1024;
/// How many of the guest's last lines are kept, for when it fails.
const LAST_LINES: usize = 12;
/// How long to wait for room for a line.
const RETRY: Duration = Duration::from_millis(1);
/// More results than there are paths are the guest's mistake.
const MAX_PATHS: usize = 16;

/// The guest's console as lines, sent to whoever watches.
pub struct ConsoleLines {
    sender: SyncSender<(Instant, String)>,
    power: Arc<Power>,
    line: Vec<u8>,
}

impl ConsoleLines {
    /// A console whose lines go to `sender`. It blocks the vCPU while nobody takes them; a stop ends
    /// that.
    pub fn new(sender: SyncSender<(Instant, String)>, power: Arc<Power>) -> Self {
        ConsoleLines {
            sender,
            power,
            line: Vec::new(),
        }
    }

    fn send(&mut self) {
        let text = String::from_utf8_lossy(&self.line);
        // Escape sequences of a guest have no business on our terminal.
        let text = text.chars().filter(|c| !c.is_control()).collect();
        self.line.clear();
        let mut line = (Instant::now(), text);
        while let Err(TrySendError::Full(back)) = self.sender.try_send(line)
            && !self.power.is_off()
        {
            line = back;
            thread::sleep(RETRY);
        }
    }
}

impl Write for ConsoleLines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        for &byte in bytes {
            if byte != b'\n' {
                self.line.push(byte);
            }
            if byte == b'\n' || self.line.len() == MAX_LINE_BYTES {
                self.send();
            }
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for ConsoleLines {
    fn drop(&mut self) {
        if !self.line.is_empty() {
            self.send();
        }
    }
}

/// What the guest said.
#[derive(Debug, Default)]
pub struct Watched {
    /// The results, in the guest's order.
    pub paths: Vec<PathResult>,
    /// The path that failed, and why.
    pub failed: Option<(String, String)>,
    /// Its last lines that are not reports.
    pub last_lines: VecDeque<String>,
}

/// Reads the guest's lines until its machine is gone, and shows what happens.
pub fn watch(lines: Receiver<(Instant, String)>, screen: &Screen, started: Instant) -> Watched {
    let mut watched = Watched::default();
    let mut progress: Option<(String, Progress<'_>)> = None;
    for (index, (time, line)) in lines.iter().enumerate() {
        if index == 0 {
            let boot = time.saturating_duration_since(started).as_secs_f64() * 1000.0;
            screen.step(
                "boot",
                &format!("the guest's first line came {boot:.0} ms after the start"),
            );
        }
        match protocol::parse(&line) {
            Some(Line::Progress { path, bytes, of }) => {
                let current = progress.take().filter(|(name, _)| *name == path);
                let (_, bar) = progress.insert(
                    current.unwrap_or_else(|| (path.clone(), Progress::new(screen, &path))),
                );
                bar.update(bytes, of);
            }
            Some(Line::Path(path)) => {
                progress = None;
                screen.step("path", &in_short(&path));
                if watched.paths.len() < MAX_PATHS {
                    watched.paths.push(path);
                }
            }
            Some(Line::Failed { path, error }) => {
                progress = None;
                watched.failed.get_or_insert((path, error));
            }
            None => {
                log::debug!(target: "guest", "{line}");
                watched.last_lines.push_back(line);
                if watched.last_lines.len() > LAST_LINES {
                    watched.last_lines.pop_front();
                }
            }
        }
    }
    watched
}

fn in_short(path: &PathResult) -> String {
    let seconds = Duration::from_nanos(path.ns).as_secs_f64();
    let size = size(path.bytes);
    format!(
        "{}: {size} by {} operations in {seconds:.3} s",
        path.name, path.operations
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    #[test]
    fn lines_are_cut_and_cleaned() {
        let (sender, lines) = mpsc::sync_channel(8);
        let mut console = ConsoleLines::new(sender, Arc::new(Power::new().unwrap()));
        console.write_all(b"one\r\nt").unwrap();
        console.write_all(b"wo\x1b[2J\n\xff").unwrap();
        console.write_all(&[b'x'; MAX_LINE_BYTES]).unwrap();
        drop(console);
        let lines: Vec<_> = lines.iter().map(|(_, line)| line).collect();
        assert_eq!(lines[..2], ["one", "two[2J"]);
        assert_eq!(lines[2].len(), MAX_LINE_BYTES - 1 + "\u{fffd}".len());
        assert_eq!(lines[3], "x");
    }

    #[test]
    fn a_stop_ends_the_wait_for_who_reads() {
        let (sender, _unread) = mpsc::sync_channel(1);
        let power = Arc::new(Power::new().unwrap());
        let mut console = ConsoleLines::new(sender, power.clone());
        console.write_all(b"one\n").unwrap();
        let blocked = thread::spawn(move || console.write_all(b"two\n").unwrap());
        thread::sleep(20 * RETRY);
        assert!(!blocked.is_finished());
        power.stop(crate::power::Stop::Timeout);
        blocked.join().unwrap();
    }

    #[test]
    fn reports_and_other_lines_are_told_apart() {
        let (sender, lines) = mpsc::sync_channel(64);
        for i in 0..20 {
            sender.send((Instant::now(), format!("line {i}"))).unwrap();
        }
        sender
            .send((
                Instant::now(),
                "demo: failed path=pager error=broken".into(),
            ))
            .unwrap();
        sender
            .send((Instant::now(), "demo: failed path=pager error=again".into()))
            .unwrap();
        drop(sender);
        let watched = watch(lines, &Screen::silent(), Instant::now());
        assert_eq!(watched.failed, Some(("pager".into(), "broken".into())));
        assert_eq!(watched.last_lines.len(), LAST_LINES);
        assert_eq!(watched.last_lines.back().unwrap(), "line 19");
    }
}
