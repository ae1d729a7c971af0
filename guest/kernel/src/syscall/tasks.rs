//! Processes and threads.

use super::with_path;
use crate::arch::gdt::{USER_CODE, USER_DATA};
use crate::arch::trap::Frame;
use crate::arch::{cpu, time, user_access};
use crate::fs::Files;
use crate::fs::file::File;
use crate::task::scheduler::{self, Wait};
use crate::task::{ProcessId, ThreadId, exec, process};
use arrayvec::ArrayVec;
use iolite_guest_abi::{ARGS_BYTES, Ended, Errno, MAX_PASSED, SpawnOptions, USER_END, USER_START};

/// Interrupts on; the bit that is always one.
const USER_RFLAGS: u64 = 0x202;

pub fn exit(status: u64) -> Result<u64, Errno> {
    process::end_current(Ended::Exited(status as u8));
    process::exit_thread(status)
}

pub fn thread_spawn(entry: u64, stack_top: u64, argument: u64) -> Result<u64, Errno> {
    let user = USER_START..USER_END;
    if !user.contains(&entry) || !user.contains(&stack_top) || !stack_top.is_multiple_of(16) {
        return Err(Errno::EINVAL);
    }
    let id = scheduler::current_process().ok_or(Errno::ESRCH)?;
    let root = process::current().space.root();
    let frame = Frame {
        rip: entry,
        cs: u64::from(USER_CODE),
        ss: u64::from(USER_DATA),
        rflags: USER_RFLAGS,
        // As after a call: 8 below a multiple of 16.
        rsp: stack_top - 8,
        rdi: argument,
        ..Frame::default()
    };
    let thread = scheduler::spawn_user(id, root, frame)?;
    process::thread_added(id);
    Ok(u64::from(thread.number()))
}

pub fn thread_join(thread: u64) -> Result<u64, Errno> {
    let thread = ThreadId::from_number(thread).ok_or(Errno::ESRCH)?;
    let id = scheduler::current_process().ok_or(Errno::ESRCH)?;
    if thread == scheduler::current() {
        return Err(Errno::EINVAL);
    }
    loop {
        if let Some(status) = scheduler::collect(thread, id)? {
            return Ok(status);
        }
        if scheduler::current_is_killed() {
            return Err(Errno::EINTR);
        }
        scheduler::block(Wait::Thread(thread));
    }
}

pub fn sleep(nanoseconds: u64) -> Result<u64, Errno> {
    let until = cpu::tsc().saturating_add(time::ticks(nanoseconds));
    while cpu::tsc() < until {
        if scheduler::current_is_killed() {
            return Err(Errno::EINTR);
        }
        scheduler::block_until(Wait::Sleep, until);
    }
    Ok(0)
}

#[inline(never)]
pub fn spawn(
    path: u64,
    path_len: u64,
    args: u64,
    args_len: u64,
    options: u64,
) -> Result<u64, Errno> {
    let options = match options {
        0 => SpawnOptions::default(),
        address => user_access::read_value(address)?,
    };
    let mut buffer = [0; ARGS_BYTES];
    let buffer = buffer.get_mut(..args_len as usize).ok_or(Errno::E2BIG)?;
    user_access::read(buffer, args)?;
    let parent = scheduler::current_process();
    let passed = passed(&options)?;
    // Counted for the child before anything blocks: another thread may close the parent's.
    passed.iter().copied().for_each(File::hold);
    let rights = options.rights & process::current().rights;
    let child = with_path(path, path_len, |path| {
        exec::spawn(path, buffer, parent, Files::with(&passed), rights)
    });
    if child.is_err() {
        passed.into_iter().for_each(File::release);
    }
    child.map(|child| u64::from(child.number()))
}

/// What the running process passes on to its child.
fn passed(options: &SpawnOptions) -> Result<ArrayVec<File, MAX_PASSED>, Errno> {
    let process = process::current();
    let fds = options.fds.get(..options.fd_count as usize);
    let fds = fds.ok_or(Errno::EINVAL)?.iter();
    fds.map(|fd| process.files.get(u64::from(*fd))).collect()
}

pub fn wait(child: u64) -> Result<u64, Errno> {
    let child = ProcessId::from_number(child).ok_or(Errno::ECHILD)?;
    let parent = scheduler::current_process().ok_or(Errno::ECHILD)?;
    loop {
        if let Some(ended) = process::collect(child, parent)? {
            return Ok(ended.to_raw());
        }
        if scheduler::current_is_killed() {
            return Err(Errno::EINTR);
        }
        scheduler::block(Wait::Process(child));
    }
}
