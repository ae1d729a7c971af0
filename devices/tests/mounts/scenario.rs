//! File systems as bad as a test wants them, for those who may mount: a disk that loses what is written
//! to it, and an overlay. They are mounted for the calling thread and its children alone, and are gone
//! with them, however the test ends.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

/// What an image is full of at first.
const MARK: u8 = 0xa5;

/// An ext4 without a journal on a loop device, in a tmpfs that can be filled up. Whatever the page cache
/// of this ext4 has taken since then finds no room when it is written back: what was lost is an I/O
/// error of a flush, as from a drive that is broken.
pub struct LossyDisk {
    mounts: Mounts,
}

impl LossyDisk {
    /// With an image of `bytes` bytes. The ext4 has places for all of them, which have none in the tmpfs.
    pub fn new(bytes: u64) -> io::Result<Self> {
        let mut mounts = Mounts::new()?;
        let size = format!("size={}", 2 * bytes + (16 << 20));
        let below = mounts.add("below", &["-t", "tmpfs", "-o", &size, "none"])?;
        let backing = below.join("backing");
        File::create(&backing)?.set_len(bytes + (16 << 20))?;
        let device = run("losetup", &["--find", "--show"], &[&backing])?;
        let device = device.trim_end();
        let made = mounts.add_ext4(device);
        // It goes on until it is unmounted.
        run("losetup", &["--detach", device], &[])?;
        made?;
        let disk = LossyDisk { mounts };
        fs::write(disk.image(), vec![MARK; bytes as usize])?;
        run("sync", &["-f"], &[&disk.image()])?;
        punch_marks(&backing)?;
        Ok(disk)
    }

    /// Where the image is.
    pub fn image(&self) -> PathBuf {
        self.mounts.at("ext4/image")
    }

    /// Leaves room for `bytes` bytes that are not on the disk yet.
    pub fn fill_up(&self, bytes: u64) -> io::Result<()> {
        let mut filler = File::create(self.mounts.at("below/filler"))?;
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
}

/// An overlay over a directory with one file, `image`.
pub struct Overlay {
    mounts: Mounts,
}

impl Overlay {
    /// With these bytes in the file.
    pub fn new(bytes: &[u8]) -> io::Result<Self> {
        let mut mounts = Mounts::new()?;
        let layers = mounts.add("layers", &["-t", "tmpfs", "none"])?;
        let [lower, upper, work] = ["lower", "upper", "work"].map(|name| layers.join(name));
        for layer in [&lower, &upper, &work] {
            fs::create_dir(layer)?;
        }
        fs::write(lower.join("image"), bytes)?;
        let (lower, upper, work) = (lower.display(), upper.display(), work.display());
        let layers = format!("lowerdir={lower},upperdir={upper},workdir={work}");
        mounts.add("merged", &["-t", "overlay", "-o", &layers, "none"])?;
        Ok(Overlay { mounts })
    }

    /// Where the file is.
    pub fn image(&self) -> PathBuf {
        self.mounts.at("merged/image")
    }
}

/// What is mounted in a directory.
struct Mounts {
    directory: TempDir,
    places: Vec<PathBuf>,
}

impl Mounts {
    /// Nothing yet. From now on the calling thread sees other mounts than the rest of the system.
    fn new() -> io::Result<Self> {
        // SAFETY: it changes what paths of this thread mean, and no memory.
        #[allow(unsafe_code)]
        if unsafe { libc::unshare(libc::CLONE_NEWNS) } != 0 {
            return Err(io::Error::last_os_error());
        }
        run("mount", &["--make-rprivate", "/"], &[])?;
        Ok(Mounts {
            directory: tempfile::tempdir()?,
            places: Vec::new(),
        })
    }

    fn add(&mut self, name: &str, arguments: &[&str]) -> io::Result<PathBuf> {
        let place = self.at(name);
        fs::create_dir(&place)?;
        run("mount", arguments, &[&place])?;
        self.places.push(place.clone());
        Ok(place)
    }

    fn add_ext4(&mut self, device: &str) -> io::Result<PathBuf> {
        // Whoever had it before may have made it read-only.
        run("blockdev", &["--setrw"], &[device.as_ref()])?;
        let features = ["-O", "^has_journal", "-E", "lazy_itable_init=0"];
        let block = ["-q", "-F", "-b", "4096"];
        run("mkfs.ext4", &[block, features].concat(), &[device.as_ref()])?;
        self.add("ext4", &["-t", "ext4", "-o", "noatime", device])
    }

    fn at(&self, path: &str) -> PathBuf {
        self.directory.path().join(path)
    }
}

impl Drop for Mounts {
    fn drop(&mut self) {
        for place in self.places.iter().rev() {
            // Lazily: an io_uring keeps its file for a while after it was closed.
            let _ = run("umount", &["--lazy"], &[place]);
        }
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
        return Err(io::Error::other(format!("{program}: {}", said.trim())));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
