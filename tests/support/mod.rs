//! What the tests of whole virtual machines share: running `iolite` ([`vm`]), disk images with
//! known bytes ([`image`]), and knowing whether there is a KVM to test on ([`trial`]).
//!
//! A test is a function that returns [`Outcome`]; `?` on any error fails it. Tests are collected
//! by libtest-mimic and not by `#[test]`, because only so a skipped test is seen as skipped:
//! `cargo test` prints it as `ignored`, with the reason, and counts it.

pub mod dispositions;
pub mod image;
pub mod kvm;
pub mod trial;
pub mod vm;

use libtest_mimic::Failed;

/// What a test comes to.
pub type Outcome = Result<(), Failed>;

/// Fails the test with a formatted message unless the condition holds.
#[macro_export]
macro_rules! ensure {
    ($condition:expr, $($message:tt)+) => {
        let holds: bool = $condition;
        if !holds {
            return Err(::libtest_mimic::Failed::from(format!($($message)+)));
        }
    };
}
