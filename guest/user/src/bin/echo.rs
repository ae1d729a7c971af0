#![no_std]
#![no_main]
//! `echo [WORD...]`: prints its arguments.

use iolite_user::{Args, entry, print, println};

entry!(main);

fn main(args: Args) {
    for (index, word) in args.enumerate() {
        let blank = if index == 0 { "" } else { " " };
        print!("{blank}{word}");
    }
    println!();
}
