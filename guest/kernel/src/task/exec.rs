//! From a file of the system disk to a process. Only the headers and the first stack page are
//! touched here: everything else is paged in when the program gets to it.

use super::process::{self, ProcessId};
use super::scheduler;
use crate::arch::gdt::{USER_CODE, USER_DATA};
use crate::arch::time;
use crate::arch::trap::Frame;
use crate::block;
use crate::fs::Files;
use crate::fs::directory;
use crate::fs::object::ObjectId;
use crate::mm::cache;
use crate::mm::frame::{self, Frame as MemoryFrame};
use crate::mm::layout::PAGE;
use crate::mm::paging;
use crate::mm::space::{Area, Backing, Space};
use crate::trace;
use iolite_guest_abi::{ARGS_BYTES, Errno, STACK_BYTES, StartInfo, USER_END};
use iolite_guest_core::elf::{self, Program, Segment};
use iolite_guest_core::read_ahead::ReadAhead;

/// Interrupts on; the bit that is always one.
const USER_RFLAGS: u64 = 0x202;

/// Starts the program `path` with `args`, each ended by a NUL byte, its name first, and with what it
/// has open and may do from the start.
pub fn spawn(
    path: &str,
    args: &[u8],
    parent: Option<ProcessId>,
    files: Files,
    rights: u64,
) -> Result<ProcessId, Errno> {
    if args.len() > ARGS_BYTES {
        return Err(Errno::E2BIG);
    }
    let file = directory::find(path).ok_or(Errno::ENOENT)?;
    let program = read_headers(file)?;
    let mut space = Space::new().ok_or(Errno::ENOMEM)?;
    let frame = match populate(&mut space, file, &program, args) {
        Ok(frame) => frame,
        Err(error) => {
            space.clear();
            space.free();
            return Err(error);
        }
    };
    let root = space.root();
    let name = path.rsplit('/').next().unwrap_or(path);
    let id = process::add(name, space, parent, files, rights).map_err(|(error, mut space)| {
        space.clear();
        space.free();
        error
    })?;
    process::thread_added(id);
    match scheduler::spawn_user(id, root, frame) {
        Ok(thread) => {
            trace::name(thread.number(), id.number(), name);
            Ok(id)
        }
        Err(error) => {
            process::remove(id);
            Err(error)
        }
    }
}

fn read_headers(file: ObjectId) -> Result<Program, Errno> {
    let page = cache::get(file, 0)?;
    let bytes = file.bytes();
    let head = page.bytes();
    elf::parse(&head[..head.len().min(bytes as usize)], bytes).ok_or(Errno::ENOEXEC)
}

fn populate(
    space: &mut Space,
    file: ObjectId,
    program: &Program,
    args: &[u8],
) -> Result<Frame, Errno> {
    for segment in program.segments() {
        map_segment(space, file, segment)?;
    }
    let stack_start = USER_END - PAGE - STACK_BYTES as u64;
    space.insert(Area {
        start: stack_start,
        end: stack_start + STACK_BYTES as u64,
        write: true,
        execute: false,
        backing: Backing::Zeroes,
    })?;
    let stack = first_stack_page(space, stack_start + STACK_BYTES as u64, args)?;
    Ok(Frame {
        rip: program.entry,
        cs: u64::from(USER_CODE),
        ss: u64::from(USER_DATA),
        rflags: USER_RFLAGS,
        // As after a call: 8 below a multiple of 16.
        rsp: stack.start_info - 8,
        rdi: stack.start_info,
        ..Frame::default()
    })
}

/// The part that the file fills becomes a private mapping of it; what follows is zeroes.
fn map_segment(space: &mut Space, file: ObjectId, segment: &Segment) -> Result<(), Errno> {
    let start = segment.address - segment.address % PAGE;
    let end = (segment.address + segment.memory_bytes).next_multiple_of(PAGE);
    let file_end = segment.address + segment.file_bytes;
    let from_file = if segment.file_bytes == 0 {
        start
    } else {
        file_end.next_multiple_of(PAGE)
    };
    let (write, execute) = (segment.protection.write, segment.protection.execute);
    if from_file > start {
        let first_page = (segment.offset - segment.offset % PAGE) / PAGE;
        let zero_from = if segment.memory_bytes > segment.file_bytes {
            file_end
        } else {
            from_file
        };
        let backing = Backing::private(file, first_page, ReadAhead::default(), zero_from);
        space.insert(Area {
            start,
            end: from_file,
            write,
            execute,
            backing,
        })?;
    }
    if end > from_file {
        space.insert(Area {
            start: from_file,
            end,
            write,
            execute,
            backing: Backing::Zeroes,
        })?;
    }
    Ok(())
}

struct FirstPage {
    start_info: u64,
}

/// The arguments at the very top of the stack, the [`StartInfo`] below them.
fn first_stack_page(space: &mut Space, top: u64, args: &[u8]) -> Result<FirstPage, Errno> {
    const { assert!(ARGS_BYTES + size_of::<StartInfo>() + 32 < PAGE as usize) };
    let frame = frame::alloc_zeroed().ok_or(Errno::ENOMEM)?;
    let Some(entry) = space.root().find_or_make(top - PAGE) else {
        frame::release(frame);
        return Err(Errno::ENOMEM);
    };
    entry.set(
        frame.physical() | paging::PRESENT | paging::WRITABLE | paging::USER | paging::NO_EXECUTE,
    );
    let args_at = (top - args.len() as u64) & !15;
    let info_at = args_at - (size_of::<StartInfo>() as u64).next_multiple_of(16);
    write(frame, args_at, args);
    let info = StartInfo {
        tsc_hz: time::tsc_hz(),
        args: args_at as *const u8,
        args_len: args.len(),
        disks: block::disks() as u64,
    };
    write(frame, info_at, &info.tsc_hz.to_le_bytes());
    write(frame, info_at + 8, &(info.args as u64).to_le_bytes());
    write(frame, info_at + 16, &info.args_len.to_le_bytes());
    write(frame, info_at + 24, &info.disks.to_le_bytes());
    Ok(FirstPage {
        start_info: info_at,
    })
}

fn write(frame: MemoryFrame, address: u64, bytes: &[u8]) {
    frame::write(frame, (address % PAGE) as usize, bytes);
}
