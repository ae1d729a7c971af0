//! The same guest on another VMM: QEMU's microvm boots our kernel with the same disks, announced
//! the same way, and reads the same bytes.

use libtest_mimic::Trial;

use crate::qemu::{CLEAN, Microvm, QEMU};
use crate::support::Outcome;
use crate::support::image::Image;
use crate::support::trial;
use crate::support::vm::Iolite;

const KVM: Microvm = Microvm {
    accel: "kvm",
    cpu: "qemu64",
    processors: "1",
    pit: false,
};

pub fn tests() -> Vec<Trial> {
    vec![
        trial::test_with(QEMU, "microvm::both_vmms_read_the_same_digest", same_digest),
        trial::test_with(
            QEMU,
            "microvm::a_write_under_one_is_read_under_the_other",
            write,
        ),
        trial::test_with(QEMU, "microvm::without_x2apic", without_x2apic),
    ]
}

fn same_digest() -> Outcome {
    let image = Image::patterned((4 << 20) + 512, 51)?;
    let digest = image.sha256()?;
    let program = "sha256 /dev/vdb";
    Iolite::program(program)
        .disk(image.with("ro"))
        .expect(0)?
        .says(&digest)?;
    KVM.run(&format!("init={program}"), &image)?
        .expect(CLEAN)?
        .says(&digest)?;
    Ok(())
}

fn write() -> Outcome {
    let image = Image::zeroed(1 << 20)?;
    KVM.run("init=fill /dev/vdb 52", &image)?.expect(CLEAN)?;
    Iolite::program("verify /dev/vdb 52")
        .disk(image.with("ro"))
        .expect(0)?;
    Ok(())
}

/// The local APIC's registers lie in memory, and neither KVM's clock nor a PIT is there.
fn without_x2apic() -> Outcome {
    let image = Image::patterned(1 << 20, 53)?;
    let machine = Microvm {
        cpu: "qemu64,-x2apic,-kvmclock",
        ..KVM
    };
    machine
        .run("init=sha256 /dev/vdb", &image)?
        .expect(CLEAN)?
        .says(&image.sha256()?)?;
    Ok(())
}
