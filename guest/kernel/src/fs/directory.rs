//! The names of the system disk's files.

use super::object::ObjectId;
use crate::mm::heap;
use crate::sync::CpuCell;
use alloc::string::String;
use alloc::vec::Vec;
use iolite_guest_abi::{DirEntry, Errno, PATH_BYTES};

struct Name {
    name: String,
    object: ObjectId,
}

static NAMES: CpuCell<Vec<Name>> = CpuCell::new(Vec::new());

/// Adds a file; ENOMEM if there is no room for its name.
pub fn add(name: &str, object: ObjectId) -> Result<(), Errno> {
    heap::check_room_at_boot()?;
    let mut names = NAMES.borrow_mut();
    names.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
    names.push(Name {
        name: String::from(name),
        object,
    });
    Ok(())
}

/// The file with this name, a leading `/` aside.
pub fn find(path: &str) -> Option<ObjectId> {
    let path = path.trim_start_matches('/');
    NAMES
        .borrow()
        .iter()
        .find(|entry| entry.name == path)
        .map(|entry| entry.object)
}

/// The `index`-th file.
pub fn entry(index: usize) -> Option<DirEntry> {
    let names = NAMES.borrow();
    let file = names.get(index)?;
    let name = file.name.as_bytes();
    let length = name.len().min(PATH_BYTES);
    let mut entry = DirEntry {
        size: file.object.bytes(),
        name_len: length as u64,
        ..DirEntry::default()
    };
    entry.name[..length].copy_from_slice(&name[..length]);
    Some(entry)
}
