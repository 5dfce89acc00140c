use std::fs::File;
use std::os::unix::fs::FileExt;

use rustix::fs::{MemfdFlags, memfd_create};

use super::spec::{DONE, FAILED, FLUSH};
use super::*;
use crate::contract::device_contract;
use crate::contract::driver::{BUFFERS, Driver, NEXT, WRITE};
use crate::contract::rig::Rig;

const IMAGE: u64 = 2 << 20;
const ANSWER: u64 = BUFFERS + 64;

fn file() -> File {
    let file = File::from(memfd_create("pmem", MemfdFlags::CLOEXEC).unwrap());
    file.set_len(IMAGE).unwrap();
    file
}

fn ask(driver: &mut Driver, kind: u32) {
    driver.write(kind.to_le(), BUFFERS);
    driver.write(0x5555_5555u32, ANSWER);
    driver.describe(0, (BUFFERS, 4, NEXT, 1));
    driver.describe(1, (ANSWER, 4, WRITE, 0));
}

fn answer(driver: &Driver) -> u32 {
    u32::from_le(driver.read(ANSWER))
}

device_contract!(
    PmemDevice::new(Medium::Mapped(file()), IMAGE),
    |driver: &mut Driver| ask(driver, FLUSH),
    |driver: &Driver, length: u32| length == 4 && answer(driver) == DONE
);

#[test]
fn a_copy_is_written_back_before_the_flush_is_answered() {
    static FILES: std::sync::LazyLock<(File, File)> = std::sync::LazyLock::new(|| (file(), file()));
    let (image, memory) = &*FILES;
    let mut rig = Rig::start(|| {
        let (image, memory) = (FILES.0.try_clone().unwrap(), FILES.1.try_clone().unwrap());
        PmemDevice::new(Medium::Copied(WriteBack::new(image, memory, IMAGE, false)), IMAGE)
    });
    rig.start_queue(0);
    for round in 1..20u8 {
        let at = u64::from(round) * 70_000;
        memory.write_all_at(&[round; 5000], at).unwrap();
        ask(&mut rig.driver, FLUSH);
        rig.round_trip(0);
        assert_eq!(answer(&rig.driver), DONE);
        let mut stored = [0; 5000];
        image.read_exact_at(&mut stored, at).unwrap();
        assert_eq!(stored, [round; 5000]);
    }
}

#[test]
fn a_request_that_is_no_flush_fails() {
    let mut rig = Rig::start(|| PmemDevice::new(Medium::None, IMAGE));
    rig.start_queue(0);
    ask(&mut rig.driver, 1);
    assert_eq!(rig.round_trip(0), (0, 4));
    assert_eq!(answer(&rig.driver), FAILED);
}

#[test]
fn a_flush_that_failed_once_is_never_believed_again() {
    // A pipe cannot be synced, as a disk that has lost writes cannot.
    let mut rig = Rig::start(|| {
        let (reader, _) = std::io::pipe().unwrap();
        PmemDevice::new(Medium::Mapped(File::from(std::os::fd::OwnedFd::from(reader))), IMAGE)
    });
    rig.start_queue(0);
    for _ in 0..2 {
        ask(&mut rig.driver, FLUSH);
        rig.round_trip(0);
        assert_eq!(answer(&rig.driver), FAILED);
    }
}

#[test]
fn the_first_to_hold_a_cached_image_loads_it_and_the_next_finds_it() {
    let image = file();
    image.write_all_at(b"contents", 4096).unwrap();
    let folder = std::env::temp_dir().join(format!("granule-cache-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let path = folder.join("image");
    let open =
        |write: bool| File::options().read(true).write(write).create(write).truncate(false).open(&path);
    let writer = open(true).unwrap();
    let reader = open(false).unwrap();
    let first = CacheFile { reader, writer: Some(writer) }.hold(&image, IMAGE).unwrap();
    let mut seen = [0; 8];
    open(false).unwrap().read_exact_at(&mut seen, 4096).unwrap();
    assert_eq!(&seen, b"contents");

    // While it is held nobody can have it for himself, and so take it away.
    let sweeper = open(false).unwrap();
    let alone = || rustix::fs::flock(&sweeper, rustix::fs::FlockOperation::NonBlockingLockExclusive);
    assert!(alone().is_err());
    // The image may go: the next one does not read it.
    image.set_len(0).unwrap();
    let second = CacheFile { reader: open(false).unwrap(), writer: None }.hold(&image, IMAGE).unwrap();
    drop(first);
    assert!(alone().is_err());
    drop(second);
    assert!(alone().is_ok());
    std::fs::remove_dir_all(&folder).unwrap();
}
