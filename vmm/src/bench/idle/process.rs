//! What /proc says of a process: its memory, and how often its threads wake up.

use std::fs;
use std::io;

/// The vCPU's thread: when it sleeps and wakes is the guest's doing.
const VCPU: &str = "vcpu";

/// Resident bytes of process `pid`, shared ones included, but for the mapping of `guest_bytes` bytes:
/// the guest's memory.
pub fn memory_besides(pid: u32, guest_bytes: u64) -> io::Result<u64> {
    let maps = fs::read_to_string(format!("/proc/{pid}/smaps"))?;
    let guest_kib = guest_bytes >> 10;
    let (mut sum, mut size) = (0, 0);
    for line in maps.lines() {
        if let Some(kib) = kib(line, "Size:") {
            size = kib;
        } else if let Some(kib) = kib(line, "Rss:")
            && size != guest_kib
        {
            sum += kib;
        }
    }
    Ok(sum << 10)
}

fn kib(line: &str, key: &str) -> Option<u64> {
    line.strip_prefix(key)?
        .split_whitespace()
        .next()?
        .parse()
        .ok()
}

/// How often the threads of process `pid` but the vCPU's have gone to sleep so far, and so woken up.
pub fn wake_ups(pid: u32) -> io::Result<u64> {
    let mut sum = 0;
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        let task = task?.path();
        if fs::read_to_string(task.join("comm"))?.trim_end() == VCPU {
            continue;
        }
        let status = fs::read_to_string(task.join("status"))?;
        let switches = status
            .lines()
            .find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
        sum += switches
            .and_then(|count| count.trim().parse::<u64>().ok())
            .unwrap_or(0);
    }
    Ok(sum)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn this_process_has_memory_and_wakes_up() {
        let me = std::process::id();
        let all = memory_besides(me, 0).unwrap();
        assert!(all > 1 << 20, "{all}");
        let before = wake_ups(me).unwrap();
        for _ in 0..20 {
            std::thread::sleep(Duration::from_millis(1));
        }
        assert!(wake_ups(me).unwrap() - before >= 10);
    }
}
