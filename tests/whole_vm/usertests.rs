//! The guest's own tests, `usertests`, in several machines that share the work.
//!
//! One of them alone: `iolite run -d scratch.img --cmdline "init=usertests NAME"`.

use libtest_mimic::Trial;

use crate::ensure;
use crate::support::Outcome;
use crate::support::image::Image;
use crate::support::trial;
use crate::support::vm::Iolite;

/// How many machines share the quick tests.
const PARTS: usize = 6;
/// What a cache that the scratch disk does not fit into makes a difference to.
const UNDER_PRESSURE: &str = "eviction_with_every_page_verified eviction_of_dirty_pages \
    more_dirty_pages_than_there_may_be threads_fault_on_the_same_pages msync_is_durable \
    fsync_writes_back_and_flushes sequential_faults_read_ahead async_and_the_page_cache \
    private_mapping_keeps_its_copies twenty_processes_one_page";
/// What slow requests make a difference to: they are still in flight when something happens.
const ON_A_SLOW_DISK: &str = "async_exit_with_256_in_flight async_killed_with_256_in_flight \
    async_unmap_in_flight async_close_in_flight async_poll_wakes_no_waiter \
    async_exit_while_a_thread_waits async_timeouts async_cancel exit_ends_every_thread \
    twenty_processes_one_page munmap_keeps_what_was_written threads_block_at_once \
    faulty_pages_can_be_probed registered_busy_while_in_flight registered_exit_in_flight";
const SCRATCH_BYTES: usize = 8 << 20;
const FAULTY_BYTES: usize = 2 << 20;

/// With `IOLITE_USERTESTS=slow` the slow ones run too: they take some minutes where ring 0 is
/// emulated.
const SLOW_TOO: &str = "IOLITE_USERTESTS";

pub fn tests() -> Vec<Trial> {
    let slow = std::env::var(SLOW_TOO).is_ok_and(|value| value == "slow");
    let which = if slow { "-s " } else { "" };
    let mut tests: Vec<Trial> = (1..=PARTS)
        .map(|part| {
            let name = format!("usertests::part_{part}_of_{PARTS}");
            trial::test_of(&name, move || {
                usertests(&format!("{which}--part {part}/{PARTS}"), "workers=4")
            })
        })
        .collect();
    tests.push(trial::test("usertests::with_a_small_cache", small_cache));
    tests.push(trial::test("usertests::on_a_slow_disk", slow_disk));
    tests.push(trial::test("usertests::a_failure_is_a_status", failure));
    tests
}

fn small_cache() -> Outcome {
    usertests(&format!("{UNDER_PRESSURE} cache=1M"), "workers=4")
}

fn slow_disk() -> Outcome {
    usertests(ON_A_SLOW_DISK, "latency=20ms")
}

/// Runs usertests with all the disks it knows of; `key` is one of the
/// first two's.
fn usertests(arguments: &str, key: &str) -> Outcome {
    let scratch = Image::zeroed(SCRATCH_BYTES as u64)?;
    let faulty = Image::patterned(FAULTY_BYTES, 1)?;
    let unflushed = Image::patterned(FAULTY_BYTES, 2)?;
    let ended = Iolite::program(&format!("usertests {arguments}"))
        .disk(scratch.with(key))
        .disk(faulty.with(&format!("{key},fail=read:800-803,fail=write:1600")))
        .disk(unflushed.with("fail=flush"))
        .expect(0)?
        .says(" passed, 0 failed")?;
    let skipped = ended.stdout.matches("SKIPPED").count();
    ensure!(skipped == 0, "{skipped} tests skipped\n{}", ended.report());
    let passed = ended.stdout.matches(": OK").count();
    ensure!(passed >= 10, "{passed} tests\n{}", ended.report());
    Ok(())
}

/// Without sectors that fail there is nothing that a test of them could pass on.
fn failure() -> Outcome {
    let scratch = Image::zeroed(SCRATCH_BYTES as u64)?;
    let sound = Image::patterned(FAULTY_BYTES, 3)?;
    Iolite::program("usertests faulty_direct_read stat_of_disks")
        .disk(scratch.path())
        .disk(sound.path())
        .expect(3)?
        .says("test faulty_direct_read: FAILED: no sector of /dev/vdc fails")?
        .says("test stat_of_disks: OK")?
        .says("usertests: 1 passed, 1 failed")?;
    Ok(())
}
