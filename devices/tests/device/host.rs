//! The host's side: image files and what can go wrong with them.

use std::fs;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::Duration;

use iolite_devices::block::backend::OpenError;
use iolite_devices::block::backend::file::FileBackend;
use iolite_devices::block::engine::Kind as Engine;
use iolite_devices::virtio::blk::BlockConfig;
use iolite_devices_abi::blk::*;
use tempfile::NamedTempFile;

use super::driver::*;

fn image(bytes: &[u8]) -> NamedTempFile {
    let file = NamedTempFile::new().unwrap();
    fs::write(file.path(), bytes).unwrap();
    file
}

fn open(file: &NamedTempFile, read_only: bool) -> Result<FileBackend, OpenError> {
    FileBackend::open(file.path(), read_only)
}

fn driver_of(file: &NamedTempFile) -> Driver {
    Driver::live_with(Arc::new(open(file, false).unwrap()), config(), FEATURES)
}

#[test]
fn reads_and_writes_reach_the_file() {
    let file = image(&pattern(64 * 512));
    let mut driver = driver_of(&file);
    assert_eq!(
        driver.request(T_IN, 7, &[w(DATA, 100), w(DATA + 100, 924)]),
        (S_OK, 1025)
    );
    assert_eq!(
        driver.bytes(DATA, 1024),
        pattern(64 * 512)[7 * 512..9 * 512]
    );
    driver.memory_fill(DATA, 1024, 0x5a);
    assert_eq!(driver.request(T_OUT, 1, &[r(DATA, 1024)]), (S_OK, 1));
    assert_eq!(driver.request(T_FLUSH, 0, &[]), (S_OK, 1));
    let content = fs::read(file.path()).unwrap();
    assert_eq!(content[512..1536], [0x5a; 1024]);
    assert_eq!(content[1536..], pattern(64 * 512)[1536..]);
}

#[test]
fn each_reason_why_an_image_cannot_be_used_is_told() {
    let directory = tempfile::tempdir().unwrap();
    let missing = directory.path().join("missing");
    let open_path = |path| FileBackend::open(path, false).map(|_| ()).unwrap_err();
    assert!(matches!(open_path(&missing), OpenError::Missing(path) if path == missing));
    assert!(matches!(
        open_path(directory.path()),
        OpenError::Directory(_)
    ));
    assert!(matches!(
        open_path("/dev/null".as_ref()),
        OpenError::NotADisk(_)
    ));
    assert!(matches!(open(&image(b""), false), Err(OpenError::Empty(_))));
    let odd = open(&image(&[1; 1000]), true);
    assert!(matches!(
        odd,
        Err(OpenError::PartialSector { size: 1000, .. })
    ));
}

#[test]
fn permissions_are_told_apart() {
    // The superuser may do anything: there is nothing to see then.
    let file = image(&pattern(512));
    let mode = |bits| {
        let permissions = std::os::unix::fs::PermissionsExt::from_mode(bits);
        fs::set_permissions(file.path(), permissions).unwrap();
    };
    mode(0o000);
    if fs::File::open(file.path()).is_ok() {
        return;
    }
    assert!(matches!(open(&file, true), Err(OpenError::NotReadable(_))));
    mode(0o400);
    assert!(matches!(open(&file, false), Err(OpenError::NotWritable(_))));
    assert!(open(&file, true).is_ok());
}

#[test]
fn a_second_writer_is_locked_out() {
    let file = image(&pattern(512));
    let writer = open(&file, false).unwrap();
    assert!(matches!(open(&file, false), Err(OpenError::Locked(_))));
    assert!(matches!(open(&file, true), Err(OpenError::Locked(_))));
    drop(writer);
    let _reader = open(&file, true).unwrap();
    let _another = open(&file, true).unwrap();
    assert!(matches!(open(&file, false), Err(OpenError::Locked(_))));
}

#[test]
fn a_direct_disk_takes_what_is_not_aligned_too() {
    let file = image(&pattern(64 * 512));
    let backend = match FileBackend::open_direct(file.path(), false) {
        Ok(backend) => Arc::new(backend),
        // A file system without direct I/O.
        Err(OpenError::NoDirect(_)) => return,
        Err(error) => panic!("{error}"),
    };
    let mut driver = Driver::live_with(backend, config(), FEATURES);
    let pieces = [w(DATA + 7, 100), w(DATA + 107, 924)];
    assert_eq!(driver.request(T_IN, 7, &pieces), (S_OK, 1025));
    let wanted = &pattern(64 * 512)[7 * 512..9 * 512];
    assert_eq!(driver.bytes(DATA + 7, 1024), wanted);
    for (sector, at) in [(1, DATA), (9, DATA + 3), (63, DATA + 512)] {
        driver.memory_fill(at, 512, sector as u8);
        assert_eq!(driver.request(T_OUT, sector, &[r(at, 512)]), (S_OK, 1));
    }
    assert_eq!(driver.request(T_FLUSH, 0, &[]), (S_OK, 1));
    let mut wanted = pattern(64 * 512);
    for sector in [1, 9, 63] {
        wanted[512 * sector..][..512].fill(sector as u8);
    }
    assert!(fs::read(file.path()).unwrap() == wanted);
    file.as_file().set_len(20 * 512).unwrap();
    assert_eq!(driver.request(T_IN, 20, &[w(DATA, 512)]), (S_IOERR, 1));
}

#[test]
fn an_image_that_is_truncated_under_the_machine() {
    let file = image(&pattern(64 * 512));
    let mut driver = driver_of(&file);
    file.as_file().set_len(10 * 512 + 100).unwrap();
    assert_eq!(driver.request(T_IN, 9, &[w(DATA, 512)]), (S_OK, 513));
    assert_eq!(
        driver.request(T_IN, 10, &[w(DATA, 512)]),
        (S_IOERR, 1),
        "half a sector"
    );
    assert_eq!(driver.request(T_IN, 20, &[w(DATA, 512)]), (S_IOERR, 1));
    // A write would bring the file back to its length, with zeros where other bytes were.
    std::thread::sleep(Duration::from_millis(1));
    for sector in [10, 20, 63] {
        assert_eq!(driver.request(T_OUT, sector, &[r(DATA, 512)]), (S_IOERR, 1));
    }
    assert_eq!(driver.request(T_OUT, 9, &[r(DATA, 512)]), (S_OK, 1));
    let size = || file.as_file().metadata().unwrap().len();
    assert_eq!(size(), 10 * 512 + 100);
    file.as_file().set_len(64 * 512).unwrap();
    assert_eq!(driver.request(T_OUT, 63, &[r(DATA, 512)]), (S_OK, 1));
    assert_eq!(driver.request(T_IN, 20, &[w(DATA, 512)]), (S_OK, 513));
    assert_eq!(size(), 64 * 512);
}

#[test]
fn an_image_that_is_truncated_while_it_is_mapped() {
    let file = image(&pattern(64 * 512));
    let mut driver = driver_of(&file);
    // Often enough to be read from a mapping.
    for _ in 0..100 {
        assert_eq!(driver.request(T_IN, 20, &[w(DATA, 512)]), (S_OK, 513));
    }
    file.as_file().set_len(10 * 512 + 100).unwrap();
    std::thread::sleep(Duration::from_millis(1));
    assert_eq!(driver.request(T_IN, 9, &[w(DATA, 512)]), (S_OK, 513));
    assert_eq!(driver.request(T_IN, 10, &[w(DATA, 512)]), (S_IOERR, 1));
    assert_eq!(driver.request(T_IN, 20, &[w(DATA, 512)]), (S_IOERR, 1));
    assert_eq!(driver.request(T_IN, 10, &[w(DATA, 512)]), (S_IOERR, 1));
    file.as_file().set_len(64 * 512).unwrap();
    std::thread::sleep(Duration::from_millis(1));
    for _ in 0..100 {
        assert_eq!(driver.request(T_IN, 20, &[w(DATA, 512)]), (S_OK, 513));
    }
    assert_eq!(driver.bytes(DATA, 512), [0; 512]);
}

#[test]
fn an_image_that_grows_keeps_its_capacity() {
    let file = image(&pattern(64 * 512));
    let mut driver = driver_of(&file);
    file.as_file().write_all_at(&[1; 512], 64 * 512).unwrap();
    assert_eq!(driver.request(T_IN, 64, &[w(DATA, 512)]), (S_IOERR, 1));
    assert_eq!(driver.request(T_IN, 63, &[w(DATA, 512)]), (S_OK, 513));
}

#[test]
fn an_image_that_is_deleted_goes_on() {
    let file = image(&pattern(64 * 512));
    let mut driver = driver_of(&file);
    fs::remove_file(file.path()).unwrap();
    assert_eq!(driver.request(T_OUT, 3, &[r(DATA, 512)]), (S_OK, 1));
    assert_eq!(driver.request(T_IN, 3, &[w(DATA + 512, 512)]), (S_OK, 513));
}

#[test]
fn an_image_that_is_replaced_goes_on_as_it_was() {
    let directory = tempfile::tempdir().unwrap();
    let [path, other, old] = ["disk", "other", "old"].map(|name| directory.path().join(name));
    fs::write(&path, pattern(64 * 512)).unwrap();
    fs::write(&other, [9; 64 * 512]).unwrap();
    fs::hard_link(&path, &old).unwrap();
    let backend = Arc::new(FileBackend::open(&path, false).unwrap());
    let mut driver = Driver::live_with(backend, config(), FEATURES);
    fs::rename(&other, &path).unwrap();
    assert_eq!(driver.request(T_IN, 3, &[w(DATA, 512)]), (S_OK, 513));
    assert_eq!(driver.bytes(DATA, 512), pattern(4 * 512)[3 * 512..]);
    driver.memory_fill(DATA, 512, 0x5a);
    assert_eq!(driver.request(T_OUT, 4, &[r(DATA, 512)]), (S_OK, 1));
    assert_eq!(driver.request(T_FLUSH, 0, &[]), (S_OK, 1));
    assert!(fs::read(&path).unwrap() == [9; 64 * 512]);
    assert_eq!(fs::read(&old).unwrap()[4 * 512..5 * 512], [0x5a; 512]);
}

/// Everything has to come from the disk, as far as the file system lets go of it.
#[test]
fn what_is_not_in_the_page_cache_is_read() {
    const SECTORS: u64 = 4096;
    let wanted = pattern(SECTORS as usize * 512);
    let file = image(&wanted);
    let mut driver = driver_of(&file);
    for round in 0..3 {
        file.as_file().sync_all().unwrap();
        // SAFETY: the descriptor is open, and the rest are numbers.
        #[allow(unsafe_code)]
        unsafe {
            let (fd, what) = (file.as_raw_fd(), libc::POSIX_FADV_DONTNEED);
            libc::posix_fadvise(fd, 0, 0, what);
        }
        // Backwards, so that nothing is read ahead; two sectors of each page.
        for sector in (0..SECTORS).rev().step_by(4) {
            let answer = driver.request(T_IN, sector, &[w(DATA, 512)]);
            assert_eq!(answer, (S_OK, 513), "sector {sector} in round {round}");
            let at = sector as usize * 512;
            assert!(driver.bytes(DATA, 512) == wanted[at..at + 512]);
        }
    }
}

#[test]
fn read_only_images_are_offered_as_such() {
    let file = image(&pattern(64 * 512));
    let backend = Arc::new(open(&file, true).unwrap());
    let mut driver = Driver::live_with(backend, config(), FEATURES | F_RO);
    assert_eq!(driver.request(T_OUT, 0, &[r(DATA, 512)]), (S_IOERR, 1));
    assert_eq!(driver.request(T_IN, 0, &[w(DATA, 512)]), (S_OK, 513));
    assert_eq!(driver.request(T_FLUSH, 0, &[]), (S_OK, 1));
}

#[test]
fn a_disk_that_is_gone_leaves_its_image_unlocked() {
    let file = image(&pattern(64 * 512));
    for engine in [Engine::Uring, Engine::Pool, Engine::Sync] {
        let config = BlockConfig {
            engine: Some(engine),
            ..config()
        };
        let backend = Arc::new(open(&file, false).unwrap());
        let mut driver = Driver::live_with(backend, config, FEATURES);
        assert_eq!(driver.request(T_IN, 1, &[w(DATA, 512)]), (S_OK, 513));
    }
}
