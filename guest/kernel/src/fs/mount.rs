//! Mounting the system disk: the kernel cannot go on before it knows what is there, so it reads one
//! header after the other and waits for each: `submit` + `wait`, nothing else.

use super::directory;
use super::object::{self, Extent};
use crate::block::{self, DiskId};
use crate::mm::frame;
use crate::println;
use iolite_devices_abi::blk::SECTOR_SIZE;
use iolite_guest_abi::Errno;
use iolite_guest_core::ustar::{self, BLOCK, Header};

/// Enters every file of the archive on `disk` into the directory. An archive that is damaged in the
/// middle keeps the files before.
pub fn mount(disk: DiskId) -> Result<usize, Errno> {
    let buffer = frame::alloc().ok_or(Errno::ENOMEM)?;
    let files = read_headers(disk, buffer);
    frame::release(buffer);
    files
}

fn read_headers(disk: DiskId, buffer: frame::Frame) -> Result<usize, Errno> {
    let sectors = disk.sectors();
    let mut sector = 0;
    let mut files = 0;
    while sector < sectors {
        block::read_sector(disk, sector, buffer)?;
        let block = frame::read::<BLOCK>(buffer);
        let entry = match ustar::header(&block) {
            Header::Entry(entry) => entry,
            Header::End => break,
            Header::Bad => {
                println!("iolite: system disk: no ustar header at sector {sector}, rest ignored");
                break;
            }
        };
        let first_sector = sector + 1;
        if entry.blocks() > sectors - first_sector {
            println!(
                "iolite: system disk: {} goes on after the end, ignored",
                entry.name
            );
            break;
        }
        if entry.regular {
            let extent = Extent {
                disk,
                first_sector,
                bytes: entry.bytes,
            };
            let added = object::add(extent).and_then(|object| directory::add(entry.name, object));
            if added.is_err() {
                println!("iolite: system disk: no room for more than {files} files, rest ignored");
                break;
            }
            files += 1;
        }
        sector = first_sector + entry.blocks();
    }
    const { assert!(BLOCK as u64 == SECTOR_SIZE) };
    Ok(files)
}
