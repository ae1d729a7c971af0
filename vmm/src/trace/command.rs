//! `iolite trace`: what can be made of a trace file.

use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use clap::Subcommand;

use super::model::Trace;
use super::read::{self, ReadError};
use super::{report, summary, timeline};
use crate::error::Error;
use crate::exit_code::ExitCode;
use crate::output_file::{OutputFile, Outputs};

/// The views of a trace.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Say for each path where the time of its requests went
    Summary {
        /// A file that --trace wrote; - for stdin
        file: PathBuf,
    },
    /// Print the requests, a line each, as biosnoop does
    Timeline {
        /// A file that --trace wrote; - for stdin
        file: PathBuf,
        /// Print every moment of each request instead, as blkparse does
        #[arg(long)]
        moments: bool,
    },
    /// Make a page of it that needs no network: lanes, waterfalls, histograms, where the time went
    Html {
        /// A file that --trace wrote; - for stdin
        file: PathBuf,
        /// Where to write the page; - for stdout
        #[arg(short, long, value_name = "FILE")]
        output: PathBuf,
    },
    /// Draw the lanes of programs and disks as an SVG file
    Picture {
        /// A file that --trace wrote; - for stdin
        file: PathBuf,
        /// Where to write the picture; - for stdout
        #[arg(short, long, value_name = "FILE")]
        output: PathBuf,
    },
}

/// Carries out a subcommand.
///
/// # Errors
/// If the trace cannot be read, or the result not be written.
pub fn run(command: &Command) -> Result<ExitCode, Error> {
    match command {
        Command::Summary { file } => {
            let text = summary::render(&read::read(file)?);
            print(|out| out.write_all(text.as_bytes()))
        }
        Command::Timeline { file, moments } => {
            let trace: Trace = read::read(file)?;
            print(|out| match moments {
                true => timeline::moments(out, &trace),
                false => timeline::requests(out, &trace),
            })
        }
        Command::Html { file, output } => {
            let output = open(file, output)?;
            let page = report::page(&read::read(file)?);
            write(output, &page)
        }
        Command::Picture { file, output } => {
            let output = open(file, output)?;
            let picture = report::picture(&read::read(file)?);
            let picture = picture.ok_or_else(|| ReadError::Empty(file.display().to_string()))?;
            write(output, &picture)
        }
    }
}

/// Opens what is to be made of the trace in `file`.
fn open(file: &Path, output: &Path) -> Result<OutputFile, Error> {
    let stdin = Path::new("/dev/stdin");
    let input = if file == "-" { stdin } else { file };
    Outputs::beside(vec![("the trace", input.to_owned())]).open("-o", output)
}

fn write(output: OutputFile, text: &str) -> Result<ExitCode, Error> {
    output.write(|out| out.write_all(text.as_bytes()))?;
    Ok(ExitCode::Clean)
}

/// Writes to stdout. Who reads only the beginning (`| head`) has what they want.
fn print(write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Result<ExitCode, Error> {
    let mut out = BufWriter::new(io::stdout().lock());
    match write(&mut out).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Error::host("cannot write to stdout")(error))
        }
        _ => Ok(ExitCode::Clean),
    }
}
