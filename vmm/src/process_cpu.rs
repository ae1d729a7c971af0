//! How much processor time another process has used: all of it, and without its vCPU.

use std::fs;
use std::io;
use std::path::PathBuf;

use nix::time::{ClockId, clock_getcpuclockid};
use nix::unistd::Pid;

/// The clocks of a VMM's process.
pub struct ProcessCpu {
    process: ClockId,
    tasks: PathBuf,
    vcpu: String,
}

impl ProcessCpu {
    /// The clocks of process `pid`, whose vCPU's thread has this name.
    ///
    /// # Errors
    /// If there is no such process.
    pub fn of(pid: u32, vcpu: &str) -> io::Result<ProcessCpu> {
        Ok(ProcessCpu {
            process: clock_getcpuclockid(Pid::from_raw(pid.cast_signed()))?,
            tasks: format!("/proc/{pid}/task").into(),
            vcpu: vcpu.to_owned(),
        })
    }

    /// Nanoseconds used by all threads, ended ones included, but the vCPU's; 0 if it has gone.
    pub fn without_vcpu(&self) -> u64 {
        let all = self.process.now().map_or(0, |time| {
            time.tv_sec() as u64 * 1_000_000_000 + time.tv_nsec() as u64
        });
        all.saturating_sub(self.vcpu().unwrap_or(0))
    }

    /// The first number of `schedstat`: nanoseconds on a processor.
    fn vcpu(&self) -> Option<u64> {
        for task in fs::read_dir(&self.tasks).ok()?.flatten() {
            // Another thread may have ended since the directory was read.
            let name = fs::read_to_string(task.path().join("comm")).unwrap_or_default();
            if name.trim_end() == self.vcpu {
                let times = fs::read_to_string(task.path().join("schedstat")).ok()?;
                return times.split(' ').next()?.parse().ok();
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread;
    use std::time::Duration;

    /// Uses this much processor time, however long that takes on a busy host.
    fn spin(time: Duration) {
        let used = || Duration::from(ClockId::CLOCK_THREAD_CPUTIME_ID.now().unwrap());
        let end = used() + time;
        while used() < end {}
    }

    #[test]
    fn the_vcpus_time_is_left_out() {
        let (sender, stop) = std::sync::mpsc::channel::<()>();
        let (spun, ready) = std::sync::mpsc::channel();
        let vcpu = thread::Builder::new().name("vcpu-x".into());
        let vcpu = vcpu
            .spawn(move || {
                spin(Duration::from_millis(50));
                spun.send(()).unwrap();
                let _ = stop.recv();
            })
            .unwrap();
        ready.recv().unwrap();
        let me = ProcessCpu::of(std::process::id(), "vcpu-x").unwrap();
        assert!(me.vcpu().unwrap() >= 40_000_000);
        let before = me.without_vcpu();
        spin(Duration::from_millis(50));
        let used = me.without_vcpu() - before;
        assert!(used >= 40_000_000, "{used}");
        drop(sender);
        vcpu.join().unwrap();
    }
}
