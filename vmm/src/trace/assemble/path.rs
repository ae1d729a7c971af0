//! What a request's path is called: as in the demo's table (docs/demo.md), where the demo has it.
//!
//! When the driver adds a request, the guest says who asks and what for; what is asked, the device
//! finds out when it parses the chain. So a path has a name of two parts, `blocking` and `read`.

use crate::trace::model::{Names, Op, Request};
use iolite_devices_abi::trace::purpose;

use super::op_name;

/// A thread waits for it, in a system call.
const BLOCKING: &str = "blocking";
/// A process goes on, and asks later.
const ASYNC: &str = "async";
/// A page that a system call needs.
const CACHED: &str = "cached";
/// The kernel reads for itself, as when it mounts.
const KERNEL: &str = "kernel";
/// The system call that has it do so.
const SCAN: &str = "scan";

/// By a server in ring 3, for a client.
pub const SERVER: &str = "block-server";
/// By a driver in ring 3 that reports nothing.
pub const DRIVER: &str = "driver in ring 3";
/// By a guest that reports nothing.
pub const GUEST: &str = "guest";

/// Who the thread is that adds a request.
pub enum Asker<'a> {
    /// In the system call with this name.
    Call(&'a str),
    /// In a page fault.
    Fault,
    /// A thread of the kernel's own.
    Kernel,
    /// Nobody: an interrupt handler goes on with what was waiting for room.
    Nobody,
}

/// What is known when the driver adds it.
pub fn of(purpose: u8, asker: &Asker<'_>) -> &'static str {
    match (purpose, asker) {
        (purpose::READ_AHEAD, _) => "read-ahead",
        (purpose::WRITE_BACK, _) => "write-back",
        (_, Asker::Fault) => "pager",
        (_, Asker::Nobody) => "queued",
        (_, Asker::Kernel | Asker::Call(SCAN)) => KERNEL,
        (purpose::ASYNC, _) => ASYNC,
        (purpose::PAGE, _) => CACHED,
        _ => BLOCKING,
    }
}

/// What is known in the end.
pub fn complete(request: &mut Request, names: &mut Names) {
    let path = match (names.text(request.path), request.op) {
        (KERNEL, Op::Read) => "kernel-mount".to_owned(),
        (path @ (BLOCKING | ASYNC | CACHED), op) => format!("{path}-{}", op_name(op)),
        _ => return,
    };
    request.path = names.ours(&path);
}
