//! Whether KVM can be used here, and what becomes of a test where it cannot.
//!
//! Without a usable /dev/kvm a test is skipped and says so. With IOLITE_REQUIRE_KVM=1 it fails
//! instead: where KVM is known to be there, nothing may be skipped unnoticed.

use std::env;

use libtest_mimic::{Completion, Failed, Trial};

use super::Outcome;
use super::kvm::{missing, required};

/// A test that needs /dev/kvm.
pub fn test(name: &str, run: fn() -> Outcome) -> Trial {
    test_of(name, run)
}

/// A test that needs /dev/kvm, one of several made from a table.
pub fn test_of(name: &str, run: impl FnOnce() -> Outcome + Send + 'static) -> Trial {
    Trial::ignorable_test(name, move || match missing() {
        None => run().map(|()| Completion::Completed),
        Some(reason) if required() => Err(Failed::from(format!("{reason}, and it is required"))),
        Some(reason) => Ok(skipped(&reason)),
    })
}

/// A test that needs /dev/kvm, and something that `possible` looks for and `what` names.
#[allow(dead_code, reason = "not every program of tests has such a one")]
pub fn test_where(
    what: &'static str,
    possible: fn() -> bool,
    name: &str,
    run: fn() -> Outcome,
) -> Trial {
    if possible() {
        return test(name, run);
    }
    Trial::ignorable_test(name, move || Ok(skipped(what)))
}

/// A test that needs /dev/kvm and `program` in the PATH.
pub fn test_with(program: &'static str, name: &str, run: fn() -> Outcome) -> Trial {
    if installed(program) {
        return test(name, run);
    }
    Trial::ignorable_test(name, move || Ok(skipped(&format!("no {program} here"))))
}

/// A test that needs `program` in the PATH, and no KVM.
#[allow(dead_code, reason = "not every program of tests has such a one")]
pub fn without_kvm(
    program: &'static str,
    name: &str,
    run: impl FnOnce() -> Outcome + Send + 'static,
) -> Trial {
    Trial::ignorable_test(name, move || match installed(program) {
        true => run().map(|()| Completion::Completed),
        false => Ok(skipped(&format!("no {program} here"))),
    })
}

/// What a test returns that cannot be done here.
pub fn skipped(reason: &str) -> Completion {
    Completion::ignored_with(format!("skipped: {reason}"))
}

fn installed(program: &str) -> bool {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path).any(|directory| directory.join(program).is_file())
}
