//! Images on an overlayfs.

use std::fs;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use iolite_devices::block::backend::file::FileBackend;
use iolite_devices::block::engine::Kind as Engine;
use iolite_devices::virtio::blk::BlockConfig;
use iolite_devices_abi::blk::*;

use super::driver::*;
use super::scenario::Overlay;

/// The file system of most containers replaces a file that is opened for writing by a copy.
pub fn an_image_that_is_copied_under_a_reader(engine: Engine) -> io::Result<()> {
    let overlay = Overlay::new(&pattern(64 * 512))?;
    let config = BlockConfig {
        engine: Some(engine),
        ..config()
    };
    let backend = Arc::new(FileBackend::open(&overlay.image(), true).unwrap());
    let mut driver = Driver::live_with(backend, config, FEATURES | F_RO);
    // Often enough to be read from a mapping.
    for _ in 0..100 {
        assert_eq!(driver.request(T_IN, 20, &[w(DATA, 512)]), (S_OK, 513));
    }
    assert_eq!(driver.bytes(DATA, 512), pattern(21 * 512)[20 * 512..]);
    let other = fs::File::options().write(true).open(overlay.image());
    other.unwrap().write_all_at(&[0x5a; 512], 20 * 512).unwrap();
    for len in [512, 20 * 512] {
        let answer = driver.request(T_IN, 20, &[w(DATA, len)]);
        assert_eq!(answer, (S_OK, len + 1));
        assert_eq!(driver.bytes(DATA, 512), [0x5a; 512]);
    }
    Ok(())
}
