//! Rows 14 to 29: the device status field and the other registers.

use std::thread;
use std::time::Duration;

use iolite_devices_abi::mmio as reg;
use iolite_devices_abi::status::*;

use super::driver::*;

const READY: u32 = ACKNOWLEDGE | DRIVER | FEATURES_OK;

fn cold() -> Driver {
    Driver::cold(memory_disk(), config())
}

#[test]
fn row_14_driver_ok_before_features_ok() {
    let mut driver = cold();
    driver.write(reg::STATUS, ACKNOWLEDGE);
    driver.write(reg::STATUS, ACKNOWLEDGE | DRIVER);
    driver.write(reg::STATUS, ACKNOWLEDGE | DRIVER | DRIVER_OK);
    assert_eq!(driver.status(), ACKNOWLEDGE | DRIVER);
    driver.write(reg::STATUS, READY | DRIVER_OK);
    assert_eq!(driver.status(), ACKNOWLEDGE | DRIVER);
    driver.assert_recovers();
}

#[test]
fn row_15_status_steps_out_of_order() {
    let mut driver = cold();
    for wrong in [
        DRIVER,
        FEATURES_OK,
        ACKNOWLEDGE | FEATURES_OK,
        16,
        0xffff_ff00 | ACKNOWLEDGE,
    ] {
        driver.write(reg::STATUS, wrong);
        assert_eq!(driver.status(), 0, "{wrong:#x}");
    }
    driver.negotiate(FEATURES);
    // Clearing a bit is not a step either.
    driver.write(reg::STATUS, ACKNOWLEDGE);
    assert_eq!(driver.status(), READY);
    driver.assert_recovers();
}

#[test]
fn row_15_the_first_two_steps_may_come_together() {
    let driver = cold();
    driver.write(reg::STATUS, ACKNOWLEDGE | DRIVER);
    assert_eq!(driver.status(), ACKNOWLEDGE | DRIVER);
}

#[test]
fn row_16_features_that_were_not_offered() {
    let mut driver = cold();
    let offered = driver.offered();
    for bit in (0..64).filter(|bit| offered & 1 << bit == 0) {
        driver.negotiate(FEATURES | 1 << bit);
        assert_eq!(driver.status(), ACKNOWLEDGE | DRIVER, "feature {bit}");
    }
    driver.assert_recovers();
}

#[test]
fn row_17_version_1_is_missing() {
    let mut driver = cold();
    driver.negotiate(FEATURES & !F_VERSION_1);
    assert_eq!(driver.status(), ACKNOWLEDGE | DRIVER);
    driver.assert_recovers();
}

#[test]
fn row_18_feature_selectors_beyond_the_second() {
    let mut driver = cold();
    driver.write(reg::STATUS, ACKNOWLEDGE | DRIVER);
    for half in [0, 1] {
        driver.write(reg::DRIVER_FEATURES_SEL, half);
        driver.write(reg::DRIVER_FEATURES, (F_VERSION_1 >> (32 * half)) as u32);
    }
    for selector in [2, 3, 32, u32::MAX] {
        driver.write(reg::DEVICE_FEATURES_SEL, selector);
        assert_eq!(driver.read(reg::DEVICE_FEATURES), 0);
        driver.write(reg::DRIVER_FEATURES_SEL, selector);
        driver.write(reg::DRIVER_FEATURES, u32::MAX);
    }
    driver.write(reg::STATUS, READY);
    assert_eq!(driver.status(), READY, "what was written beyond counts");
    driver.assert_recovers();
}

#[test]
fn row_19_nothing_but_a_reset_after_failed() {
    let mut driver = Driver::live();
    driver.write(reg::STATUS, READY | DRIVER_OK | FAILED);
    let failed = READY | DRIVER_OK | FAILED;
    assert_eq!(driver.status(), failed);
    driver.write(reg::STATUS, READY | DRIVER_OK);
    assert_eq!(driver.status(), failed);
    driver.chain_in(DESC, 0, &[driver.header(0, 0), w(DATA, 512), status()]);
    driver.make_available(0);
    driver.notify();
    driver.assert_quiet();
    driver.assert_recovers();
}

#[test]
fn row_20_the_driver_sets_needs_reset() {
    let mut driver = cold();
    driver.write(reg::STATUS, ACKNOWLEDGE | DEVICE_NEEDS_RESET);
    assert_eq!(driver.status(), ACKNOWLEDGE);
    driver.assert_recovers();
}

#[test]
fn row_21_reset_drains_what_is_in_flight() {
    let (mut driver, faults) = faulty(config());
    faults.hold();
    driver.chain_in(DESC, 0, &[driver.header(0, 0), w(DATA, 512), status()]);
    driver.make_available(0);
    driver.notify();
    assert!(eventually(|| faults.held() == 1));
    // The vCPU is let go after a bounded time; the reset goes on, and other writes are ignored.
    driver.write(reg::STATUS, 0);
    assert_ne!(driver.status(), 0);
    driver.write(reg::STATUS, ACKNOWLEDGE);
    driver.write(reg::QUEUE_SEL, 5);
    assert_ne!(driver.status(), ACKNOWLEDGE);
    let before = driver.status();
    driver.write(reg::STATUS, before | FAILED);
    assert_eq!(driver.status(), before);
    faults.release();
    assert!(eventually(|| driver.status() == 0));
    // From here on the memory is the driver's alone.
    let before = (
        driver.bytes(DATA, 512),
        driver.bytes(USED, 64),
        driver.edges.count(),
    );
    thread::sleep(Duration::from_millis(5));
    assert_eq!(
        (
            driver.bytes(DATA, 512),
            driver.bytes(USED, 64),
            driver.edges.count()
        ),
        before
    );
    driver.assert_recovers();
}

#[test]
fn row_22_notifying_a_queue_that_is_not_there() {
    let mut driver = Driver::live();
    driver.chain_in(DESC, 0, &[driver.header(0, 0), w(DATA, 512), status()]);
    driver.make_available(0);
    for queue in [1, 0x1_0000, u32::MAX] {
        driver.write(reg::QUEUE_NOTIFY, queue);
    }
    driver.assert_quiet();
    driver.notify();
    assert_eq!(driver.next_used(), Some((0, 513)));
    driver.assert_recovers();
}

#[test]
fn row_23_notifying_before_driver_ok() {
    let mut driver = cold();
    driver.negotiate(FEATURES);
    driver.place_queue(DESC, AVAIL, USED);
    driver.chain_in(DESC, 0, &[driver.header(0, 0), w(DATA, 512), status()]);
    driver.make_available(0);
    driver.notify();
    // The way through the ioeventfd does not ask the registers.
    driver
        .device
        .queue_notify()
        .next()
        .unwrap()
        .write(1)
        .unwrap();
    driver.assert_quiet();
    driver.assert_recovers();
}

#[test]
fn row_24_a_storm_of_notifications() {
    let mut driver = Driver::live();
    for _ in 0..10_000 {
        driver
            .device
            .queue_notify()
            .next()
            .unwrap()
            .write(1)
            .unwrap();
    }
    assert_eq!(driver.request(0, 3, &[w(DATA, 512)]), (0, 513));
    let counters = driver.device.counters();
    assert!(
        counters.notifications < 10_000,
        "{}",
        counters.notifications
    );
    assert_eq!(counters.reads, 1);
    driver.assert_recovers();
}

#[test]
fn row_25_accesses_of_other_widths() {
    let mut driver = Driver::live();
    for width in [1, 2, 3, 8] {
        let mut data = vec![0xff; width];
        driver.window.read(reg::MAGIC_VALUE, &mut data);
        assert_eq!(data, vec![0; width]);
        driver.window.write(reg::STATUS, &vec![0; width]);
    }
    let mut data = [0xff; 4];
    driver.window.read(reg::MAGIC_VALUE + 2, &mut data);
    assert_eq!(data, [0; 4]);
    driver.window.write(reg::STATUS + 1, &[0; 4]);
    assert_eq!(driver.status(), READY | DRIVER_OK);
    driver.assert_recovers();
}

#[test]
fn row_26_registers_of_the_other_direction() {
    let mut driver = Driver::live();
    for write_only in [
        reg::DEVICE_FEATURES_SEL,
        reg::DRIVER_FEATURES,
        reg::DRIVER_FEATURES_SEL,
        reg::QUEUE_SEL,
        reg::QUEUE_NUM,
        reg::QUEUE_NOTIFY,
        reg::INTERRUPT_ACK,
        reg::QUEUE_DESC_LOW,
        reg::QUEUE_DRIVER_HIGH,
        reg::QUEUE_DEVICE_LOW,
    ] {
        assert_eq!(driver.read(write_only), 0, "{write_only:#x}");
    }
    for (read_only, value) in [
        (reg::MAGIC_VALUE, reg::MAGIC),
        (reg::VERSION, 2),
        (reg::DEVICE_ID, 2),
    ] {
        driver.write(read_only, 0x1234);
        assert_eq!(driver.read(read_only), value);
    }
    driver.assert_recovers();
}

#[test]
fn row_27_configuration_reads_past_the_end() {
    let mut driver = Driver::live();
    for offset in [60, 61, 0x200, 0xeff] {
        let mut data = [0xff; 8];
        driver.window.read(reg::CONFIG + offset, &mut data);
        assert_eq!(data, [0; 8], "{offset:#x}");
    }
    let mut capacity = [0; 8];
    driver.window.read(reg::CONFIG, &mut capacity);
    assert_eq!(u64::from_le_bytes(capacity), SECTORS);
    let mut byte = [0; 1];
    driver.window.read(reg::CONFIG + 1, &mut byte);
    assert_eq!(byte, [(SECTORS >> 8) as u8]);
    driver.assert_recovers();
}

#[test]
fn row_28_configuration_writes() {
    let mut driver = Driver::live();
    let configuration = |driver: &Driver| {
        let mut bytes = [0xff; 64];
        driver.window.read(reg::CONFIG, &mut bytes);
        bytes
    };
    let before = configuration(&driver);
    driver.window.write(reg::CONFIG, &[0xff; 8]);
    // The cache mode could be written, had CONFIG_WCE been accepted.
    for offset in 0..64 {
        driver.window.write(reg::CONFIG + offset, &[0]);
    }
    let after = configuration(&driver);
    assert!(before == after, "{after:?}");
    driver.assert_recovers();
}

#[test]
fn row_29_acknowledging_undefined_interrupts() {
    let mut driver = Driver::live();
    assert_eq!(driver.request(0, 0, &[w(DATA, 512)]), (0, 513));
    assert!(eventually(|| driver.edges.count() == 1));
    driver.write(reg::INTERRUPT_ACK, !reg::INTERRUPT_USED_RING);
    assert_eq!(driver.read(reg::INTERRUPT_STATUS), reg::INTERRUPT_USED_RING);
    driver.write(reg::INTERRUPT_ACK, reg::INTERRUPT_USED_RING);
    assert_eq!(driver.read(reg::INTERRUPT_STATUS), 0);
    driver.assert_recovers();
}
