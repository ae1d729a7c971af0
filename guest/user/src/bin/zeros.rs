#![no_std]
#![no_main]
//! `zeros DISK`: how many bytes of a disk are zero. Eight reads are in flight while it counts.

use iolite_user::{Args, AsyncIo, Buffer, Errno, FOREVER, File, Result, entry, println};

const BLOCK: usize = 64 << 10;

entry!(main);

fn main(mut args: Args) -> Result<()> {
    let disk = File::open_direct(args.next().ok_or(Errno::EINVAL)?)?;
    let size = disk.stat()?.size;
    let mut io = AsyncIo::new()?;
    let mut spare = Buffer::many(8, BLOCK)?;
    let (mut asked, mut zeros) = (0, 0);
    while asked < size || io.pending() > 0 {
        while asked < size
            && let Some(buffer) = spare.pop()
        {
            let len = (size - asked).min(BLOCK as u64) as usize;
            io.read(&disk, asked, buffer, len);
            asked += len as u64;
        }
        for done in io.wait(1, FOREVER)? {
            let (len, buffer) = (done.result?, done.buffer.ok_or(Errno::EIO)?);
            zeros += buffer[..len].iter().filter(|byte| **byte == 0).count();
            spare.push(buffer);
        }
    }
    println!("{zeros} of {size} bytes are zero");
    Ok(())
}
