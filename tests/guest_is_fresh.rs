//! The built guest in resources/guest is the one that its sources make.
//!
//! `guest/build` writes into resources/guest/BUILT the hash of the sources, and those of what it made
//! of them, as lines `name: HEX`. These tests compute them again. The hash of the sources is the
//! SHA-256 of one line `SHA256  PATH` for each of them, sorted by path.

#![allow(clippy::expect_used, clippy::unwrap_used)]

use sha2::{Digest, Sha256};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{fs, io};

const REBUILD: &str = "run 'guest/build' and commit resources/guest";

#[test]
fn the_guest_was_built_from_these_sources() {
    assert_eq!(
        built("sources"),
        hash_of_sources(),
        "the sources of the guest have changed since resources/guest was built: {REBUILD}"
    );
}

#[test]
fn kernel_and_system_disk_are_those_that_were_built() {
    for name in ["kernel", "kernel-traced", "system.tar"] {
        let found = hash_of_file(&root().join("resources/guest").join(name));
        assert_eq!(
            built(name),
            found,
            "resources/guest/{name} is not what was built: {REBUILD}"
        );
    }
}

#[test]
fn the_build_script_hashes_the_same_sources() {
    let script = root().join("guest/build");
    let output = Command::new(script)
        .arg("--hash-sources")
        .output()
        .expect("guest/build runs");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert_eq!(
        String::from_utf8_lossy(&output.stdout).trim(),
        hash_of_sources()
    );
}

/// What BUILT says after `name: `.
fn built(name: &str) -> String {
    let path = root().join("resources/guest/BUILT");
    let text = fs::read_to_string(&path)
        .unwrap_or_else(|error| panic!("{}: {error}: {REBUILD}", path.display()));
    text.lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
        .unwrap_or_else(|| panic!("{} has no line '{name}: ': {REBUILD}", path.display()))
        .to_owned()
}

fn hash_of_sources() -> String {
    let mut sources = Vec::new();
    for folder in ["guest", "devices/abi"] {
        add_sources(&root().join(folder), &mut sources).expect("the sources can be read");
    }
    // Sorted as bytes of the whole path: components compare differently.
    sources.sort_by_key(|path| relative(path).into_bytes());
    let lines: String = sources
        .iter()
        .map(|path| format!("{}  {}\n", hash_of_file(path), relative(path)))
        .collect();
    hex(Sha256::digest(lines))
}

/// Adds every file below `folder` that is a source: not a note, nor what editors and builds leave.
fn add_sources(folder: &Path, sources: &mut Vec<PathBuf>) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let left_over = name.starts_with('.')
            || name == "target"
            || name.starts_with('#')
            || [".md", "~", ".orig", ".rej"]
                .iter()
                .any(|end| name.ends_with(end));
        if entry.file_type()?.is_dir() {
            if !name.starts_with('.') && name != "target" {
                add_sources(&entry.path(), sources)?;
            }
        } else if !left_over {
            sources.push(entry.path());
        }
    }
    Ok(())
}

fn relative(path: &Path) -> String {
    path.strip_prefix(root())
        .expect("a path below the root")
        .to_string_lossy()
        .into_owned()
}

fn hash_of_file(path: &Path) -> String {
    let bytes = fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    hex(Sha256::digest(bytes))
}

fn hex(digest: impl AsRef<[u8]>) -> String {
    digest
        .as_ref()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

fn root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}
