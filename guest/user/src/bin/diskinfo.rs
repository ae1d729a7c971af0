#![no_std]
#![no_main]
//! `diskinfo [DISK...]`: what is known of each disk (of all disks, if none is named), and what its
//! driver and the pager have counted.

extern crate alloc;

use alloc::format;
use alloc::string::String;
use iolite_user::{Args, DiskStats, File, Result, disks, entry, id_of, println};

entry!(main);

fn main(mut args: Args) -> core::result::Result<(), String> {
    if args.clone().next().is_some() {
        args.try_for_each(show)
    } else {
        disks().try_for_each(|path| show(path.as_str()))
    }
}

fn show(path: &str) -> core::result::Result<(), String> {
    describe(path).map_err(|error| format!("{path}: {error}"))
}

fn describe(path: &str) -> Result<()> {
    let disk = File::open(path)?;
    let stat = disk.stat()?;
    let DiskStats {
        reads,
        read_bytes,
        writes,
        written_bytes,
        flushes,
        errors,
        in_flight,
        max_in_flight,
        notifications,
        interrupts,
        major_faults,
        minor_faults,
        pages_read_ahead,
        pages_written_back,
        pages_evicted,
        in_flight_ticks,
        work_ticks,
    } = disk.disk_stats()?;
    let access = if stat.read_only == 0 {
        "read-write"
    } else {
        "read-only"
    };
    println!(
        "{path}: {} bytes, {} sectors, {access}, id '{}'",
        stat.size,
        stat.size / 512,
        id_of(&stat)
    );
    println!(
        "  requests: {reads} reads ({read_bytes} bytes), {writes} writes \
        ({written_bytes} bytes), {flushes} flushes, {errors} failed"
    );
    println!(
        "  in flight: {in_flight} now, {max_in_flight} at most; \
        {in_flight_ticks} ticks, {work_ticks} of them with a program running"
    );
    println!("  notifications: {notifications} available buffer, {interrupts} used buffer");
    println!(
        "  pager: {major_faults} major faults, {minor_faults} minor faults, pages: \
        {pages_read_ahead} read ahead, {pages_written_back} written back, {pages_evicted} evicted"
    );
    Ok(())
}
