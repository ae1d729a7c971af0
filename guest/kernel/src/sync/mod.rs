//! State of the one processor, and threads that wait.

mod cell;
mod wait;

pub use cell::CpuCell;
pub use wait::WaitQueue;
