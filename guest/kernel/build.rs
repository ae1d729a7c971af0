//! Passes the linker script, so that a plain `cargo build` for the bare-metal target links right.

fn main() {
    println!("cargo::rerun-if-changed=kernel.ld");
    if std::env::var("CARGO_CFG_TARGET_OS").as_deref() == Ok("none") {
        let here = std::env::var("CARGO_MANIFEST_DIR").unwrap_or_default();
        println!("cargo::rustc-link-arg-bins=-T{here}/kernel.ld");
        println!("cargo::rustc-link-arg-bins=--no-pie");
    }
}
