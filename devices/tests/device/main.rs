//! The block device from outside: a hand-written driver against the register window, guest memory
//! and the interrupt line, row by row of the table of hostile inputs.

mod driver;
mod rows_chain;
mod rows_register;
mod rows_request;
mod rows_ring;
mod rows_setup;
