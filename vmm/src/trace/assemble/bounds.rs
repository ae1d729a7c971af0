//! How much a guest's events can make of a trace: a guest may say anything, and an honest one does
//! not come near to this. What finds no room is left out and counted; what the device did is kept.

/// Lives of threads: each has a lane of its own.
pub const MOST_THREADS: usize = 10_000;
/// Processes and system calls that have names.
pub const MOST_NAMES: usize = 10_000;
/// Slices on the lanes of the guest. Some 100 bytes each in a file.
pub const MOST_SLICES: usize = 1_500_000;
/// Requests that the guest has added and no device has seen. No machine has more in flight.
pub const MOST_UNSEEN: usize = 1 << 16;
