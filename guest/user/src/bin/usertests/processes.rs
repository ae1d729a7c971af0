//! Processes: starting, ending, waiting.

use crate::check::{Check, end_of, equal, refused, start};
use crate::ensure;
use crate::raw;
use crate::run::{PROGRAM, Test};
use alloc::vec::Vec;
use iolite_user::abi::{ARGS_BYTES, Number};
use iolite_user::{Ended, Errno, Instant, Process, cpu_stats, sleep};

pub const TESTS: &[Test] = &[
    Test::plain("exit_statuses", exit_statuses),
    Test::plain("arguments_arrive", arguments_arrive),
    Test::plain("arguments_up_to_the_limit", arguments_limit),
    Test::plain("spawn_what_is_no_program", spawn_what_is_no_program),
    Test::plain("wait_for_wrong_processes", wait_for_wrong_processes),
    Test::plain("wait_blocks_until_the_end", wait_blocks),
    Test::plain("children_end_in_any_order", children_end_in_any_order),
    Test::plain("orphans_leave_nothing", orphans_leave_nothing),
    Test::disk("exit_ends_every_thread", exit_ends_every_thread),
    Test::plain("process_ids_differ", process_ids_differ),
    Test::plain("too_many_processes", too_many_processes).slow(),
    Test::plain("processes_one_after_another", one_after_another).slow(),
];

/// What the role `arguments` has to be given.
pub const ARGUMENTS: &[&str] = &["one", "", "two words", "-x=1", "\u{e4}\u{20ac}\u{1f40c}"];

fn exit_statuses() -> Check {
    for status in ["0", "1", "7", "101", "255"] {
        let wanted = status.parse().unwrap_or(0);
        equal("ended", end_of("exit", &[status])?, Ended::Exited(wanted))?;
    }
    // The low 8 bits of what the calls are given.
    for (role, status, wanted) in [
        ("raw-exit", "0x1234", 0x34),
        ("raw-exit", "256", 0),
        ("thread-exit", "0x105", 5),
    ] {
        equal("ended", end_of(role, &[status])?, Ended::Exited(wanted))?;
    }
    Ok(())
}

fn arguments_arrive() -> Check {
    equal("ended", end_of("arguments", ARGUMENTS)?, Ended::Exited(0))?;
    equal(
        "ended",
        end_of("arguments", &ARGUMENTS[1..])?,
        Ended::Exited(1),
    )
}

fn arguments_limit() -> Check {
    let spawn = |len: usize| -> Result<u64, Errno> {
        let mut args = Vec::from(*b"usertests\0--as\0exit\x00005\0");
        args.resize(len, b'x');
        args[len - 1] = 0;
        let path = (PROGRAM.as_ptr() as u64, PROGRAM.len() as u64);
        raw::call(
            Number::Spawn,
            &[path.0, path.1, args.as_ptr() as u64, len as u64],
        )
    };
    for len in [64, ARGS_BYTES - 1, ARGS_BYTES] {
        let child = spawn(len)?;
        let ended = Ended::from_raw(raw::call(Number::Wait, &[child])?);
        equal("ended", ended, Ended::Exited(5))?;
    }
    for len in [ARGS_BYTES + 1, 1 << 20] {
        refused("spawn", spawn(len), Errno::E2BIG)?;
    }
    let path = (PROGRAM.as_ptr() as u64, PROGRAM.len() as u64);
    let huge = raw::call(Number::Spawn, &[path.0, path.1, path.0, u64::MAX]);
    refused("spawn", huge, Errno::E2BIG)
}

fn spawn_what_is_no_program() -> Check {
    let args = ["x"];
    for path in ["", "bin/nothing", "nothing", "/dev/vda", "bin"] {
        refused(path, Process::spawn(path, args), Errno::ENOENT)?;
    }
    refused("motd", Process::spawn("etc/motd", args), Errno::ENOEXEC)
}

fn wait_for_wrong_processes() -> Check {
    let own = raw::call(Number::ProcessId, &[])?;
    for id in [0, 1, own, 200, 257, 1 << 16, 1 << 32, u64::MAX] {
        refused("wait", raw::call(Number::Wait, &[id]), Errno::ECHILD)?;
    }
    // Once is enough.
    let args = b"usertests\0--as\0exit\x00003\0";
    let child = raw::call(
        Number::Spawn,
        &[
            PROGRAM.as_ptr() as u64,
            PROGRAM.len() as u64,
            args.as_ptr() as u64,
            args.len() as u64,
        ],
    )?;
    equal("status", raw::call(Number::Wait, &[child])?, 3)?;
    refused("again", raw::call(Number::Wait, &[child]), Errno::ECHILD)
}

fn wait_blocks() -> Check {
    let start_time = Instant::now();
    let child = start("sleep", &["30000000"])?;
    equal("ended", child.wait()?, Ended::Exited(0))?;
    ensure!(start_time.elapsed_ns() >= 30_000_000, "too early");
    // One that has ended long ago is waited for as well.
    let child = start("exit", &["9"])?;
    sleep(50_000_000);
    equal("ended", child.wait()?, Ended::Exited(9))
}

fn children_end_in_any_order() -> Check {
    let children: Vec<_> = [("30000000", 0), ("1", 0), ("10000000", 0)]
        .into_iter()
        .map(|(time, status)| Ok((start("sleep", &[time])?, status)))
        .collect::<Result<_, Errno>>()?;
    let quick = start("exit", &["4"])?;
    for (child, status) in children.into_iter().rev() {
        equal("ended", child.wait()?, Ended::Exited(status))?;
    }
    equal("ended", quick.wait()?, Ended::Exited(4))
}

fn orphans_leave_nothing() -> Check {
    let before = cpu_stats()?.processes;
    equal("ended", end_of("orphans", &["10"])?, Ended::Exited(0))?;
    for _ in 0..200 {
        if cpu_stats()?.processes == before {
            return Ok(());
        }
        sleep(10_000_000);
    }
    equal("processes", cpu_stats()?.processes, before)
}

fn exit_ends_every_thread() -> Check {
    for status in ["0", "33"] {
        let wanted = Ended::Exited(status.parse().unwrap_or(0));
        equal(
            "with a spinner",
            end_of("spinner-and-exit", &[status])?,
            wanted,
        )?;
        equal(
            "with sleepers",
            end_of("sleepers-and-exit", &[status])?,
            wanted,
        )?;
    }
    Ok(())
}

fn process_ids_differ() -> Check {
    let own = raw::call(Number::ProcessId, &[])?;
    ensure!(own > 1, "a child is process {own}");
    equal("again", raw::call(Number::ProcessId, &[])?, own)
}

fn too_many_processes() -> Check {
    let mut children = Vec::new();
    let error = loop {
        match start("sleep", &["2000000000"]) {
            Ok(child) => children.push(child),
            Err(error) => break error,
        }
        ensure!(children.len() < 1000, "no end of processes");
    };
    ensure!(
        matches!(error, Errno::EAGAIN | Errno::ENOMEM),
        "{error:?} after {} processes",
        children.len()
    );
    ensure!(children.len() >= 100, "{} processes", children.len());
    for child in children {
        equal("ended", child.wait()?, Ended::Exited(0))?;
    }
    equal("ended", end_of("exit", &["0"])?, Ended::Exited(0))
}

fn one_after_another() -> Check {
    for round in 0..300 {
        let status = round % 256;
        let text = alloc::format!("{status}");
        let ended = end_of("exit", &[&text])?;
        equal("ended", ended, Ended::Exited(status as u8))?;
    }
    Ok(())
}
