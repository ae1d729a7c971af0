//! The path through a block server: this process starts it, hands it the device and the accepting
//! side of a port, and is its client.

use crate::options::Options;
use crate::pass::Pass;
use alloc::vec;
use alloc::vec::Vec;
use iolite_user::abi::MAX_CHANNEL_BYTES;
use iolite_user::core_logic::block_channel::{BUFFERS_AT, SLOTS};
use iolite_user::core_logic::report::{PathKind, PathReport};
use iolite_user::{BlockClient, Connector, Device, DiskStats, Errno, FOREVER, Instant, PAGE_BYTES};
use iolite_user::{Passing, Process, Result, port};

const PROGRAM: &str = "bin/block_server";
/// Which part of the reads in flight is waited for before the next ones are submitted.
const BATCHES: usize = 4;

/// Reads the disk.
///
/// # Errors
///
/// What the server, the disk or the kernel says.
pub fn run(path: &'static PathKind, options: &Options) -> Result<PathReport<'static>> {
    let device = Device::open(options.disk)?;
    let (server, connector) = start_server(&device)?;
    let mut pass = Pass::start(path, &device)?;
    let in_flight = options.in_flight.min(SLOTS);
    let block = block_bytes(&pass, in_flight);
    let mut client = BlockClient::connect(&connector, in_flight, block)?;
    // The clock starts when the server is there, as it does when the kernel has opened a disk.
    client.info(FOREVER)?;
    pass.restart()?;
    read_many(&mut pass, &mut client, in_flight, block)?;
    let seen = device.disk_stats()?;
    let counted = client.counters()?;
    drop((client, connector));
    let stats = DiskStats {
        reads: counted.requests,
        max_in_flight: counted.max_in_flight,
        ..seen
    };
    let report = pass.report_of(&stats);
    server.wait()?;
    Ok(report)
}

fn start_server(device: &Device) -> Result<(Process, Connector)> {
    let (listener, connector) = port()?;
    let passing = listener.pass(device.pass(Passing::default()));
    let server = Process::spawn_with(PROGRAM, ["block_server"], &passing)?;
    Ok((server, connector))
}

/// The blocks that are in flight together have to fit into a channel.
fn block_bytes(pass: &Pass, in_flight: usize) -> usize {
    let most = (MAX_CHANNEL_BYTES as usize - BUFFERS_AT) / in_flight;
    let whole_pages = most - most % PAGE_BYTES;
    pass.block_bytes().min(whole_pages)
}

/// A block of the disk on its way: block `n` has place and buffer `n % in_flight`.
struct Place {
    asked: Instant,
    len: usize,
    here: bool,
}

/// Has up to `in_flight` reads in flight, and hashes in order what has come.
fn read_many(
    pass: &mut Pass,
    client: &mut BlockClient,
    in_flight: usize,
    block: usize,
) -> Result<()> {
    let mut bytes = vec![0; block];
    let mut places: Vec<Place> = Vec::new();
    let mut asked_for = 0;
    while pass.hashed < pass.size {
        while asked_for < pass.size && asked_for - pass.hashed < (in_flight * block) as u64 {
            let len = (pass.size - asked_for).min(block as u64) as usize;
            let at = (asked_for / block as u64) as usize % in_flight;
            let place = Place {
                asked: Instant::now(),
                len,
                here: false,
            };
            client.read(at as u64, asked_for, at, len)?;
            match places.get_mut(at) {
                Some(old) => *old = place,
                None => places.push(place),
            }
            asked_for += len as u64;
        }
        for done in client.wait((in_flight / BATCHES).max(1), FOREVER)? {
            let place = places.get_mut(done.user as usize).ok_or(Errno::EIO)?;
            if done.result? != place.len {
                return Err(Errno::EIO);
            }
            place.here = true;
            pass.ended(place.asked);
        }
        loop {
            let at = (pass.hashed / block as u64) as usize % in_flight;
            let Some(place) = places.get_mut(at).filter(|place| place.here) else {
                break;
            };
            place.here = false;
            client.copy_from(at, &mut bytes[..place.len]);
            pass.take(&bytes[..place.len]);
        }
    }
    Ok(())
}
