//! Is there a KVM to test with? For tests that are plain `#[test]` functions.

/// False, with a word about it, where /dev/kvm cannot be used; with IOLITE_REQUIRE_KVM=1 that is a
/// failure.
pub fn usable() -> bool {
    let usable = std::fs::File::options()
        .read(true)
        .write(true)
        .open("/dev/kvm")
        .is_ok();
    let required = std::env::var_os("IOLITE_REQUIRE_KVM").is_some_and(|value| value == "1");
    assert!(
        usable || !required,
        "IOLITE_REQUIRE_KVM=1, but /dev/kvm cannot be opened"
    );
    if !usable {
        eprintln!("skipped: /dev/kvm cannot be opened");
    }
    usable
}
