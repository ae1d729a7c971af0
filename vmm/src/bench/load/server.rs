//! `iolite serve` with the disk that is measured, for a machine of another VMM.

use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::ours::{self, Disk};
use crate::error::Error;
use crate::process_cpu::ProcessCpu;

/// How long it may take to start.
const PATIENCE: Duration = Duration::from_secs(10);

/// A process that serves; it ends with this.
pub struct Server {
    child: Child,
    cpu: ProcessCpu,
    directory: TempDir,
}

impl Server {
    /// Starts one for `disk`, and waits until it serves.
    ///
    /// # Errors
    /// [`Error::Bench`] if it does not, [`Error::Host`].
    pub fn start(disk: &Disk) -> Result<Server, Error> {
        let directory = tempfile::tempdir().map_err(Error::host("cannot make a directory"))?;
        let socket = socket_in(&directory);
        let mut command = ours::this_program()?;
        command
            .args(["serve", "--disk"])
            .arg(disk.spec())
            .arg("--socket");
        command
            .arg(&socket)
            .stdin(Stdio::null())
            .stderr(Stdio::null());
        let child = command
            .spawn()
            .map_err(Error::host("cannot start iolite serve"))?;
        // It has no vCPU.
        let cpu = ProcessCpu::of(child.id(), "").map_err(Error::host("no clock of a process"))?;
        let server = Server {
            child,
            cpu,
            directory,
        };
        let end = Instant::now() + PATIENCE;
        // Whoever comes and goes is no front-end, and does no harm.
        while UnixStream::connect(&socket).is_err() {
            if Instant::now() > end {
                return Err(Error::Bench(format!("{}: it does not serve", disk.name)));
            }
            thread::sleep(Duration::from_millis(1));
        }
        Ok(server)
    }

    /// Where it serves.
    pub fn socket(&self) -> PathBuf {
        socket_in(&self.directory)
    }

    /// Processor time that it has used, in nanoseconds.
    pub fn cpu_ns(&self) -> u64 {
        self.cpu.without_vcpu()
    }
}

fn socket_in(directory: &TempDir) -> PathBuf {
    let path: &Path = directory.path();
    path.join("disk.sock")
}

impl Drop for Server {
    fn drop(&mut self) {
        // Both fail for a process that has ended and been waited for: then nothing is left to do.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
