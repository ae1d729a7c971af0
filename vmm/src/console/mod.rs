//! The guest's console: COM1's output to stdout, stdin to COM1's input, and the terminal between.

mod input;
mod output;
mod terminal;

pub use input::{CTRL_D, Input, Keyboard, Wait};
pub use output::Output;
pub use terminal::{CharacterMode, restore_terminal};
