//! The keys of a disk for `--help`; docs/disks.md says more.

/// What `--help` says of a disk, in lines that fit 80 columns with clap's indentation.
pub const HELP: &str = "\
A disk and its keys; repeat for more. PATH is a raw image or a block
device; mem:SIZE, a disk in memory, all zeros at first; or null:SIZE,
which reads as zeros and forgets writes. A comma in PATH is written
twice. SIGUSR1 tells the guest about images that have grown

readonly, ro     refuse writes
direct           bypass the host's page cache (O_DIRECT)
cache=MODE       when writes are durable. writeback: after a flush, or
                 at once for a guest that cannot flush; writethrough:
                 at once; unsafe: flushes do nothing (writeback)
block-size=N     logical block size, 512 or 4096 (512)
engine=NAME      what carries out requests that have to wait: pool,
                 worker threads; uring, io_uring; sync, the queue's
                 own thread (pool; with direct uring, where possible)
queues=N         queues, 1 to 16, each with threads of its own, for a
                 guest that uses more than one (1)
workers=N        worker threads for each queue, 1 to 64 (4)
queue-size=N     entries of each queue, a power of 2, 4 to 1024 (256)
poll=TIME        the longest time that a queue's thread looks for the
                 next request before it sleeps, or off (50us)
mmap=SIZE        how much of the image is mapped at once at most, to
                 be read without system calls, or off (1G)
id=TEXT          the identification that the guest reads (its name)
path=PATH        the path, if it is not the first item
iops=N[:BURST]   at most N requests a second; after a rest, BURST may
                 come at once (a tenth of N)
bandwidth=SIZE[:BURST]
                 the same for bytes read and written, like 100M
latency=TIME     each request takes at least this time, like 2ms or
                 50us, or a random time of a range like 1ms-3ms
fail=OP[:WHICH]  requests fail with an I/O error and do nothing;
                 repeat for more. OP is read, write, discard or flush;
                 WHICH is SECTOR or FIRST-LAST (of 512 bytes, not for
                 flush), every:N (the N-th, 2N-th, ...) or P% (each by
                 chance); without it, all of them
seed=N           another series of random latencies and failures (0)

Example: -d disk.img,ro,latency=2ms,fail=read:1000-1007,fail=read:0.1%";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::DiskSpec;

    #[test]
    fn every_key_is_there_and_80_columns_are_enough() {
        let mistake = "x,none".parse::<DiskSpec>().unwrap_err().to_string();
        let (_, keys) = mistake.split_once("known are ").unwrap();
        for key in keys
            .split([' ', ',', '(', ')'])
            .filter(|key| !key.is_empty() && *key != "and")
        {
            assert!(HELP.contains(key), "{key}");
        }
        // clap indents it by ten.
        assert!(HELP.lines().all(|line| line.len() <= 70));
    }
}
