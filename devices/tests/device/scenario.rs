//! File systems as bad as a test wants them, for those who may mount: a disk that loses what is written
//! to it, and an overlay. Everything is unmounted and let go of when the value is dropped.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

/// What an image is full of at first.
const MARK: u8 = 0xa5;

/// The file system, or none where this process may not mount: then the test says that it is skipped.
pub fn or_skip<T>(made: io::Result<T>, what: &str) -> Option<T> {
    made.inspect_err(|error| println!("skipped: {what}: {error}"))
        .ok()
}

/// An ext4 without a journal on a loop device, in a tmpfs that can be filled up. Whatever the page cache
/// of this ext4 has taken since then finds no room when it is written back: what was lost is an I/O
/// error of a flush, as from a drive that is broken.
pub struct LossyDisk {
    directory: TempDir,
    device: Option<String>,
    mounted: Vec<PathBuf>,
}

impl LossyDisk {
    /// With an image of `bytes` bytes. The ext4 has places for all of them, which have none in the tmpfs.
    pub fn new(bytes: u64) -> io::Result<Self> {
        let mut disk = LossyDisk {
            directory: tempfile::tempdir()?,
            device: None,
            mounted: Vec::new(),
        };
        let [below, ext4] = ["below", "ext4"].map(|name| disk.directory.path().join(name));
        fs::create_dir(&below)?;
        fs::create_dir(&ext4)?;
        let size = format!("size={}", 2 * bytes + (16 << 20));
        disk.mount(&["-t", "tmpfs", "-o", &size, "none"], &below)?;
        let backing = below.join("backing");
        File::create(&backing)?.set_len(bytes + (16 << 20))?;
        let device = run("losetup", &["--find", "--show"], &[&backing])?;
        let device = device.trim_end().to_owned();
        disk.device = Some(device.clone());
        // Whoever had it before may have made it read-only.
        run("blockdev", &["--setrw"], &[device.as_ref()])?;
        let features = ["-O", "^has_journal", "-E", "lazy_itable_init=0"];
        let block = ["-q", "-F", "-b", "4096"];
        run("mkfs.ext4", &[block, features].concat(), &[device.as_ref()])?;
        disk.mount(&["-t", "ext4", "-o", "noatime", &device], &ext4)?;
        fs::write(disk.image(), vec![MARK; bytes as usize])?;
        run("sync", &["-f"], &[&disk.image()])?;
        punch_marks(&backing)?;
        Ok(disk)
    }

    /// Where the image is.
    pub fn image(&self) -> PathBuf {
        self.directory.path().join("ext4/image")
    }

    /// Leaves room for `bytes` bytes that are not on the disk yet.
    pub fn fill_up(&self, bytes: u64) -> io::Result<()> {
        let mut filler = File::create(self.directory.path().join("below/filler"))?;
        let zeros = vec![0; 1 << 20];
        while let Ok(done @ 1..) = filler.write(&zeros) {
            let _ = done;
        }
        let size = filler.metadata()?.len();
        filler.set_len(size.saturating_sub(bytes))
    }

    /// What is on the disk, and not only in the page cache.
    pub fn contents(&self) -> io::Result<Vec<u8>> {
        // This drops what is clean from the page cache, and what was lost is clean as well.
        let input = format!("if={}", self.image().display());
        run("dd", &[&input, "iflag=nocache", "count=0"], &[])?;
        fs::read(self.image())
    }

    fn mount(&mut self, arguments: &[&str], at: &Path) -> io::Result<()> {
        run("mount", arguments, &[at])?;
        self.mounted.push(at.to_owned());
        Ok(())
    }
}

impl Drop for LossyDisk {
    fn drop(&mut self) {
        // Lazily: an io_uring keeps its file for a while after it was closed.
        for at in self.mounted.drain(..).rev() {
            let _ = run("umount", &["--lazy"], &[&at]);
        }
        if let Some(device) = self.device.take() {
            let _ = run("losetup", &["--detach", &device], &[]);
        }
    }
}

/// An overlay over a directory with one file, `image`.
pub struct Overlay {
    directory: TempDir,
}

impl Overlay {
    /// With these bytes in the file.
    pub fn new(bytes: &[u8]) -> io::Result<Self> {
        let directory = tempfile::tempdir()?;
        let path = directory.path().to_owned();
        run("mount", &["-t", "tmpfs", "none"], &[&path])?;
        let overlay = Overlay { directory };
        for name in ["lower", "upper", "work", "merged"] {
            fs::create_dir(path.join(name))?;
        }
        fs::write(path.join("lower/image"), bytes)?;
        let [lower, upper, work] = ["lower", "upper", "work"].map(|name| path.join(name));
        let (lower, upper, work) = (lower.display(), upper.display(), work.display());
        let layers = format!("lowerdir={lower},upperdir={upper},workdir={work}");
        let arguments = ["-t", "overlay", "-o", &layers, "none"];
        run("mount", &arguments, &[&path.join("merged")])?;
        Ok(overlay)
    }

    /// Where the file is.
    pub fn image(&self) -> PathBuf {
        self.directory.path().join("merged/image")
    }
}

impl Drop for Overlay {
    fn drop(&mut self) {
        let path = self.directory.path();
        let _ = run("umount", &[], &[&path.join("merged")]);
        let _ = run("umount", &[], &[path]);
    }
}

/// Gives back each block of `backing` in which there is nothing but [`MARK`].
fn punch_marks(backing: &Path) -> io::Result<()> {
    const BLOCK: usize = 4096;
    let bytes = fs::read(backing)?;
    let is_marked = |block: &&[u8]| *block == [MARK; BLOCK];
    let mut at = 0;
    for run_of_blocks in bytes
        .chunks(BLOCK)
        .collect::<Vec<_>>()
        .chunk_by(|a, b| is_marked(a) == is_marked(b))
    {
        let len = BLOCK * run_of_blocks.len();
        if is_marked(&run_of_blocks[0]) {
            let (offset, length) = (at.to_string(), len.to_string());
            run(
                "fallocate",
                &["-p", "-o", &offset, "-l", &length],
                &[backing],
            )?;
        }
        at += len;
    }
    Ok(())
}

/// What a program says, if it succeeds.
fn run(program: &str, arguments: &[&str], paths: &[&Path]) -> io::Result<String> {
    let output = Command::new(program).args(arguments).args(paths).output()?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        return Err(io::Error::other(format!("{program}: {said}")));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
