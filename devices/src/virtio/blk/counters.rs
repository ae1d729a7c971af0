//! What a disk has done so far.

/// A snapshot of a disk's counters, all since the device was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Requests by type: reads.
    pub reads: u64,
    /// Writes.
    pub writes: u64,
    /// Flushes.
    pub flushes: u64,
    /// Everything else: GET_ID, unknown types.
    pub others: u64,
    /// Bytes read from the disk by requests that succeeded.
    pub bytes_read: u64,
    /// Bytes written to the disk by requests that succeeded.
    pub bytes_written: u64,
    /// Requests that were not answered with OK.
    pub errors: u64,
    /// Used buffer notifications sent.
    pub interrupts_sent: u64,
    /// Used buffer notifications the driver did not want.
    pub interrupts_suppressed: u64,
    /// Available buffer notifications received.
    pub notifications: u64,
    /// The most requests that were in flight at once.
    pub max_in_flight: u64,
}
