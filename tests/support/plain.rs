//! Tests that need /dev/kvm and are plain functions which panic to fail. They are run by
//! libtest-mimic, so that a skipped test is seen as skipped, and counted.

#[path = "dispositions.rs"]
mod dispositions;
#[path = "kvm.rs"]
mod kvm;

use libtest_mimic::{Arguments, Completion, Failed, Trial};

/// Runs the tests that the command line selects, and ends the process.
pub fn run(tests: &[(&'static str, fn())]) -> ! {
    dispositions::ignore_nothing();
    let trials = tests.iter().map(|(name, test)| {
        let test = *test;
        Trial::ignorable_test(*name, move || match kvm::missing() {
            None => {
                test();
                Ok(Completion::Completed)
            }
            Some(reason) if kvm::required() => {
                Err(Failed::from(format!("{reason}, and it is required")))
            }
            Some(reason) => Ok(Completion::ignored_with(format!("skipped: {reason}"))),
        })
    });
    libtest_mimic::run(&Arguments::from_args(), trials.collect()).exit()
}

/// The main function of a file of such tests.
#[macro_export]
macro_rules! plain_tests {
    ($($test:ident),+ $(,)?) => {
        fn main() {
            plain::run(&[$((stringify!($test), $test)),+]);
        }
    };
}
