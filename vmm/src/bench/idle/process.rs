//! What /proc says of a process: its memory, and how often its threads wake up.

use std::fs;
use std::io;
use std::path::Path;

/// The vCPU's thread: when it sleeps and wakes is the guest's doing.
const VCPU: &str = "vcpu";

/// Resident memory of a process in bytes, pages that it shares with others included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    /// Of the program's file.
    pub program: u64,
    /// Of other files: shared libraries.
    pub libraries: u64,
    /// Of no file: stacks, heap, buffers.
    pub own: u64,
}

impl Memory {
    /// All of it.
    pub fn total(&self) -> u64 {
        self.program + self.libraries + self.own
    }
}

/// What process `pid` has resident, but for the mapping of `guest_bytes` bytes: the guest's memory.
pub fn memory_besides(pid: u32, guest_bytes: u64) -> io::Result<Memory> {
    let program = fs::read_link(format!("/proc/{pid}/exe"))?;
    let maps = fs::read_to_string(format!("/proc/{pid}/smaps"))?;
    Ok(sum(&maps, &program.to_string_lossy(), guest_bytes))
}

/// Sums up smaps (see proc(5)): a line with the addresses and the name of each mapping, then lines
/// of its figures.
fn sum(maps: &str, program: &str, guest_bytes: u64) -> Memory {
    let mut memory = Memory::default();
    let (mut name, mut size) = ("", 0);
    for line in maps.lines() {
        if let Some(kib) = kib(line, "Size:") {
            size = kib << 10;
        } else if let Some(kib) = kib(line, "Rss:") {
            let bytes = kib << 10;
            match name {
                _ if size == guest_bytes => {}
                name if name == program => memory.program += bytes,
                name if name.starts_with('/') => memory.libraries += bytes,
                _ => memory.own += bytes,
            }
        } else if line.starts_with(|c: char| c.is_ascii_hexdigit() && !c.is_ascii_uppercase()) {
            // Addresses, permissions, offset, device, inode, and then the name.
            name = line.splitn(6, ' ').nth(5).unwrap_or_default().trim();
        }
    }
    memory
}

fn kib(line: &str, key: &str) -> Option<u64> {
    line.strip_prefix(key)?
        .split_whitespace()
        .next()?
        .parse()
        .ok()
}

/// How often the threads of process `pid` but the vCPU's have gone to sleep so far, and so woken up.
/// One that ends meanwhile does not count.
pub fn wake_ups(pid: u32) -> io::Result<u64> {
    let mut sum = 0;
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        sum += wake_ups_of(&task?.path()).unwrap_or(0);
    }
    Ok(sum)
}

/// The same for one thread: none for the vCPU's, and for one that has ended.
fn wake_ups_of(task: &Path) -> Option<u64> {
    let name = fs::read_to_string(task.join("comm")).ok()?;
    if name.trim_end() == VCPU {
        return None;
    }
    let status = fs::read_to_string(task.join("status")).ok()?;
    let switches = status
        .lines()
        .find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
    switches?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn mappings_are_told_apart() {
        let maps = "\
5500-5600 r-xp 00001000 fe:00 123    /bin/a program
Size:                100 kB
Rss:                  12 kB
7f00-7f10 rw-p 00000000 00:00 0 
Size:               2048 kB
Rss:                2000 kB
7f10-7f20 rw-p 00000000 00:00 0
Size:                  8 kB
Rss:                   4 kB
VmFlags: rd wr
7f20-7f30 r--p 00000000 fe:00 124    /lib/libc.so.6
Size:               1024 kB
Rss:                 100 kB
7ffc-7ffd rw-p 00000000 00:00 0      [stack]
Size:                132 kB
Rss:                  20 kB
";
        let memory = sum(maps, "/bin/a program", 2048 << 10);
        let [program, libraries, own] = [12, 100, 24].map(|kib| kib << 10);
        let wanted = Memory {
            program,
            libraries,
            own,
        };
        assert_eq!(memory, wanted);
        assert_eq!(memory.total(), 136 << 10);
    }

    #[test]
    fn this_process_has_memory_and_wakes_up() {
        let me = std::process::id();
        let memory = memory_besides(me, 0).unwrap();
        assert!(memory.program > 1 << 16, "{memory:?}");
        assert!(memory.libraries > 1 << 16, "{memory:?}");
        assert!(memory.own > 1 << 16, "{memory:?}");
        // Of this thread, because those of other tests come and go.
        let own = || wake_ups_of(Path::new("/proc/thread-self")).unwrap();
        let before = own();
        for _ in 0..20 {
            std::thread::sleep(Duration::from_millis(1));
        }
        assert!(own() - before >= 20);
        assert!(wake_ups(me).unwrap() > 0);
    }
}
