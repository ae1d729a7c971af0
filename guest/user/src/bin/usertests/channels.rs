//! Ports, channels and events: who is there, who is gone, and memory that two processes see.

use crate::check::{Check, equal, refused};
use crate::ensure;
use crate::raw;
use crate::run::{PROGRAM, Test};
use alloc::vec::Vec;
use core::sync::atomic::Ordering;
use iolite_user::abi::{
    FOREVER, MAX_CHANNEL_BYTES, MAX_EVENTS, MAX_FDS, MAX_PASSED, MAX_PENDING, NO_FD, Number, map,
    prot,
};
use iolite_user::{Channel, Connector, Ended, Errno, File, Instant, Passing, Pollable, Process};
use iolite_user::{Ready, Result, Thread, port, sleep, wait_events};

pub const TESTS: &[Test] = &[
    Test::plain("channel_memory_is_shared", memory),
    Test::plain("channel_notifies_both_ways", notifies),
    Test::plain("channel_between_processes", between_processes),
    Test::plain("channel_hangs_up", hangs_up),
    Test::plain("channel_memory_outlives_the_other_side", outlives),
    Test::plain("channel_mappings_are_checked", mappings),
    Test::plain("channel_lengths_are_checked", lengths),
    Test::plain("port_accepts_in_order", in_order),
    Test::plain("port_hangs_up", port_hangs_up),
    Test::plain("port_holds_a_bounded_number", bounded),
    Test::plain("port_without_descriptors_left", no_descriptors),
    Test::plain("events_come_to_the_right_waiter", right_waiter),
    Test::plain("events_time_out", time_out),
    Test::plain("events_of_what_has_none", none),
    Test::plain("descriptors_are_passed_on", passed_on),
    Test::plain("spawn_options_are_checked", spawn_options),
];

fn pair(bytes: usize) -> Result<(Channel, Channel)> {
    let (listener, connector) = port()?;
    let client = connector.connect(bytes)?;
    Ok((client, listener.accept()?))
}

fn poll(thing: &dyn Pollable) -> Result<Ready> {
    match wait_events([thing], 0) {
        Ok(ready) => Ok(ready[0]),
        Err(Errno::ETIMEDOUT) => Ok(Ready::default()),
        Err(error) => Err(error),
    }
}

fn memory() -> Check {
    let (client, server) = pair(3 * 4096 + 1)?;
    equal("length", (client.len(), server.len()), (16384, 16384))?;
    let zero = |channel: &Channel| {
        let words = channel.words();
        words.iter().all(|word| word.load(Ordering::Relaxed) == 0)
    };
    ensure!(
        zero(&client) && zero(&server),
        "memory is not zero at first"
    );
    client.words()[0].store(1, Ordering::Release);
    server.words()[2047].store(2, Ordering::Release);
    equal(
        "client to server",
        server.words()[0].load(Ordering::Acquire),
        1,
    )?;
    equal(
        "server to client",
        client.words()[2047].load(Ordering::Acquire),
        2,
    )
}

fn notifies() -> Check {
    let (client, server) = pair(4096)?;
    equal("at first", poll(&server)?, Ready::default())?;
    client.notify()?;
    client.notify()?;
    equal("own side", poll(&client)?, Ready::default())?;
    ensure!(poll(&server)?.has_event(), "the server was not told");
    equal("once", poll(&server)?, Ready::default())?;
    server.notify()?;
    ensure!(poll(&client)?.has_event(), "the client was not told");
    Ok(())
}

/// Role: connects by descriptor 3, and says every number it finds in the memory plus one, until it
/// is 0.
pub fn add_one() -> Result<u8> {
    let channel = Connector::from_fd(3).connect(4096)?;
    loop {
        wait_events([&channel as &dyn Pollable], FOREVER)?;
        match channel.words()[0].load(Ordering::Acquire) {
            0 => return Ok(0),
            value => channel.words()[1].store(value + 1, Ordering::Release),
        }
        channel.notify()?;
    }
}

fn start_with(connector: &Connector, role: &str) -> Result<Process> {
    let passing = connector.pass(Passing::default());
    Process::spawn_with(PROGRAM, ["usertests", "--as", role], &passing)
}

fn between_processes() -> Check {
    let (listener, connector) = port()?;
    let child = start_with(&connector, "add-one")?;
    ensure!(
        wait_events([&listener as &dyn Pollable], FOREVER)?[0].has_event(),
        "no client"
    );
    let channel = listener.accept()?;
    for value in 1..50 {
        channel.words()[0].store(value, Ordering::Release);
        channel.notify()?;
        wait_events([&channel as &dyn Pollable], FOREVER)?;
        equal(
            "answer",
            channel.words()[1].load(Ordering::Acquire),
            value + 1,
        )?;
    }
    channel.words()[0].store(0, Ordering::Release);
    channel.notify()?;
    equal("child", child.wait()?, Ended::Exited(0))?;
    ensure!(
        poll(&channel)?.is_hung_up(),
        "an ended process is still there"
    );
    refused("notify", channel.notify(), Errno::EPIPE)
}

fn hangs_up() -> Check {
    let (client, server) = pair(4096)?;
    server.notify()?;
    drop(server);
    let ready = poll(&client)?;
    ensure!(ready.has_event() && ready.is_hung_up(), "{ready:?}");
    // It stays gone.
    ensure!(poll(&client)?.is_hung_up(), "it came back");
    refused("notify", client.notify(), Errno::EPIPE)
}

fn outlives() -> Check {
    let (client, server) = pair(64 << 10)?;
    client.words()[8191].store(7, Ordering::Relaxed);
    drop(client);
    equal("word", server.words()[8191].load(Ordering::Relaxed), 7)?;
    server.words()[0].store(1, Ordering::Relaxed);
    Ok(())
}

fn mappings() -> Check {
    let (client, _server) = pair(2 * 4096)?;
    let mapped = |offset, len, rights, flags| {
        raw::call(Number::Mmap, &[client.fd(), offset, len, rights, flags])
    };
    let both = prot::READ | prot::WRITE;
    refused(
        "past the end",
        mapped(0, 3 * 4096, both, map::SHARED),
        Errno::EINVAL,
    )?;
    refused(
        "all past the end",
        mapped(8192, 4096, both, map::SHARED),
        Errno::EINVAL,
    )?;
    refused(
        "between pages",
        mapped(1, 4096, both, map::SHARED),
        Errno::EINVAL,
    )?;
    refused(
        "private",
        mapped(0, 4096, both, map::PRIVATE),
        Errno::ENODEV,
    )?;
    let run = prot::READ | prot::EXEC;
    refused(
        "executable",
        mapped(0, 4096, run, map::SHARED),
        Errno::ENODEV,
    )?;
    let second = mapped(4096, 4096, prot::READ, map::SHARED)?;
    client.words()[512].store(0x55, Ordering::Release);
    equal("second page", raw::peek(second), 0x55)?;
    raw::call(Number::Munmap, &[second, 4096])?;
    // A part of a mapping can go, too.
    let again = mapped(0, 8192, both, map::SHARED)?;
    raw::call(Number::Munmap, &[again, 4096])?;
    equal("what is left", raw::peek(again + 4096), 0x55)?;
    raw::call(Number::Munmap, &[again + 4096, 4096]).map(drop)?;
    Ok(())
}

fn lengths() -> Check {
    let (_listener, connector) = port()?;
    refused("nothing", connector.connect(0), Errno::EINVAL)?;
    let most = MAX_CHANNEL_BYTES as usize;
    refused("too much", connector.connect(most + 1), Errno::EINVAL)?;
    refused("far too much", connector.connect(usize::MAX), Errno::EINVAL)?;
    equal("the most", connector.connect(most)?.len(), most)
}

fn in_order() -> Check {
    let (listener, connector) = port()?;
    refused("nobody", listener.accept(), Errno::EAGAIN)?;
    let clients: Result<Vec<Channel>> = (0..4).map(|_| connector.connect(4096)).collect();
    let clients = clients?;
    for (index, client) in clients.iter().enumerate() {
        client.words()[0].store(index as u64, Ordering::Release);
    }
    for index in 0..4 {
        let server = listener.accept()?;
        equal("client", server.words()[0].load(Ordering::Acquire), index)?;
    }
    refused("nobody else", listener.accept(), Errno::EAGAIN)
}

fn port_hangs_up() -> Check {
    let (listener, connector) = port()?;
    let waiting = connector.connect(4096)?;
    drop(listener);
    ensure!(poll(&waiting)?.is_hung_up(), "nobody can accept any more");
    refused("connect", connector.connect(4096), Errno::EPIPE)?;
    let (listener, connector) = port()?;
    let client = connector.connect(4096)?;
    drop((connector, client));
    // Somebody was there: the listener finds a client that is gone, and then nobody.
    ensure!(poll(&listener)?.has_event(), "the client that came is lost");
    ensure!(
        poll(&listener.accept()?)?.is_hung_up(),
        "a client that is gone"
    );
    ensure!(poll(&listener)?.is_hung_up(), "nobody can connect any more");
    refused("accept", listener.accept(), Errno::EPIPE)
}

fn bounded() -> Check {
    let (listener, connector) = port()?;
    let waiting: Result<Vec<Channel>> = (0..MAX_PENDING).map(|_| connector.connect(4096)).collect();
    let waiting = waiting?;
    refused("one more", connector.connect(4096), Errno::EAGAIN)?;
    drop(listener.accept()?);
    drop(connector.connect(4096)?);
    drop(waiting);
    Ok(())
}

fn no_descriptors() -> Check {
    let (listener, connector) = port()?;
    let client = connector.connect(4096)?;
    client.words()[0].store(9, Ordering::Relaxed);
    let files: Vec<File> = core::iter::from_fn(|| File::open("bin/usertests").ok()).collect();
    equal("open", files.len(), MAX_FDS - 6)?;
    refused("accept", listener.accept(), Errno::EMFILE)?;
    refused("connect", connector.connect(4096), Errno::EMFILE)?;
    refused("port", port().map(drop), Errno::EMFILE)?;
    drop(files);
    // The client still waits, and nobody else.
    let server = listener.accept()?;
    equal("word", server.words()[0].load(Ordering::Relaxed), 9)?;
    refused("accept", listener.accept(), Errno::EAGAIN)
}

fn right_waiter() -> Check {
    let pairs: Result<Vec<(Channel, Channel)>> = (0..4).map(|_| pair(4096)).collect();
    let (clients, servers): (Vec<Channel>, Vec<Channel>) = pairs?.into_iter().unzip();
    let threads: Result<Vec<Thread<Result<u64>>>> = servers
        .into_iter()
        .map(|server| {
            Thread::spawn(move || {
                wait_events([&server as &dyn Pollable], FOREVER)?;
                Ok(server.words()[0].load(Ordering::Acquire))
            })
        })
        .collect();
    for (index, client) in clients.iter().enumerate().rev() {
        sleep(1_000_000);
        client.words()[0].store(10 + index as u64, Ordering::Release);
        client.notify()?;
    }
    for (index, thread) in threads?.into_iter().enumerate() {
        equal("thread", thread.join()??, 10 + index as u64)?;
    }
    Ok(())
}

fn time_out() -> Check {
    let (client, _server) = pair(4096)?;
    let started = Instant::now();
    refused(
        "wait",
        wait_events([&client as &dyn Pollable], 20_000_000),
        Errno::ETIMEDOUT,
    )?;
    let took = started.elapsed_ns();
    ensure!(took >= 20_000_000, "after {took} ns");
    refused(
        "poll",
        wait_events([&client as &dyn Pollable], 0),
        Errno::ETIMEDOUT,
    )
}

fn none() -> Check {
    let events = raw::pages(1)?;
    let wait = |address, count| raw::call(Number::WaitEvents, &[address, count, 0]);
    refused("no events", wait(events.address, 0), Errno::EINVAL)?;
    refused(
        "too many",
        wait(events.address, MAX_EVENTS as u64 + 1),
        Errno::EINVAL,
    )?;
    refused(
        "far too many",
        wait(events.address, u64::MAX),
        Errno::EINVAL,
    )?;
    refused("bad address", wait(raw::UNMAPPED, 1), Errno::EFAULT)?;
    refused("kernel's address", wait(raw::KERNEL, 1), Errno::EFAULT)?;
    // Descriptor 0 is the console.
    refused("console", wait(events.address, 1), Errno::ENODEV)?;
    raw::poke(events.address, 31);
    refused("closed", wait(events.address, 1), Errno::EBADF)?;
    for number in [Number::Connect, Number::Accept, Number::ChannelNotify] {
        refused("console", raw::call(number, &[0, 4096]), Errno::ENODEV)?;
        refused("closed", raw::call(number, &[31, 4096]), Errno::EBADF)?;
        refused("none", raw::call(number, &[NO_FD, 4096]), Errno::EBADF)?;
    }
    refused(
        "port",
        raw::call(Number::PortCreate, &[raw::UNMAPPED]),
        Errno::EFAULT,
    )?;
    refused(
        "port",
        raw::call(Number::PortCreate, &[raw::KERNEL]),
        Errno::EFAULT,
    )?;
    let (listener, connector) = port()?;
    refused(
        "read",
        raw::call(Number::Read, &[listener.fd(), events.address, 1]),
        Errno::ENODEV,
    )?;
    refused(
        "accept",
        raw::call(Number::Accept, &[connector.fd()]),
        Errno::ENODEV,
    )?;
    refused(
        "connect",
        raw::call(Number::Connect, &[listener.fd(), 4096]),
        Errno::ENODEV,
    )
}

/// Role: has descriptors 3 to 5 and no others: a port's connecting side twice, and a file.
pub fn has_three() -> Result<u8> {
    let kinds: Vec<Result<u64>> = (3..7)
        .map(|fd| {
            let stat = raw::pages(1)?;
            raw::call(Number::Stat, &[fd, stat.address])
        })
        .collect();
    let there = kinds.iter().map(Result::is_ok);
    Ok(u8::from(!there.eq([true, true, true, false])))
}

fn passed_on() -> Check {
    let (listener, connector) = port()?;
    let passing = connector.pass(connector.pass(Passing::default()));
    let system = File::open("bin/usertests")?;
    let passing = system.pass(passing);
    let child = Process::spawn_with(PROGRAM, ["usertests", "--as", "has-three"], &passing)?;
    drop(connector);
    // The child has the only connecting sides left; when it has ended nobody can connect.
    equal("child", child.wait()?, Ended::Exited(0))?;
    ensure!(
        poll(&listener)?.is_hung_up(),
        "a process that has ended can connect"
    );
    Ok(())
}

fn spawn_options() -> Check {
    let args = b"usertests\0--as\0exit\0".as_slice();
    let memory = raw::pages(1)?;
    memory.write(0, args);
    memory.write(100, PROGRAM.as_bytes());
    let spawn = |options| {
        let path = memory.address + 100;
        let (path_len, args_len) = (PROGRAM.len() as u64, args.len() as u64);
        let all = [path, path_len, memory.address, args_len, options];
        raw::call(Number::Spawn, &all)
    };
    refused("unmapped", spawn(raw::UNMAPPED), Errno::EFAULT)?;
    refused("kernel's", spawn(raw::KERNEL), Errno::EFAULT)?;
    let options = memory.address + 512;
    let count_at = 4 * MAX_PASSED;
    memory.write(512 + count_at, &[MAX_PASSED as u8 + 1]);
    refused("too many", spawn(options), Errno::EINVAL)?;
    memory.write(512 + count_at, &[1]);
    memory.write(512, &[31]);
    refused("closed", spawn(options), Errno::EBADF)?;
    memory.write(512, &[0]);
    let child = spawn(options)?;
    equal("child", raw::call(Number::Wait, &[child])?, 0)
}
