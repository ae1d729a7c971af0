#![no_std]
#![no_main]
//! `hello`: the smallest example of a program.

use iolite_user::{Args, entry, println};

entry!(main);

fn main(_args: Args) {
    println!("hello from ring 3");
}
