//! Threads and processes. `scheduler` shares the processor between threads; `process` owns what
//! threads of one program share; `exec` makes a process of a file.

pub mod exec;
pub mod process;
pub mod scheduler;

pub use process::{ProcessId, kill_current, kill_current_at};
pub use scheduler::ThreadId;
