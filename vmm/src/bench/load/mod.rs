//! A disk under load: requests as fast as they complete, from a program of the guest that drives the
//! device itself, in ring 3; and, to compare with, from the same guest on QEMU and from the host.
//!
//! What is compared is a subject (`subject`); what is measured of it is a matrix of cells (`matrix`). All
//! subjects have the same image, filled with known content (`image`). In each round, each subject is
//! started, measures every cell, and ends, so that whatever else the host does meets all of them;
//! what is shown are medians over the rounds, as a table (`table`) and as JSON (`json`).
//!
//! A machine is a process of its own, iolite's like QEMU's (`machine`): both are told what to measure
//! over their consoles, by the protocol of `iolite_guest_core::bench`, and both are charged for the
//! processor time of all their threads but the vCPU's.

pub mod bare;
mod image;
mod json;
mod machine;
mod markdown;
mod matrix;
mod native;
mod ours;
mod qemu;
mod results;
mod server;
mod subject;
mod table;

use std::path::PathBuf;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use crate::error::Error;
use crate::exit_code::ExitCode;
use crate::output_file::Outputs;
use crate::screen::Screen;
use image::Image;
pub use matrix::{Access, Matrix, Wait};
use results::Results;
pub use subject::{Against, Engine};

/// What the user can choose.
#[derive(Debug)]
pub struct Options {
    /// The cells.
    pub matrix: Matrix,
    /// Disk keys of iolite's disk: one iolite for each; one without keys if there are none.
    pub keys: Vec<String>,
    /// Engines of iolite's disk: one iolite for each, and for each of `keys`.
    pub engines: Vec<Engine>,
    /// What to compare with.
    pub against: Vec<Against>,
    /// How long each cell is measured.
    pub time: Duration,
    /// How often.
    pub rounds: u32,
    /// The disk, which is overwritten; a temporary one if there is none.
    pub disk: Option<PathBuf>,
    /// Size of the temporary disk in bytes.
    pub size: u64,
    /// Past the host's page cache.
    pub direct: bool,
    /// The table in Markdown.
    pub markdown: bool,
    /// Where to write the results as JSON.
    pub json: Option<PathBuf>,
}

/// Measures, and shows what came of it.
///
/// # Errors
/// [`Error::Bench`] if a machine failed or a disk held what it should not; [`Error::Host`].
pub fn run(options: &Options) -> Result<ExitCode, Error> {
    let disk = options.disk.iter().map(|path| ("the disk", path.clone()));
    let mut outputs = Outputs::beside(disk.collect());
    let json = outputs.open_some("--json", options.json.as_deref())?;
    let screen = Screen::beside(&json);
    let subjects = subject::all(options)?;
    let cells = options.matrix.cells();
    let image = Image::prepare(options.disk.as_deref(), options.size)?;
    let runs = options.rounds as usize * subjects.len() * cells.len();
    screen.step(
        "bench",
        &format!(
            "{}, {}, {} of {:?}: about {:.0} s",
            counted(subjects.len(), "subject"),
            counted(cells.len(), "cell"),
            counted(options.rounds as usize, "round"),
            options.time,
            runs as f64 * options.time.as_secs_f64() * 1.2
        ),
    );
    screen.step("disk", &image.describe(options.direct));

    let mut results = Results::new(subjects, cells);
    measure(&mut results, options, &image, &screen)?;
    screen.print(&if options.markdown {
        markdown::render(&results)
    } else {
        table::render(&results)
    });
    if let Some(output) = json {
        output.write(|out| json::write(out, &results, options, &image))?;
    }
    screen.finish()?;
    Ok(ExitCode::Clean)
}

/// A number of things: `1 cell`, `7 cells`.
fn counted(number: usize, thing: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{number} {thing}{plural}")
}

/// All rounds.
fn measure(
    results: &mut Results,
    options: &Options,
    image: &Image,
    screen: &Screen,
) -> Result<(), Error> {
    let (subjects, cells) = (results.subjects().to_vec(), results.cells().to_vec());
    let runs = options.rounds as usize * subjects.len() * cells.len();
    let progress = progress(screen, runs as u64);
    // Never 0, which is what the image was filled with.
    let mut seed = 0;
    for round in 0..options.rounds {
        // Nobody is always the first, or always behind the same.
        for turn in 0..subjects.len() {
            let at = (turn + round as usize) % subjects.len();
            let subject = &subjects[at];
            progress.set_message(format!("round {}: {subject}", round + 1));
            if !screen.progress_bar() {
                screen.note(&format!("round {}: {subject}", round + 1));
            }
            // A write to a page that is dirty already costs less: all begin with clean ones.
            image.sync()?;
            let _lock = subject.locks_nothing().then(|| image.lock()).transpose()?;
            let mut load = subject.start(image, options)?;
            for (cell, shape) in cells.iter().enumerate() {
                seed += 1;
                let sample = load.measure(&shape.of(options.time, seed))?;
                results.add(at, cell, sample);
                progress.inc(1);
            }
            load.finish()?;
        }
    }
    progress.finish_and_clear();
    Ok(())
}

fn progress(screen: &Screen, runs: u64) -> ProgressBar {
    if !screen.progress_bar() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new(runs);
    // The template is a constant: where indicatif does not know it, its own is good enough.
    if let Ok(style) = ProgressStyle::with_template("{msg} {wide_bar} {pos}/{len} {eta}") {
        bar.set_style(style);
    }
    bar
}
