//! The block device from outside: a hand-written driver against the register window, guest memory
//! and the interrupt line, row by row of the table of
//! hostile inputs (docs/hostile-inputs.md); then many requests at once,
//! and random ones.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "these are tests")]

mod concurrency;
mod configuration;
mod driver;
mod durability;
mod engines;
mod host;
mod injection;
mod integrity;
mod limits;
mod logs;
mod model;
mod other_driver;
mod queue_reset;
mod queues;
mod random;
mod registers;
mod rows_chain;
mod rows_completion;
mod rows_ranges;
mod rows_register;
mod rows_request;
mod rows_ring;
mod rows_setup;
mod sleep;
mod table;
mod test_disk;
mod trace_times;
