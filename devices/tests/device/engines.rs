//! Everything here once more with the other engines: each test of this file runs the whole program
//! again, with the engine in the environment.

use std::process::Command;

/// Says which engine the disks of a run get.
pub const VARIABLE: &str = "IOLITE_TEST_ENGINE";

/// Who pulls is another one.
const OF_WORKERS_THAT_PULL: &[&str] = &["nothing_is_popped_that_cannot_be_started"];

/// These want several requests with the backend at once, or a look at the ring meanwhile.
const OF_WORKERS: &[&str] = &[
    "requests_complete_in_any_order",
    "nothing_is_popped_that_cannot_be_started",
    "as_many_workers_run_as_there_is_work_for",
    "a_later_request_does_not_wait_for_a_slow_one",
    "an_interrupt_does_not_wait_for_a_slow_request",
    "row_33_a_head_that_is_in_flight",
];

fn run_all_with(engine: &str, without: &[&str]) {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.env(VARIABLE, engine).args(["--skip", "engines::"]);
    for name in without {
        command.args(["--skip", name]);
    }
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}");
    let passed = |line: &&str| line.ends_with("... ok");
    assert!(said.lines().filter(passed).count() > 100, "{said}");
}

#[test]
fn all_rows_hold_with_io_uring() {
    run_all_with("uring", OF_WORKERS_THAT_PULL);
}

#[test]
fn all_rows_hold_with_the_queue_thread_alone() {
    run_all_with("sync", OF_WORKERS);
}
