//! Is there a KVM to test with?

use std::env;
use std::fs::OpenOptions;

/// Why KVM cannot be used here, if it cannot.
pub fn missing() -> Option<String> {
    let opened = OpenOptions::new().read(true).write(true).open("/dev/kvm");
    opened.err().map(|error| format!("/dev/kvm: {error}"))
}

/// Is it known to be here, so that nothing may be skipped for want of it?
pub fn required() -> bool {
    env::var("IOLITE_REQUIRE_KVM").is_ok_and(|value| value == "1")
}
