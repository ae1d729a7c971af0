//! Files that results are written to: `--trace`, `--stats-json`, `--json`, `-o`.
//!
//! Protocol: [`Outputs`] knows what the command reads; it opens every output before anything else
//! begins, so that a mistake costs no time. An output is not changed until there is something to write
//! ([`OutputFile::write`]): what fails before leaves the results of before alone.
//!
//! `-` is stdout; `/dev/stdout`, `/dev/stderr` and `/dev/fd/N` are descriptors that we were started
//! with, written to as they are. A FIFO is opened when there is something for its reader.

#![allow(unsafe_code)]

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Seek, Write};
use std::os::fd::{BorrowedFd, RawFd};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::{AT_FDCWD, AtFlags, FcntlArg, FdFlag, OFlag, fcntl};
use nix::unistd::{AccessFlags, faccessat};

use crate::error::Error;
use crate::identity::Identity;

/// Stdin, stdout and stderr: what the user has directed them to is not to be overwritten either.
const STANDARD: [(&str, RawFd); 3] = [("stdin", 0), ("stdout", 1), ("stderr", 2)];

/// Why a file cannot be an output.
#[derive(Debug, thiserror::Error)]
pub enum OutputError {
    /// It is needed for something else.
    #[error("{option} {path}: is {what} as well; name another file")]
    Taken {
        /// The option that names it.
        option: &'static str,
        /// The file.
        path: PathBuf,
        /// What else it is: `the kernel`.
        what: String,
    },
    /// The console would mix with it.
    #[error(
        "{0} -: stdout is the guest's console; name a file, or /dev/stdout to have it after what \
         the guest says"
    )]
    Console(&'static str),
    /// Somebody may not expect that it changes.
    #[error("{option} {path}: {why}; name another file")]
    Unfit {
        /// The option that names it.
        option: &'static str,
        /// The file.
        path: PathBuf,
        /// What speaks against it.
        why: &'static str,
    },
}

/// The outputs of a command, and what it reads.
pub struct Outputs {
    /// Roles and paths.
    inputs: Vec<(&'static str, PathBuf)>,
    opened: Vec<(&'static str, Identity)>,
    /// Stdout is for a guest.
    console: bool,
}

impl Outputs {
    /// For a command that reads the files at these paths; each comes with what it is, like `the kernel`.
    pub fn beside(inputs: Vec<(&'static str, PathBuf)>) -> Self {
        Outputs {
            inputs,
            opened: Vec::new(),
            console: false,
        }
    }

    /// The same, where stdout is a guest's console.
    pub fn with_console(inputs: Vec<(&'static str, PathBuf)>) -> Self {
        Outputs {
            console: true,
            ..Outputs::beside(inputs)
        }
    }

    /// Opens the output that `option` names, if it does.
    ///
    /// # Errors
    /// As [`open`](Outputs::open).
    pub fn open_some(
        &mut self,
        option: &'static str,
        path: Option<&Path>,
    ) -> Result<Option<OutputFile>, Error> {
        path.map(|path| self.open(option, path)).transpose()
    }

    /// Opens the output at `path` that `option` names, without changing it.
    ///
    /// # Errors
    /// If it cannot be written, or must not be: [`OutputError`].
    pub fn open(&mut self, option: &'static str, path: &Path) -> Result<OutputFile, Error> {
        if self.console && path == "-" {
            return Err(OutputError::Console(option).into());
        }
        let cannot = || Error::host(format!("cannot write {}", path.display()));
        let inherited = descriptor(path);
        let unfit = |why| OutputError::Unfit {
            option,
            path: path.to_owned(),
            why,
        };
        let target = match inherited {
            Some(number) => Target::Stream(duplicate(number).map_err(cannot())?),
            None => open(path).map_err(|error| match error {
                Refusal::Unfit(why) => unfit(why).into(),
                Refusal::Host(error) => cannot()(error),
            })?,
        };
        let output = OutputFile {
            path: path.to_owned(),
            inherited,
            target,
        };
        let Some(identity) = output.identity().map_err(cannot())? else {
            return Ok(output);
        };
        if let Some(what) = self.role_of(identity, inherited.is_some()) {
            let path = path.to_owned();
            return Err(OutputError::Taken { option, path, what }.into());
        }
        if !output.lock() {
            return Err(unfit("is in use by another process, which has locked it").into());
        }
        self.opened.push((option, identity));
        Ok(output)
    }

    /// What else this file is.
    fn role_of(&self, identity: Identity, is_inherited: bool) -> Option<String> {
        let mut inputs = self.inputs.iter();
        if let Some((what, _)) = inputs.find(|(_, path)| Identity::all_at(path).contains(&identity))
        {
            return Some((*what).to_owned());
        }
        if let Some((option, _)) = self.opened.iter().find(|(_, other)| *other == identity) {
            return Some(format!("the file of {option}"));
        }
        let mut standard = STANDARD.iter().filter(|_| !is_inherited);
        let found = standard.find(|(_, number)| {
            let metadata = duplicate_any(*number).and_then(|file| file.metadata());
            metadata.is_ok_and(|metadata| Identity::of(&metadata) == Some(identity))
        });
        found.map(|(name, _)| format!("the file of {name}"))
    }
}

/// A file that will be written.
#[derive(Debug)]
pub struct OutputFile {
    path: PathBuf,
    /// The descriptor that it names.
    inherited: Option<RawFd>,
    target: Target,
}

#[derive(Debug)]
enum Target {
    /// What is written comes after what was.
    Stream(File),
    /// What is written replaces what was. The second says whether there was no such file.
    File(File, Created),
    /// A FIFO: whoever opens it waits for a reader.
    Fifo,
}

/// The path of a file that is there since we opened it, until something is written to it.
#[derive(Debug)]
struct Created(Option<(PathBuf, Option<Identity>)>);

impl OutputFile {
    /// Is it stdout?
    pub fn is_stdout(&self) -> bool {
        self.inherited == Some(1)
    }

    /// Replaces what is in the file by what `write` writes.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn write(
        self,
        write: impl FnOnce(&mut BufWriter<File>) -> io::Result<()>,
    ) -> Result<(), Error> {
        let cannot = Error::host(format!("cannot write {}", self.path.display()));
        let is_stdout = self.is_stdout();
        match self.try_write(write) {
            // Who reads only the beginning (`| head`) has what they want.
            Err(error) if is_stdout && error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            written => written.map_err(cannot),
        }
    }

    fn try_write(
        self,
        write: impl FnOnce(&mut BufWriter<File>) -> io::Result<()>,
    ) -> io::Result<()> {
        // Who reads a stream may keep us waiting for ever; a signal ends that.
        let file = match self.target {
            Target::Stream(file) => file,
            Target::Fifo => OpenOptions::new().write(true).open(&self.path)?,
            Target::File(mut file, mut created) => {
                file.set_len(0)?;
                file.rewind()?;
                created.0 = None;
                file
            }
        };
        let mut out = BufWriter::with_capacity(1 << 20, file);
        write(&mut out)?;
        out.flush()
    }

    fn identity(&self) -> io::Result<Option<Identity>> {
        let metadata = match &self.target {
            Target::Stream(file) | Target::File(file, _) => file.metadata()?,
            Target::Fifo => fs::metadata(&self.path)?,
        };
        Ok(Identity::of(&metadata))
    }

    /// Locks a file against whoever locks whole files, disks or parts of them, until it is written.
    /// False if somebody has a lock.
    fn lock(&self) -> bool {
        let mut whole = libc::flock {
            l_type: libc::F_WRLCK as libc::c_short,
            l_whence: libc::SEEK_SET as libc::c_short,
            l_start: 0,
            l_len: 0,
            l_pid: 0,
        };
        match &self.target {
            // Other errors are of file systems without locks.
            Target::File(file, _) => !matches!(
                fcntl(file, FcntlArg::F_OFD_SETLK(&whole)),
                Err(nix::Error::EAGAIN | nix::Error::EACCES)
            ),
            // The lock would be that of all who have the descriptor: only asked for.
            Target::Stream(file) => {
                let asked = fcntl(file, FcntlArg::F_OFD_GETLK(&mut whole));
                asked.is_err() || i32::from(whole.l_type) == libc::F_UNLCK
            }
            Target::Fifo => true,
        }
    }
}

impl Drop for Created {
    fn drop(&mut self) {
        let Some((path, identity)) = &self.0 else {
            return;
        };
        let found = fs::symlink_metadata(path);
        if found.is_ok_and(|found| Identity::of(&found) == *identity && found.len() == 0) {
            // If it is gone already, so much the better.
            let _ = fs::remove_file(path);
        }
    }
}

/// Why a path cannot be opened.
enum Refusal {
    Unfit(&'static str),
    Host(io::Error),
}

impl From<io::Error> for Refusal {
    fn from(error: io::Error) -> Self {
        Refusal::Host(error)
    }
}

fn open(path: &Path) -> Result<Target, Refusal> {
    // Asked before opening: to open a block device or a FIFO for writing has effects.
    let kind = match fs::metadata(path) {
        Ok(metadata) => Some(metadata.file_type()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(error.into()),
    };
    if kind.is_some_and(|kind| kind.is_block_device()) {
        return Err(Refusal::Unfit("is a block device"));
    }
    if kind.is_some_and(|kind| kind.is_fifo()) {
        faccessat(AT_FDCWD, path, AccessFlags::W_OK, AtFlags::AT_EACCESS)
            .map_err(io::Error::from)?;
        return Ok(Target::Fifo);
    }
    let options = || {
        let mut options = OpenOptions::new();
        options.write(true).custom_flags(libc::O_NOCTTY);
        options
    };
    if kind.is_none() {
        match options().create_new(true).open(path) {
            Ok(file) => {
                let identity = Identity::of(&file.metadata()?);
                return Ok(Target::File(
                    file,
                    Created(Some((path.to_owned(), identity))),
                ));
            }
            // A symbolic link to nowhere, or somebody was faster.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error.into()),
        }
    }
    let file = options().create(true).truncate(false).open(path)?;
    match file.metadata()?.is_file() {
        true => Ok(Target::File(file, Created(None))),
        false => Ok(Target::Stream(file)),
    }
}

/// The number of the descriptor that a path names.
fn descriptor(path: &Path) -> Option<RawFd> {
    match path.as_os_str().to_str()? {
        "-" | "/dev/stdout" => Some(1),
        "/dev/stdin" => Some(0),
        "/dev/stderr" => Some(2),
        _ => {
            let in_directory = |directory| path.strip_prefix(directory).ok();
            let name = in_directory("/dev/fd").or_else(|| in_directory("/proc/self/fd"))?;
            let number: u16 = name.to_str()?.parse().ok()?;
            Some(number.into())
        }
    }
}

/// The same file by a descriptor of our own, if the process was started with `number`, and may write to
/// it.
fn duplicate(number: RawFd) -> io::Result<File> {
    let file = duplicate_any(number)?;
    let flags = fcntl(&file, FcntlArg::F_GETFL)?;
    match OFlag::from_bits_truncate(flags) & OFlag::O_ACCMODE {
        OFlag::O_RDONLY => Err(nix::Error::EBADF.into()),
        _ => Ok(file),
    }
}

fn duplicate_any(number: RawFd) -> io::Result<File> {
    // SAFETY: the system says if there is no such descriptor, and those that we were started with are
    // never closed.
    let inherited = unsafe { BorrowedFd::borrow_raw(number) };
    let flags = FdFlag::from_bits_truncate(fcntl(inherited, FcntlArg::F_GETFD)?);
    if flags.contains(FdFlag::FD_CLOEXEC) {
        // No program leaves such a one to another: it is one of ours.
        return Err(nix::Error::EBADF.into());
    }
    Ok(inherited.try_clone_to_owned()?.into())
}
