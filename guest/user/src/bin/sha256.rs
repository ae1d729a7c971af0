#![no_std]
#![no_main]
//! `sha256 [--map|--direct] PATH...`: prints the SHA-256 of files or disks as sha256sum does. It reads
//! them by `read` through the page cache, by touching a mapping, or by `read` past the page cache.

extern crate alloc;

use alloc::format;
use alloc::string::String;
use iolite_user::{Args, Digest, File, Mapping, MappingMut, Result, Sha256, entry, println};

const BLOCK_BYTES: usize = 128 << 10;
/// How much is mapped at once.
const WINDOW_BYTES: u64 = 16 << 20;

entry!(main);

fn main(args: Args) -> core::result::Result<(), String> {
    let mut digest: fn(&str) -> Result<Digest> = by_read;
    let mut paths = 0;
    for arg in args {
        match arg {
            "--map" => digest = by_mapping,
            "--direct" => digest = by_direct_read,
            path => {
                let sum = digest(path).map_err(|error| format!("{path}: {error}"))?;
                println!("{sum}  {path}");
                paths += 1;
            }
        }
    }
    if paths == 0 {
        return Err(String::from("usage: sha256 [--map|--direct] PATH..."));
    }
    Ok(())
}

fn by_read(path: &str) -> Result<Digest> {
    read_all(File::open(path)?)
}

fn by_direct_read(path: &str) -> Result<Digest> {
    read_all(File::open_direct(path)?)
}

fn read_all(file: File) -> Result<Digest> {
    let mut buffer = MappingMut::zeroed(BLOCK_BYTES)?;
    let mut hash = Sha256::new();
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hash.finish()),
            len => hash.update(&buffer[..len]),
        }
    }
}

fn by_mapping(path: &str) -> Result<Digest> {
    let file = File::open(path)?;
    let size = file.stat()?.size;
    let mut hash = Sha256::new();
    for start in (0..size).step_by(WINDOW_BYTES as usize) {
        let len = (size - start).min(WINDOW_BYTES) as usize;
        hash.update(&Mapping::of(&file, start, len)?);
    }
    Ok(hash.finish())
}
