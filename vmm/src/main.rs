//! The program `iolite`; see [`iolite::cli`].

use std::process::ExitCode;

fn main() -> ExitCode {
    iolite::cli::main().into()
}
