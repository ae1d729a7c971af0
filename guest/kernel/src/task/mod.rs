//! Threads and processes. `scheduler` shares the processor between threads; `process` owns what
//! threads of one program share; `exec` makes a process of a file.

pub mod exec;
pub mod fault;
pub mod process;
pub mod scheduler;

pub use process::ProcessId;
pub use scheduler::ThreadId;
