//! The block server: what it serves is what the disk holds, to all its clients at once, and an error
//! is the error of those who asked. When it crashes its clients hear of it, the kernel takes the disk
//! back, and the next server serves again.

use crate::check::{self, Check, FAULTY, PAGE, SCRATCH, UNFLUSHED, equal, holds, refused, start};
use crate::ensure;
use crate::run::Test;
use alloc::vec;
use alloc::vec::Vec;
use iolite_user::core_logic::pattern;
use iolite_user::{
    BlockClient, Connector, Device, Ended, Errno, FOREVER, File, Finished, Listener,
};
use iolite_user::{Passing, Process, Result, port, sleep};

pub const TESTS: &[Test] = &[
    Test::disk("server_reads_what_the_disk_holds", reads),
    Test::disk("server_writes_what_the_disk_then_holds", writes),
    Test::disk("server_serves_many_requests_at_once", many_at_once),
    Test::disk("server_serves_more_than_the_ring_holds", more_than_the_ring),
    Test::disk("server_serves_several_clients", several_clients),
    Test::disk(
        "server_outlives_a_client_with_requests_in_flight",
        client_leaves,
    ),
    Test::disk("server_refuses_bad_requests", bad_requests),
    Test::disk("server_outlives_a_client_that_lies", lying_client),
    Test::disk("server_ends_with_its_last_client", ends),
    Test::disk("server_is_waited_for", waited_for),
    Test::faulty("server_passes_read_errors_on", read_errors),
    Test::faulty("server_passes_write_errors_on", write_errors),
    Test::unflushed("server_passes_flush_errors_on", flush_errors),
    Test::disk("server_crash_is_an_error_of_its_clients", crash),
    Test::disk("server_crash_gives_the_disk_back", crash_gives_back),
    Test::disk("server_starts_again", starts_again),
    Test::faulty("server_restarts_during_a_fault_storm", fault_storm),
];

const BLOCK: usize = 4096;
const SEED: u64 = 301;

/// A disk, and the port where it is served.
struct Service {
    device: Device,
    listener: Listener,
    connector: Connector,
}

impl Service {
    fn of(disk: &str) -> Result<Service> {
        let (listener, connector) = port()?;
        Ok(Service {
            device: Device::open(disk)?,
            listener,
            connector,
        })
    }

    fn start(&self, args: &[&str]) -> Result<Process> {
        let passing = self.listener.pass(self.device.pass(Passing::default()));
        let args = core::iter::once("block_server").chain(args.iter().copied());
        Process::spawn_with("bin/block_server", args, &passing)
    }

    fn client(&self, buffers: usize) -> Result<BlockClient> {
        BlockClient::connect(&self.connector, buffers, BLOCK)
    }

    /// Ends the service, whose clients are gone; its server has to end well.
    fn end(self, server: Process) -> Check {
        let Service {
            device,
            listener,
            connector,
        } = self;
        drop((listener, connector, device));
        equal("server", server.wait()?, Ended::Exited(0))
    }
}

/// Reads blocks `first..first + count`, as many at a time as the client has buffers, and checks that
/// each is the pattern of `seed`.
fn verify(client: &mut BlockClient, buffers: usize, seed: u64, first: u64, count: u64) -> Check {
    let mut block = vec![0; BLOCK];
    let mut next = first;
    let mut free: Vec<usize> = (0..buffers).collect();
    let mut left = count;
    while left > 0 {
        while next < first + count
            && let Some(buffer) = free.pop()
        {
            let user = next << 16 | buffer as u64;
            client.read(user, next * BLOCK as u64, buffer, BLOCK)?;
            next += 1;
        }
        for done in client.wait(1, FOREVER)? {
            equal("bytes read", done.result, Ok(BLOCK))?;
            let (index, buffer) = (done.user >> 16, done.user as usize & 0xffff);
            client.copy_from(buffer, &mut block);
            holds(&block, seed, index * BLOCK as u64)?;
            free.push(buffer);
            left -= 1;
        }
    }
    Ok(())
}

/// Does one request, and gives its result.
fn one(client: &mut BlockClient, submitted: Result<()>) -> Result<usize> {
    submitted?;
    let done = client.wait(1, FOREVER)?;
    done.first().ok_or(Errno::ENOENT)?.result
}

fn reads() -> Check {
    check::prepare(SEED, 0, 1 << 20)?;
    let service = Service::of(SCRATCH)?;
    let server = service.start(&[])?;
    let mut client = service.client(1)?;
    let info = client.info(FOREVER)?;
    ensure!(info.bytes >= 8 << 20 && !info.read_only, "{info:?}");
    verify(&mut client, 1, SEED, 0, 64)?;
    let counters = client.counters()?;
    equal("requests", counters.requests, 64)?;
    equal("in flight", counters.max_in_flight, 1)?;
    drop(client);
    service.end(server)
}

fn writes() -> Check {
    check::prepare(SEED, 0, 256 << 10)?;
    // The kernel has some of it in its cache when the server takes over.
    let mut page = vec![0; BLOCK];
    File::open(SCRATCH)?.pread_exact(&mut page, 0)?;
    let service = Service::of(SCRATCH)?;
    let server = service.start(&[])?;
    let mut client = service.client(8)?;
    for index in 0..64u64 {
        let buffer = index as usize % 8;
        pattern::fill(&mut page, SEED + 1, index * BLOCK as u64);
        client.copy_to(buffer, &page);
        let submitted = client.write(0, index * BLOCK as u64, buffer, BLOCK);
        equal("written", one(&mut client, submitted), Ok(BLOCK))?;
    }
    let submitted = client.flush(0);
    equal("flushed", one(&mut client, submitted), Ok(0))?;
    verify(&mut client, 8, SEED + 1, 0, 64)?;
    drop(client);
    service.end(server)?;
    // Through the cache: nothing of what it held is left.
    File::open(SCRATCH)?.pread_exact(&mut page, 0)?;
    holds(&page, SEED + 1, 0)?;
    check::disk_holds(SEED + 1, 0, 256 << 10)
}

fn many_at_once() -> Check {
    check::prepare(SEED, 0, 2 << 20)?;
    let service = Service::of(SCRATCH)?;
    let server = service.start(&[])?;
    let mut client = service.client(64)?;
    // All of them are submitted before the server looks.
    for index in 0..64 {
        client.read(index, index * BLOCK as u64, index as usize, BLOCK)?;
    }
    let done = client.wait(64, FOREVER)?;
    equal("done", done.len(), 64)?;
    let mut block = vec![0; BLOCK];
    for Finished { user, result } in done {
        equal("bytes", result, Ok(BLOCK))?;
        client.copy_from(user as usize, &mut block);
        holds(&block, SEED, user * BLOCK as u64)?;
    }
    verify(&mut client, 64, SEED, 0, 512)?;
    let most = client.counters()?.max_in_flight;
    // Not all of them: on a loaded host the server's turn comes before the last are submitted.
    ensure!((4..=64).contains(&most), "{most} in flight at most");
    drop(client);
    service.end(server)
}

fn more_than_the_ring() -> Check {
    check::prepare(SEED, 0, 2 << 20)?;
    let service = Service::of(SCRATCH)?;
    let server = service.start(&[])?;
    let most = BlockClient::MAX_PENDING;
    let mut client = service.client(most + 1)?;
    for index in 0..most {
        client.read(index as u64, index as u64 * BLOCK as u64, index, BLOCK)?;
    }
    refused("one more", client.read(0, 0, most, BLOCK), Errno::EAGAIN)?;
    equal("done", client.wait(most, FOREVER)?.len(), most)?;
    client.read(0, 0, most, BLOCK)?;
    equal("then", client.wait(1, FOREVER)?.len(), 1)?;
    drop(client);
    service.end(server)
}

/// Role: a client, by the connecting side of a port as descriptor 3, that reads `count` blocks.
pub fn be_client(seed: u64, first: u64, count: u64) -> Result<u8> {
    let connector = Connector::from_fd(3);
    let mut client = BlockClient::connect(&connector, 16, BLOCK)?;
    Ok(u8::from(
        verify(&mut client, 16, seed, first, count).is_err(),
    ))
}

/// Role: a client that goes with `count` reads in flight.
pub fn be_hasty_client(count: u64) -> Result<u8> {
    let connector = Connector::from_fd(3);
    let mut client = BlockClient::connect(&connector, count as usize, BLOCK)?;
    client.info(FOREVER)?;
    for index in 0..count {
        client.read(index, index * BLOCK as u64, index as usize, BLOCK)?;
    }
    client.notify();
    Ok(0)
}

fn start_client(service: &Service, role: &str, args: &[&str]) -> Result<Process> {
    let passing = service.connector.pass(Passing::default());
    let all = ["usertests", "--as", role].into_iter();
    Process::spawn_with(
        crate::run::PROGRAM,
        all.chain(args.iter().copied()),
        &passing,
    )
}

fn several_clients() -> Check {
    check::prepare(SEED, 0, 4 << 20)?;
    let service = Service::of(SCRATCH)?;
    let server = service.start(&[])?;
    let clients: Result<Vec<Process>> = ["0", "256", "512", "768"]
        .iter()
        .map(|first| start_client(&service, "client", &["301", first, "256"]))
        .collect();
    for client in clients? {
        equal("client", client.wait()?, Ended::Exited(0))?;
    }
    service.end(server)
}

fn client_leaves() -> Check {
    check::prepare(SEED, 0, 1 << 20)?;
    let service = Service::of(SCRATCH)?;
    let server = service.start(&[])?;
    let mut client = service.client(4)?;
    for _ in 0..4 {
        let hasty = start_client(&service, "hasty-client", &["64"])?;
        verify(&mut client, 4, SEED, 0, 64)?;
        equal("hasty", hasty.wait()?, Ended::Exited(0))?;
        verify(&mut client, 4, SEED, 64, 64)?;
    }
    drop(client);
    service.end(server)
}

fn bad_requests() -> Check {
    let service = Service::of(SCRATCH)?;
    let server = service.start(&[])?;
    let mut client = service.client(2)?;
    let end = client.info(FOREVER)?.bytes;
    for (offset, len, wanted) in [
        (1, BLOCK, Errno::EINVAL),
        (0, 100, Errno::EINVAL),
        (end, BLOCK, Errno::ENOSPC),
        (end - 512, 1024, Errno::ENOSPC),
        (u64::MAX - 511, 512, Errno::ENOSPC),
    ] {
        let submitted = client.read(0, offset, 0, len);
        refused("read", one(&mut client, submitted), wanted)?;
    }
    refused("no buffer", client.read(0, 0, 2, BLOCK), Errno::EINVAL)?;
    refused("too long", client.read(0, 0, 0, BLOCK + 512), Errno::EINVAL)?;
    let submitted = client.read(0, end - 512, 0, 512);
    equal("last sector", one(&mut client, submitted), Ok(512))?;
    drop(client);
    service.end(server)
}

/// A client that writes nonsense into the rings loses its connection; the others notice nothing.
fn lying_client() -> Check {
    check::prepare(SEED, 0, 256 << 10)?;
    let service = Service::of(SCRATCH)?;
    let server = service.start(&[])?;
    let mut client = service.client(4)?;
    verify(&mut client, 4, SEED, 0, 8)?;
    for submitted in [u64::MAX, 257, 1 << 40] {
        let liar = service.connector.connect(64 << 10)?;
        liar.words()[0].store(submitted, core::sync::atomic::Ordering::Release);
        liar.notify()?;
        let ready = loop {
            let ready = iolite_user::wait_events([&liar as &dyn iolite_user::Pollable], FOREVER)?;
            if ready[0].is_hung_up() {
                break ready;
            }
        };
        ensure!(ready[0].is_hung_up(), "still connected");
        verify(&mut client, 4, SEED, 0, 64)?;
    }
    // Too little memory for the rings.
    let small = service.connector.connect(512)?;
    let ready = iolite_user::wait_events([&small as &dyn iolite_user::Pollable], FOREVER)?;
    ensure!(
        ready[0].is_hung_up(),
        "a channel without room for the rings was accepted"
    );
    verify(&mut client, 4, SEED, 0, 64)?;
    drop((client, small));
    service.end(server)
}

fn ends() -> Check {
    let service = Service::of(SCRATCH)?;
    let server = service.start(&[])?;
    let first = service.client(1)?;
    let mut second = service.client(1)?;
    second.info(FOREVER)?;
    drop(first);
    let submitted = second.read(0, 0, 0, 512);
    equal("read", one(&mut second, submitted), Ok(512))?;
    drop(second);
    service.end(server)
}

/// Who connects before there is a server is served when it has come.
fn waited_for() -> Check {
    check::prepare(SEED, 0, 64 << 10)?;
    let service = Service::of(SCRATCH)?;
    let mut client = service.client(4)?;
    refused("yet", client.info(20_000_000), Errno::ETIMEDOUT)?;
    client.read(0, 0, 0, BLOCK)?;
    refused("read", client.wait(1, 20_000_000), Errno::ETIMEDOUT)?;
    let server = service.start(&[])?;
    equal("done", client.wait(1, FOREVER)?.len(), 1)?;
    verify(&mut client, 4, SEED, 0, 16)?;
    drop(client);
    service.end(server)
}

fn read_errors() -> Check {
    let service = Service::of(FAULTY)?;
    let server = service.start(&[])?;
    let mut client = service.client(16)?;
    let blocks = (client.info(FOREVER)?.bytes / BLOCK as u64).min(256);
    let mut failed = Vec::new();
    for first in (0..blocks).step_by(16) {
        for index in first..(first + 16).min(blocks) {
            let buffer = (index - first) as usize;
            client.read(index, index * BLOCK as u64, buffer, BLOCK)?;
        }
        while client.pending() > 0 {
            for done in client.wait(1, FOREVER)? {
                match done.result {
                    Ok(bytes) => equal("bytes", bytes, BLOCK)?,
                    Err(error) => {
                        equal("error", error, Errno::EIO)?;
                        failed.push(done.user);
                    }
                }
            }
        }
    }
    let errors = client.counters()?.errors;
    drop(client);
    service.end(server)?;
    // They are the ones that fail when the kernel reads.
    let disk = File::open_direct(FAULTY)?;
    let mut block = check::buffer(BLOCK)?;
    failed.sort_unstable();
    let kernel: Vec<u64> = (0..blocks)
        .filter(|index| disk.pread(&mut block, index * PAGE).is_err())
        .collect();
    equal("blocks that fail", &failed, &kernel)?;
    equal("counted", errors, failed.len() as u64)?;
    ensure!(!failed.is_empty(), "no sector of {FAULTY} fails");
    Ok(())
}

fn write_errors() -> Check {
    let service = Service::of(FAULTY)?;
    let server = service.start(&[])?;
    let mut client = service.client(1)?;
    let blocks = (client.info(FOREVER)?.bytes / BLOCK as u64).min(256);
    let mut failed = 0;
    for index in 0..blocks {
        let at = index * BLOCK as u64;
        let submitted = client.read(0, at, 0, BLOCK);
        if one(&mut client, submitted).is_err() {
            continue;
        }
        // What was read is written back: whatever happens, the disk holds what it did.
        let submitted = client.write(0, at, 0, BLOCK);
        match one(&mut client, submitted) {
            Ok(bytes) => equal("bytes", bytes, BLOCK)?,
            Err(error) => {
                equal("error", error, Errno::EIO)?;
                failed += 1;
            }
        }
    }
    drop(client);
    service.end(server)?;
    equal("writes that fail", failed, 1)
}

fn flush_errors() -> Check {
    let service = Service::of(UNFLUSHED)?;
    let server = service.start(&[])?;
    let mut client = service.client(1)?;
    let submitted = client.read(0, 0, 0, BLOCK);
    equal("read", one(&mut client, submitted), Ok(BLOCK))?;
    for _ in 0..2 {
        let submitted = client.flush(0);
        refused("flush", one(&mut client, submitted), Errno::EIO)?;
    }
    drop(client);
    service.end(server)
}

const CRASHED: Ended = Ended::Exited(101);

/// Submits until the server has gone, and checks that every request ends once. How many were served?
fn until_crash(
    client: &mut BlockClient,
    buffers: usize,
) -> core::result::Result<usize, check::Failure> {
    let (mut served, mut lost) = (0, 0);
    let mut free: Vec<u64> = (0..buffers as u64).collect();
    let mut submitted = 0;
    loop {
        while let Some(buffer) = free.pop() {
            match client.read(buffer, buffer * BLOCK as u64, buffer as usize, BLOCK) {
                Ok(()) => submitted += 1,
                Err(Errno::EPIPE) => {
                    equal("ended", served + lost + client.pending(), submitted)?;
                    return Ok(served);
                }
                Err(error) => return Err(error.into()),
            }
        }
        for done in client.wait(1, FOREVER)? {
            match done.result {
                Ok(bytes) => {
                    equal("bytes", bytes, BLOCK)?;
                    served += 1;
                }
                Err(error) => {
                    equal("error", error, Errno::EPIPE)?;
                    lost += 1;
                }
            }
            free.push(done.user);
        }
    }
}

fn crash() -> Check {
    check::prepare(SEED, 0, 256 << 10)?;
    let service = Service::of(SCRATCH)?;
    let server = service.start(&["--crash-after", "100"])?;
    let mut client = service.client(32)?;
    client.info(FOREVER)?;
    let served = until_crash(&mut client, 32)?;
    ensure!(served <= 100, "{served} served by a server that saw 100");
    ensure!(client.is_gone(), "not gone");
    refused("another", client.read(0, 0, 0, BLOCK), Errno::EPIPE)?;
    refused("counters", client.counters(), Errno::EPIPE)?;
    equal("server", server.wait()?, CRASHED)
}

/// The device is reset before anyone hears of the crash: nothing that was in flight changes memory
/// afterwards, the disk is the kernel's, and what was written before is there.
fn crash_gives_back() -> Check {
    check::prepare(SEED, 0, 256 << 10)?;
    let service = Service::of(SCRATCH)?;
    for _ in 0..3 {
        let server = service.start(&["--crash-after", "40"])?;
        let mut client = service.client(32)?;
        client.info(FOREVER)?;
        until_crash(&mut client, 32)?;
        let zeroes = vec![0; BLOCK];
        for buffer in 0..32 {
            client.copy_to(buffer, &zeroes);
        }
        sleep(2_000_000);
        let mut block = vec![1; BLOCK];
        for buffer in 0..32 {
            client.copy_from(buffer, &mut block);
            ensure!(
                block == zeroes,
                "buffer {buffer} was written to after the crash"
            );
        }
        equal("server", server.wait()?, CRASHED)?;
        check::disk_holds(SEED, 0, 256 << 10)?;
    }
    Ok(())
}

/// The port stays, and with it who connects to the next server.
fn starts_again() -> Check {
    check::prepare(SEED, 0, 512 << 10)?;
    let service = Service::of(SCRATCH)?;
    for crash_after in ["0", "1", "33", "100"] {
        let server = service.start(&["--crash-after", crash_after])?;
        let mut client = service.client(32)?;
        until_crash(&mut client, 32)?;
        equal("server", server.wait()?, CRASHED)?;
    }
    let server = service.start(&[])?;
    let mut client = service.client(32)?;
    verify(&mut client, 32, SEED, 0, 128)?;
    drop(client);
    service.end(server)
}

/// Role: touches pages of the faulty disk's sound part over and over, each time by a new mapping, as
/// many times as it is told.
pub fn storm(times: u64) -> Result<u8> {
    let disk = File::open(FAULTY)?;
    let size = disk.stat()?.size.min(256 << 10) as usize;
    let mut wanted = vec![0; size];
    disk.pread_exact(&mut wanted, 0)?;
    for _ in 0..times {
        let mapping = iolite_user::Mapping::of(&disk, 0, size)?;
        if mapping[..] != wanted[..] {
            return Ok(1);
        }
    }
    Ok(0)
}

fn fault_storm() -> Check {
    check::prepare(SEED, 0, 256 << 10)?;
    let service = Service::of(SCRATCH)?;
    let storm: Result<Vec<Process>> = (0..4).map(|_| start("storm", &["6"])).collect();
    let storm = storm?;
    for _ in 0..4 {
        let server = service.start(&["--crash-after", "64"])?;
        let mut client = service.client(16)?;
        until_crash(&mut client, 16)?;
        equal("server", server.wait()?, CRASHED)?;
    }
    let server = service.start(&[])?;
    let mut client = service.client(16)?;
    verify(&mut client, 16, SEED, 0, 64)?;
    for process in storm {
        equal("storm", process.wait()?, Ended::Exited(0))?;
    }
    drop(client);
    service.end(server)
}
