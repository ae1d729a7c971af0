//! Objects: runs of bytes on a disk that can be read, written and mapped. A disk is one, and so is
//! each file of the system disk. They are made at boot and stay.

use crate::block::DiskId;
use crate::mm::heap;
use crate::mm::layout::PAGE;
use crate::mm::paging::Root;
use crate::mm::space::{Area, Backing};
use crate::sync::CpuCell;
use alloc::vec::Vec;
use iolite_devices_abi::blk::SECTOR_SIZE;
use iolite_guest_abi::Errno;

/// An object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ObjectId(u16);

/// Where an object lies.
#[derive(Clone, Copy, Debug)]
pub struct Extent {
    /// Its disk.
    pub disk: DiskId,
    /// Its first sector there.
    pub first_sector: u64,
    /// Its length in bytes.
    pub bytes: u64,
}

/// Where an address space sees a part of an object.
#[derive(Clone, Copy, Debug)]
pub struct Mapping {
    root: Root,
    start: u64,
    first_page: u64,
    pages: u64,
}

struct Object {
    extent: Extent,
    mappings: Vec<Mapping>,
    /// A write-back has failed and nobody has been told.
    write_error: bool,
}

static OBJECTS: CpuCell<Vec<Object>> = CpuCell::new(Vec::new());

/// Adds an object; ENOMEM if there is no room for one.
pub fn add(extent: Extent) -> Result<ObjectId, Errno> {
    let mut objects = OBJECTS.borrow_mut();
    if objects.len() == usize::from(u16::MAX) {
        return Err(Errno::ENOMEM);
    }
    heap::check_room_at_boot()?;
    objects.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
    objects.push(Object {
        extent,
        mappings: Vec::new(),
        write_error: false,
    });
    Ok(ObjectId((objects.len() - 1) as u16))
}

/// Every object.
pub fn all() -> impl Iterator<Item = ObjectId> {
    (0..OBJECTS.borrow().len()).map(|number| ObjectId(number as u16))
}

/// Takes note that a write-back of the object has failed.
pub fn note_write_error(object: ObjectId) {
    OBJECTS.borrow_mut()[usize::from(object.0)].write_error = true;
}

/// Makes an object longer.
pub fn grow(object: ObjectId, bytes: u64) {
    let extent = &mut OBJECTS.borrow_mut()[usize::from(object.0)].extent;
    extent.bytes = extent.bytes.max(bytes);
}

/// Has a write-back failed since this was last asked?
pub fn take_write_error(object: ObjectId) -> bool {
    core::mem::take(&mut OBJECTS.borrow_mut()[usize::from(object.0)].write_error)
}

impl ObjectId {
    /// Its number: they begin at 0.
    #[inline(always)]
    pub fn number(self) -> u16 {
        self.0
    }

    /// Where it lies.
    #[inline]
    pub fn extent(self) -> Extent {
        OBJECTS.borrow()[usize::from(self.0)].extent
    }

    /// Its length in bytes.
    pub fn bytes(self) -> u64 {
        self.extent().bytes
    }

    /// Room for another mapping: [`ObjectId::mapped`] will find it.
    pub fn reserve_mapping(self) -> Result<(), Errno> {
        let mappings = &mut OBJECTS.borrow_mut()[usize::from(self.0)].mappings;
        mappings.try_reserve(1).map_err(|_| Errno::ENOMEM)
    }

    /// Takes note that `area` of the address space under `root` maps it.
    pub fn mapped(self, root: Root, area: &Area) -> Result<(), Errno> {
        let (Backing::Shared { first_page, .. } | Backing::Private { first_page, .. }) =
            area.backing
        else {
            return Ok(());
        };
        self.reserve_mapping()?;
        let pages = (area.end - area.start) / PAGE;
        let mapping = Mapping {
            root,
            start: area.start,
            first_page,
            pages,
        };
        OBJECTS.borrow_mut()[usize::from(self.0)]
            .mappings
            .push(mapping);
        Ok(())
    }

    /// Forgets the area at `start` of the address space under `root`.
    pub fn unmapped(self, root: Root, start: u64) {
        let mut objects = OBJECTS.borrow_mut();
        let mappings = &mut objects[usize::from(self.0)].mappings;
        mappings.retain(|mapping| mapping.root != root || mapping.start != start);
    }

    /// Is any part of it mapped?
    pub fn is_mapped(self) -> bool {
        !OBJECTS.borrow()[usize::from(self.0)].mappings.is_empty()
    }

    /// Calls `found` with each place where page `index` is or could be seen.
    pub fn for_each_place(self, index: u64, mut found: impl FnMut(Root, u64)) {
        for mapping in &OBJECTS.borrow()[usize::from(self.0)].mappings {
            if let Some(page) = index.checked_sub(mapping.first_page)
                && page < mapping.pages
            {
                found(mapping.root, mapping.start + page * PAGE);
            }
        }
    }
}

impl Extent {
    /// How many pages it has, the last one perhaps not whole.
    pub fn pages(&self) -> u64 {
        self.bytes.div_ceil(PAGE)
    }

    /// The first sector of page `index`, and how many bytes of the page are on the disk: a multiple
    /// of the sector size.
    #[inline]
    pub fn page(&self, index: u64) -> (u64, u32) {
        let sector = self.first_sector + index * (PAGE / SECTOR_SIZE);
        let left = self.bytes - index * PAGE;
        let bytes = if left >= PAGE {
            PAGE
        } else {
            left.next_multiple_of(SECTOR_SIZE)
        };
        (sector, bytes as u32)
    }
}
