//! Progress of what takes longer than a second: a bar on a terminal, else a line now and then.

use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use crate::screen::Screen;

/// What is faster than this needs no progress.
const PATIENCE: Duration = Duration::from_secs(1);
/// Time between two lines where there is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(5);

/// The progress of one thing. It leaves nothing behind on a terminal.
pub struct Progress<'a> {
    screen: &'a Screen,
    what: String,
    bar: Option<ProgressBar>,
    next: Instant,
}

impl<'a> Progress<'a> {
    /// The progress of `what`, which begins now.
    pub fn new(screen: &'a Screen, what: &str) -> Self {
        Progress {
            screen,
            what: what.to_owned(),
            bar: None,
            next: Instant::now() + PATIENCE,
        }
    }

    /// `done` of `total` bytes are done.
    pub fn update(&mut self, done: u64, total: u64) {
        if let Some(bar) = &self.bar {
            bar.set_position(done.min(total));
        } else if Instant::now() < self.next {
            // Not yet, or not again yet.
        } else if self.screen.progress_bar() {
            self.bar = Some(bar(&self.what, done.min(total), total));
        } else {
            self.next = Instant::now() + LINE_EVERY;
            let percent = done
                .min(total)
                .saturating_mul(100)
                .checked_div(total)
                .unwrap_or(100);
            self.screen.note(&format!("{}: {percent} %", self.what));
        }
    }
}

impl Drop for Progress<'_> {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

fn bar(what: &str, done: u64, total: u64) -> ProgressBar {
    let bar = ProgressBar::new(total)
        .with_message(what.to_owned())
        .with_position(done);
    // The template is a constant: where indicatif does not know it, its own is good enough.
    if let Ok(style) = ProgressStyle::with_template("{msg} {wide_bar} {bytes}/{total_bytes} {eta}")
    {
        bar.set_style(style);
    }
    bar
}
