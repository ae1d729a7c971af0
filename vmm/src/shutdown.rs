//! The end of a machine's disks, each on a thread of its own: one that fails or hangs keeps no other from
//! its last flush.

use std::io;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use crate::error::Error;
use crate::vm::Disk;
use crate::{panics, unflushed};

/// How long the end waits for disks before it says so.
const SILENCE: Duration = Duration::from_secs(5);
/// How long it waits in all: as long as Linux does before it calls a task hung.
const PATIENCE: Duration = Duration::from_secs(120);

/// Drains, flushes and ends all disks. Those that hang are left behind after a while.
///
/// # Errors
/// If a disk could not be flushed.
pub fn disks(disks: &[Disk]) -> Result<(), Error> {
    disks_within(PATIENCE, disks)
}

fn disks_within(patience: Duration, disks: &[Disk]) -> Result<(), Error> {
    let began = Instant::now();
    let (done, ends) = mpsc::channel();
    for (number, disk) in disks.iter().enumerate() {
        let (device, tell) = (disk.device.clone(), done.clone());
        // Nobody hears of it who does not wait any more.
        let end = move || drop(tell.send((number, device.shutdown())));
        let thread = thread::Builder::new().name(format!("{}-end", disk.name));
        if thread.spawn(panics::telling(end)).is_err() {
            let _ = done.send((number, disk.device.shutdown()));
        }
    }
    let mut hanging: Vec<usize> = (0..disks.len()).collect();
    let mut failures = Vec::new();
    let mut silent = true;
    while !hanging.is_empty() {
        let limit = if silent {
            SILENCE.min(patience)
        } else {
            patience
        };
        match ends.recv_timeout(limit.saturating_sub(began.elapsed())) {
            Ok((number, end)) => {
                hanging.retain(|other| *other != number);
                unflushed::remove(number);
                failures.extend(end.err().map(not_flushed(&disks[number])));
                log::debug!(
                    "{}: {:?}",
                    disks[number].name,
                    disks[number].device.counters()
                );
            }
            Err(_) if limit < patience => {
                silent = false;
                for disk in hanging.iter().map(|number| &disks[*number]) {
                    log::warn!("{}: not flushed yet; a signal ends the waiting", disk.name);
                }
            }
            Err(_) => break,
        }
    }
    for number in hanging {
        unflushed::remove(number);
        let late = io::Error::other(format!("the host has not done it in {patience:?}"));
        failures.push(not_flushed(&disks[number])(late));
    }
    let mut failures = failures.into_iter();
    let first = failures.next();
    failures.for_each(|error| log::error!("{error}"));
    first.map_or(Ok(()), Err)
}

fn not_flushed(disk: &Disk) -> impl FnOnce(io::Error) -> Error {
    Error::host(format!(
        "disk {}: not flushed, its last writes may be lost",
        disk.name
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

    use iolite_devices::block::backend::Backend;
    use iolite_devices::block::buffers::GuestBuffers;
    use iolite_devices::interrupt::Interrupt;
    use iolite_devices::virtio::blk::{BlockConfig, BlockDevice};
    use vm_memory::{GuestAddress, GuestMemoryMmap};

    /// What becomes of a flush.
    enum Flush {
        Done(AtomicBool),
        Fails,
        Hangs,
    }

    impl Backend for Flush {
        fn capacity(&self) -> u64 {
            1 << 20
        }

        fn read_only(&self) -> bool {
            false
        }

        fn read(&self, _: u64, _: &GuestBuffers) -> io::Result<()> {
            Ok(())
        }

        fn write(&self, _: u64, _: &GuestBuffers) -> io::Result<()> {
            Ok(())
        }

        fn write_zeroes(&self, _: u64, _: u64, _: bool) -> io::Result<()> {
            Ok(())
        }

        fn flush(&self) -> io::Result<()> {
            match self {
                Flush::Done(done) => done.store(true, SeqCst),
                Flush::Fails => return Err(io::Error::other("on purpose")),
                Flush::Hangs => loop {
                    thread::park();
                },
            }
            Ok(())
        }
    }

    struct Nobody;

    impl Interrupt for Nobody {
        fn trigger(&self) -> io::Result<()> {
            Ok(())
        }
    }

    fn disk(name: &str, flush: &Arc<Flush>) -> Disk {
        let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 1 << 16)]).unwrap();
        let config = BlockConfig::new(name);
        let (memory, flush) = (Arc::new(memory), flush.clone());
        let disk = BlockDevice::on_mmio(memory, flush, config, Arc::new(Nobody)).unwrap();
        Disk {
            name: name.into(),
            device: Arc::new(disk.device),
            writable: true,
        }
    }

    #[test]
    fn a_disk_that_hangs_or_fails_keeps_no_other_from_its_flush() {
        let flushed = || Arc::new(Flush::Done(AtomicBool::new(false)));
        let (first, last) = (flushed(), flushed());
        let end = disks_within(
            Duration::from_secs(2),
            &[
                disk("vda", &first),
                disk("vdb", &Arc::new(Flush::Hangs)),
                disk("vdc", &Arc::new(Flush::Fails)),
                disk("vdd", &last),
            ],
        );
        let text = end.unwrap_err().to_string();
        assert!(text.contains("disk vdc: not flushed"), "{text}");
        for disk in [first, last] {
            assert!(matches!(&*disk, Flush::Done(done) if done.load(SeqCst)));
        }
        let end = disks_within(
            Duration::from_millis(100),
            &[disk("vdb", &Arc::new(Flush::Hangs))],
        );
        let text = end.unwrap_err().to_string();
        assert!(text.contains("disk vdb: not flushed") && text.contains("100ms"));
    }
}
