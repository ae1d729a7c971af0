#![no_std]
#![no_main]
//! `ls`: lists the disks and the files of the system disk.

use iolite_user::{Args, File, Result, disks, entry, id_of, name_of, println, system_files};

entry!(main);

fn main(_args: Args) -> Result<()> {
    for path in disks() {
        let stat = File::open(path.as_str())?.stat()?;
        let access = if stat.read_only == 0 {
            "read-write"
        } else {
            "read-only"
        };
        println!("{:>12}  {path}  {access}  {}", stat.size, id_of(&stat));
    }
    for entry in system_files() {
        let entry = entry?;
        println!("{:>12}  {}", entry.size, name_of(&entry));
    }
    Ok(())
}
