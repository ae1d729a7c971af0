#![no_std]
//! (being written)
