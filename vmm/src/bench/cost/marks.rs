//! The guest's lines, and KVM's counters at the moment when each arrives.
//!
//! ```text
//! cost: begin NAME
//! cost: end NAME
//! cost: result NAME operations=N ns=N asleep_ns=N
//! ```

use std::io::{self, Write};
use std::sync::{Arc, Mutex, PoisonError};

use super::Cost;
use crate::kvm_stats::{Reading, VcpuStats};

/// The longest line that is read as one; longer ones are cut there.
const MAX_LINE_BYTES: usize = 256;
/// More sections than there are kinds are the guest's mistake.
const MAX_SECTIONS: usize = 32;
/// The section that does nothing.
const NOTHING: &str = "nothing";
/// A platform that emulates ring 0 counts at least this many instructions for a system call.
const FEWEST_IF_EMULATED: f64 = 8.0;

/// The guest's console, as lines. It is written to by the thread of the vCPU, which meanwhile is
/// outside the guest: the counters stand still.
pub struct MarkedConsole {
    marks: Arc<Mutex<Marks>>,
    line: Vec<u8>,
}

impl MarkedConsole {
    /// A console whose lines go to `marks`.
    pub fn new(marks: Arc<Mutex<Marks>>) -> Self {
        let line = Vec::new();
        MarkedConsole { marks, line }
    }
}

impl Write for MarkedConsole {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        for &byte in bytes {
            if byte != b'\n' {
                self.line.push(byte);
            }
            if byte == b'\n' || self.line.len() == MAX_LINE_BYTES {
                let line = String::from_utf8_lossy(&self.line);
                let mut marks = self.marks.lock().unwrap_or_else(PoisonError::into_inner);
                marks.take(&line)?;
                self.line.clear();
            }
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What has arrived.
#[derive(Default)]
pub struct Marks {
    stats: Option<VcpuStats>,
    begun: Option<(String, Reading)>,
    ended: Option<(String, Reading)>,
    sections: Vec<Section>,
    last_line: String,
}

/// What was measured between two lines.
struct Section {
    name: String,
    operations: u64,
    ns: u64,
    asleep_ns: u64,
    counted: Reading,
}

impl Marks {
    /// Where the counters are read from now on.
    pub fn count_with(&mut self, stats: VcpuStats) {
        self.stats = Some(stats);
    }

    /// What the guest said last that is no mark.
    pub fn last_line(&self) -> String {
        // Escape sequences of a guest have no business on our terminal.
        self.last_line.chars().filter(|c| !c.is_control()).collect()
    }

    fn take(&mut self, line: &str) -> io::Result<()> {
        let Some((kind, rest)) = line.strip_prefix("cost: ").and_then(|l| l.split_once(' ')) else {
            line.clone_into(&mut self.last_line);
            return Ok(());
        };
        match kind {
            "begin" => self.begun = Some((rest.into(), self.read()?)),
            "end" => {
                let now = self.read()?;
                let begun = self.begun.take().filter(|(name, _)| name == rest);
                self.ended = begun.map(|(name, before)| (name, now.since(&before)));
            }
            "result" if self.sections.len() < MAX_SECTIONS => {
                let section = self.ended.take().and_then(|ended| section(rest, ended));
                self.sections.extend(section);
            }
            _ => {}
        }
        Ok(())
    }

    fn read(&self) -> io::Result<Reading> {
        self.stats
            .as_ref()
            .map_or_else(|| Ok(Reading::default()), VcpuStats::read)
    }

    /// The costs for each operation, less what the lines cost; why not, if the guest did not say
    /// enough.
    pub fn costs(&self) -> Result<Vec<Cost>, String> {
        let nothing = self.sections.iter().find(|section| section.name == NOTHING);
        let nothing = nothing.ok_or("the guest measured nothing")?;
        let kinds = self
            .sections
            .iter()
            .filter(|section| section.name != NOTHING);
        let costs: Vec<Cost> = kinds
            .map(|section| section.cost(&nothing.counted))
            .collect();
        match costs.is_empty() {
            true => Err("the guest measured nothing".into()),
            false => Ok(costs),
        }
    }
}

impl Section {
    fn cost(&self, nothing: &Reading) -> Cost {
        let operations = self.operations.max(1) as f64;
        let each = |counter| {
            let counted = self.counted.get(counter)?;
            let lines = nothing.get(counter).unwrap_or(0);
            Some(counted.saturating_sub(lines) as f64 / operations)
        };
        Cost {
            name: self.name.clone(),
            operations: self.operations,
            us: self.ns as f64 / 1000.0 / operations,
            asleep_us: self.asleep_ns as f64 / 1000.0 / operations,
            instructions: each("insn_emulation").filter(|count| *count >= FEWEST_IF_EMULATED),
            mmio_exits: each("mmio_exits"),
            halts: each("halt_exits"),
            interrupts: each("irq_injections"),
        }
    }
}

/// The section that the rest of a result line is about.
fn section(line: &str, (name, counted): (String, Reading)) -> Option<Section> {
    let mut fields = line.strip_prefix(&name)?.split_ascii_whitespace();
    let mut number = |key: &str| {
        let value = fields.next()?.strip_prefix(key)?.strip_prefix('=')?;
        value.parse().ok()
    };
    Some(Section {
        operations: number("operations")?,
        ns: number("ns")?,
        asleep_ns: number("asleep_ns")?,
        name,
        counted,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn console() -> (MarkedConsole, Arc<Mutex<Marks>>) {
        let marks = Arc::default();
        (MarkedConsole::new(Arc::clone(&marks)), marks)
    }

    #[test]
    fn a_section_is_divided_by_its_operations() {
        let (mut console, marks) = console();
        let text = "hello\ncost: begin nothing\ncost: end nothing\n\
            cost: result nothing operations=1 ns=5 asleep_ns=0\n\
            cost: begin page-in\ncost: end page-in\n\
            cost: result page-in operations=4 ns=8000 asleep_ns=2000\nbye\n";
        // However the bytes are cut.
        for piece in text.as_bytes().chunks(7) {
            console.write_all(piece).unwrap();
        }
        let marks = marks.lock().unwrap();
        let costs = marks.costs().unwrap();
        assert_eq!(costs.len(), 1);
        assert_eq!(
            (costs[0].name.as_str(), costs[0].operations),
            ("page-in", 4)
        );
        assert_eq!((costs[0].us, costs[0].asleep_us), (2.0, 0.5));
        assert_eq!(costs[0].instructions, None, "nobody counted");
        assert_eq!(marks.last_line(), "bye");
    }

    #[test]
    fn what_does_not_match_is_not_measured() {
        for text in [
            "",
            "cost: begin a\n",
            "cost: end a\ncost: result a operations=1 ns=1 asleep_ns=1\n",
            "cost: begin a\ncost: end b\ncost: result b operations=1 ns=1 asleep_ns=1\n",
            "cost: begin a\ncost: end a\ncost: result a operations=-1 ns=1 asleep_ns=1\n",
            "cost: begin a\ncost: end a\ncost: result a ns=1 operations=1 asleep_ns=1\n",
        ] {
            let (mut console, marks) = console();
            console.write_all(text.as_bytes()).unwrap();
            assert!(marks.lock().unwrap().sections.is_empty(), "{text}");
            assert!(marks.lock().unwrap().costs().is_err());
        }
    }

    #[test]
    fn a_line_without_end_does_not_grow() {
        let (mut console, marks) = console();
        console.write_all(&[b'x'; 10 * MAX_LINE_BYTES]).unwrap();
        assert_eq!(marks.lock().unwrap().last_line().len(), MAX_LINE_BYTES);
        assert!(console.line.len() < MAX_LINE_BYTES);
    }
}
