use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::fs::{MemfdFlags, memfd_create};

use super::spec::{F_DISCARD, F_RO, F_WRITE_ZEROES, MAX_ZEROES, SERIAL, UNMAP, kind};
use super::*;
use crate::contract::device_contract;
use crate::contract::driver::{BUFFERS, NEXT, RAM, RAM_SIZE, WRITE};
use crate::contract::rig::Rig;
use crate::rate::{BucketSettings, LimiterSettings};
use crate::serve::{Device, Wake};

const SIZE: u64 = 1 << 20;
const DATA: u64 = BUFFERS + 0x1000;
const STATUS: u64 = BUFFERS + 0x800;
const OK: u8 = 0;
const IO_ERROR: u8 = 1;
const UNSUPPORTED: u8 = 2;

/// Each byte tells where it is.
fn pattern(offset: u64) -> u8 {
    (offset.wrapping_mul(31) >> 3) as u8 ^ (offset >> 9) as u8
}

fn image() -> Arc<File> {
    let file = File::from(memfd_create("image", MemfdFlags::CLOEXEC).unwrap());
    let bytes: Vec<u8> = (0..SIZE).map(pattern).collect();
    file.write_all_at(&bytes, 0).unwrap();
    Arc::new(file)
}

fn settings() -> Settings {
    Settings {
        readonly: false,
        format: Format::Raw,
        guard_first_sector: false,
        direct: None,
        sparse: true,
        queue_sizes: vec![256],
        serial: Serial::new("granule"),
        limits: LimiterSettings::default(),
    }
}

fn device(file: &File, settings: &Settings) -> BlkDevice {
    let image = Image::new(file.try_clone().unwrap(), settings).unwrap();
    image.into_device(settings.clone()).unwrap()
}

/// A running disk over `file`.
fn rig(file: &Arc<File>, settings: &Settings) -> Rig {
    let (file, settings) = (Arc::clone(file), settings.clone());
    let mut rig = Rig::start(move || device(&file, &settings));
    rig.start_queue(0);
    rig
}

fn put_header(rig: &Rig, kind: u32, sector: u64) {
    rig.driver.write(kind.to_le(), BUFFERS);
    rig.driver.write(0u32, BUFFERS + 4);
    rig.driver.write(sector.to_le(), BUFFERS + 8);
    rig.driver.write(0xffu8, STATUS);
}

/// Makes a request with one buffer of `length` bytes at [`DATA`], and returns its status.
fn request(rig: &mut Rig, kind: u32, sector: u64, length: u32, flags: u16) -> u8 {
    request_at(rig, kind, sector, (DATA, length), flags)
}

fn request_at(rig: &mut Rig, kind: u32, sector: u64, (at, length): (u64, u32), flags: u16) -> u8 {
    put_header(rig, kind, sector);
    rig.driver.describe(0, (BUFFERS, 16, NEXT, 1));
    rig.driver.describe(1, (at, length, NEXT | flags, 2));
    rig.driver.describe(2, (STATUS, 1, WRITE, 0));
    rig.round_trip(0);
    rig.driver.read(STATUS)
}

fn range(rig: &mut Rig, kind: u32, sector: u64, sectors: u32, flags: u32) -> u8 {
    rig.driver.write(sector.to_le(), DATA);
    rig.driver.write(sectors.to_le(), DATA + 8);
    rig.driver.write(flags.to_le(), DATA + 12);
    request(rig, kind, 0, 16, 0)
}

fn in_image(file: &File, offset: u64) -> u8 {
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset).unwrap();
    byte[0]
}

device_contract!(
    device(&image(), &settings()),
    |driver: &mut Driver| {
        driver.write(kind::IN.to_le(), BUFFERS);
        driver.write(3u64.to_le(), BUFFERS + 8);
        driver.write(0xffu8, STATUS);
        driver.write([0u8; 32], DATA);
        driver.describe(0, (BUFFERS, 16, NEXT, 1));
        driver.describe(1, (DATA, 512, NEXT | WRITE, 2));
        driver.describe(2, (STATUS, 1, WRITE, 0));
    },
    |driver: &Driver, length: u32| length == 513
        && driver.read::<u8>(STATUS) == OK
        && driver.read::<u8>(DATA) == pattern(3 * 512)
        && driver.read::<u8>(DATA + 511) == pattern(4 * 512 - 1)
);

#[test]
fn what_is_written_is_in_the_image_and_is_read_back() {
    let file = image();
    let mut rig = rig(&file, &settings());
    for offset in 0..4096 {
        rig.driver.write(offset as u8 ^ 0x5a, DATA + offset);
    }
    assert_eq!(request(&mut rig, kind::OUT, 8, 4096, 0), OK);
    assert_eq!(request(&mut rig, kind::FLUSH, 0, 0, 0), OK);
    for offset in 0..4096 {
        assert_eq!(in_image(&file, 8 * 512 + offset), offset as u8 ^ 0x5a);
    }
    assert_eq!(in_image(&file, 8 * 512 - 1), pattern(8 * 512 - 1));
    assert_eq!(in_image(&file, 16 * 512), pattern(16 * 512));
    for offset in 0..8192 {
        rig.driver.write(0u8, DATA + offset);
    }
    assert_eq!(request(&mut rig, kind::IN, 7, 1024, WRITE), OK);
    assert_eq!(rig.driver.read::<u8>(DATA + 511), pattern(8 * 512 - 1));
    assert_eq!(rig.driver.read::<u8>(DATA + 512), 0x5a);
}

#[test]
fn a_request_may_be_cut_into_descriptors_anywhere() {
    let file = image();
    let mut rig = rig(&file, &settings());
    put_header(&rig, kind::IN, 1);
    // A header in three pieces, data across a border of regions, the status behind the last data in one descriptor.
    let border = RAM + RAM_SIZE / 2;
    let pieces = [
        (BUFFERS, 1, 0),
        (BUFFERS + 1, 10, 0),
        (BUFFERS + 11, 5, 0),
        (DATA, 100, WRITE),
        (border - 200, 400, WRITE),
        (DATA + 0x1000, 13, WRITE),
    ];
    for (index, (at, length, flags)) in (0u16..).zip(pieces) {
        let next = if index == 5 { 0 } else { NEXT };
        rig.driver.describe(index, (at, length, flags | next, index + 1));
    }
    assert_eq!(rig.round_trip(0), (0, 513));
    assert_eq!(rig.driver.read::<u8>(DATA + 0x1000 + 12), OK);
    assert_eq!(rig.driver.read::<u8>(DATA + 99), pattern(512 + 99));
    assert_eq!(rig.driver.read::<u8>(border), pattern(512 + 300));
    assert_eq!(rig.driver.read::<u8>(DATA + 0x1000 + 11), pattern(1023));
}

#[test]
fn ranges_beyond_the_end_and_broken_sectors_are_errors() {
    let file = image();
    let mut rig = rig(&file, &settings());
    let end = SIZE / 512;
    for (sector, length) in
        [(end, 512), (end - 1, 1024), (u64::MAX, 512), (u64::MAX / 512 + 1, 512), (0, 511)]
    {
        for (kind, flags) in [(kind::IN, WRITE), (kind::OUT, 0)] {
            assert_eq!(request(&mut rig, kind, sector, length, flags), IO_ERROR, "{sector:#x}+{length}");
        }
    }
    assert_eq!(file.metadata().unwrap().len(), SIZE);
    assert_eq!(request(&mut rig, kind::IN, end - 1, 512, WRITE), OK);
}

#[test]
fn data_outside_memory_is_an_error() {
    let mut rig = rig(&image(), &settings());
    for at in [0x900_0000, RAM + RAM_SIZE - 256, u64::MAX - 255] {
        for (kind, flags) in [(kind::IN, WRITE), (kind::OUT, 0), (kind::ID, WRITE)] {
            assert_eq!(request_at(&mut rig, kind, 0, (at, 512), flags), IO_ERROR, "{at:#x}");
        }
    }
}

#[test]
fn a_read_only_disk_is_not_written_whatever_a_driver_tries() {
    let file = image();
    let readonly = Settings { readonly: true, ..settings() };
    let mut rig = rig(&file, &readonly);
    assert_eq!(request(&mut rig, kind::OUT, 0, 512, 0), IO_ERROR);
    assert_eq!(range(&mut rig, kind::DISCARD, 0, 8, 0), UNSUPPORTED);
    assert_eq!(range(&mut rig, kind::WRITE_ZEROES, 0, 8, 0), UNSUPPORTED);
    assert_eq!(request(&mut rig, kind::IN, 0, 512, WRITE), OK);
    assert_eq!(in_image(&file, 1000), pattern(1000));
    let features = device(&file, &readonly).features();
    assert_eq!(features & (F_RO | F_DISCARD | F_WRITE_ZEROES), F_RO);
}

#[test]
fn the_first_sector_of_an_image_whose_format_was_looked_up_stays_as_it_is() {
    let file = image();
    let mut rig = rig(&file, &Settings { guard_first_sector: true, ..settings() });
    assert_eq!(request(&mut rig, kind::OUT, 0, 1024, 0), IO_ERROR);
    assert_eq!(request(&mut rig, kind::OUT, 1, 512, 0), OK);
    assert_eq!(in_image(&file, 5), pattern(5));
}

#[test]
fn the_serial_number_is_given_whole_or_not_at_all() {
    let mut rig = rig(&image(), &settings());
    assert_eq!(request(&mut rig, kind::ID, 0, SERIAL as u32, WRITE), OK);
    assert_eq!(rig.driver.read::<[u8; 16]>(DATA), *b"granule\0\0\0\0\0\0\0\0\0");
    assert_eq!(request(&mut rig, kind::ID, 0, 8, WRITE), IO_ERROR);
    assert_eq!(Serial::new("exactly-twenty-bytes-and-more").0, *b"exactly-twenty-bytes");
}

#[test]
fn requests_that_nobody_knows_are_unsupported() {
    let mut rig = rig(&image(), &settings());
    for kind in [2, 3, 5, 9, 12, 14, 0x8000_0000, u32::MAX] {
        assert_eq!(request(&mut rig, kind, 0, 512, WRITE), UNSUPPORTED, "{kind}");
    }
}

#[test]
fn discarded_and_zeroed_blocks_read_as_zeros_and_discarded_ones_are_given_back() {
    use std::os::unix::fs::MetadataExt;
    let file = image();
    let mut rig = rig(&file, &settings());
    let before = file.metadata().unwrap().blocks();
    assert_eq!(range(&mut rig, kind::DISCARD, 8, 8, 0), OK);
    assert_eq!(file.metadata().unwrap().blocks(), before - 8);
    assert_eq!(range(&mut rig, kind::WRITE_ZEROES, 24, 16, UNMAP), OK);
    assert_eq!(file.metadata().unwrap().blocks(), before - 24);
    // A memfd cannot zero otherwise than by a hole: it is written.
    assert_eq!(range(&mut rig, kind::WRITE_ZEROES, 64, 3, 0), OK);
    assert_eq!(file.metadata().unwrap().blocks(), before - 24);
    for (sector, zero) in
        [(7, false), (8, true), (15, true), (16, false), (24, true), (39, true), (40, false)]
    {
        assert_eq!(in_image(&file, sector * 512 + 100) == 0, zero, "sector {sector}");
    }
    for (sector, zero) in [(63, false), (64, true), (66, true), (67, false)] {
        assert_eq!(in_image(&file, sector * 512 + 100) == 0, zero, "sector {sector}");
    }
}

#[test]
fn ranges_are_held_to_what_the_configuration_says() {
    let file = image();
    let mut rig = rig(&file, &settings());
    let end = SIZE / 512;
    assert_eq!(range(&mut rig, kind::DISCARD, end - 4, 8, 0), IO_ERROR);
    assert_eq!(range(&mut rig, kind::DISCARD, u64::MAX, 8, 0), IO_ERROR);
    assert_eq!(range(&mut rig, kind::DISCARD, 0, 8, UNMAP), UNSUPPORTED);
    assert_eq!(range(&mut rig, kind::WRITE_ZEROES, 0, 8, 2), UNSUPPORTED);
    assert_eq!(range(&mut rig, kind::WRITE_ZEROES, 0, MAX_ZEROES + 1, 0), IO_ERROR);
    assert_eq!(request(&mut rig, kind::DISCARD, 0, 24, 0), IO_ERROR);
    assert_eq!(request(&mut rig, kind::WRITE_ZEROES, 0, 32, 0), IO_ERROR);
    let all: Vec<u8> = (0..SIZE).map(|offset| in_image(&file, offset)).collect();
    assert!((0..).zip(all).all(|(offset, byte)| byte == pattern(offset)));
}

#[test]
fn an_image_that_becomes_shorter_is_an_error_and_does_not_grow_again() {
    let file = image();
    let mut rig = rig(&file, &settings());
    file.set_len(4096).unwrap();
    assert_eq!(request(&mut rig, kind::IN, 8, 512, WRITE), IO_ERROR);
    assert_eq!(request(&mut rig, kind::IN, 7, 1024, WRITE), IO_ERROR);
    assert_eq!(request(&mut rig, kind::OUT, 100, 512, 0), IO_ERROR);
    assert_eq!(range(&mut rig, kind::WRITE_ZEROES, 100, 8, 0), IO_ERROR);
    assert_eq!(range(&mut rig, kind::DISCARD, 100, 8, 0), IO_ERROR);
    assert_eq!(request(&mut rig, kind::IN, 7, 512, WRITE), OK);
    assert_eq!(file.metadata().unwrap().len(), 4096);
}

#[test]
fn direct_access_takes_buffers_and_blocks_of_any_alignment() {
    // A memfd knows no direct I/O; the way through the aligned buffer is the same.
    let file = image();
    let alignment = Alignment::new(512, 4096);
    let mut rig = rig(&file, &Settings { direct: alignment, ..settings() });
    for (at, sector, length) in [(DATA, 8, 4096), (DATA + 1, 8, 4096), (DATA + 3, 9, 1536), (DATA, 1, 512)] {
        assert_eq!(request_at(&mut rig, kind::IN, sector, (at, length), WRITE), OK);
        for offset in 0..u64::from(length) {
            assert_eq!(
                rig.driver.read::<u8>(at + offset),
                pattern(sector * 512 + offset),
                "{at:#x} {sector}"
            );
        }
        for offset in 0..u64::from(length) {
            rig.driver.write(0xa5u8, at + offset);
        }
        assert_eq!(request_at(&mut rig, kind::OUT, sector, (at, length), 0), OK);
        for offset in 0..u64::from(length) {
            assert_eq!(in_image(&file, sector * 512 + offset), 0xa5);
        }
        let restored: Vec<u8> = (0..SIZE).map(pattern).collect();
        let end = sector * 512 + u64::from(length);
        assert_eq!(in_image(&file, sector * 512 - 1), pattern(sector * 512 - 1));
        assert_eq!(in_image(&file, end), pattern(end));
        file.write_all_at(&restored, 0).unwrap();
    }
}

#[test]
fn requests_beyond_the_limit_wait_and_are_served_in_time() {
    let file = image();
    let bucket = BucketSettings { size: 4, one_time_burst: 0, refill_time: Duration::from_millis(200) };
    let limits = LimiterSettings { bandwidth: None, operations: Some(bucket) };
    let mut rig = rig(&file, &Settings { limits, ..settings() });
    let started = Instant::now();
    for _ in 0..12 {
        assert_eq!(request(&mut rig, kind::IN, 0, 512, WRITE), OK);
    }
    // Four at once, the other eight at 20 a second.
    assert!(started.elapsed() >= Duration::from_millis(390), "{:?}", started.elapsed());
}

#[test]
fn a_live_disk_grows_and_says_so() {
    let file = image();
    let mut disk = device(&file, &settings());
    let mut wake = Wake::default();
    let answer = disk.order(b"resize 2097152", None, &mut wake).unwrap();
    assert_eq!(answer, b"2097152");
    assert_eq!(disk.config()[..8], 4096u64.to_le_bytes());
    assert_eq!(file.metadata().unwrap().len(), 2 << 20);
    for refused in ["resize 512", "resize 2097153"] {
        let error = disk.order(refused.as_bytes(), None, &mut wake).unwrap_err();
        assert!(error.starts_with("desired_size: "), "{error}");
    }
    let mut readonly = device(&file, &Settings { readonly: true, ..settings() });
    readonly.order(b"resize 4194304", None, &mut wake).unwrap_err();
    assert_eq!(file.metadata().unwrap().len(), 2 << 20);
    for nonsense in [&b"resize"[..], b"resize x", b"grow 5", b"\xff\xff"] {
        disk.order(nonsense, None, &mut wake).unwrap_err();
    }
}

#[test]
fn what_was_in_flight_when_the_process_died_is_done_by_its_successor() {
    let file = image();
    let mut rig = rig(&file, &settings());
    assert_eq!(request(&mut rig, kind::IN, 0, 512, WRITE), OK);
    // The next request is available, and nobody has served it when the process goes.
    put_header(&rig, kind::OUT, 4);
    rig.driver.write([0x77u8; 32], DATA);
    rig.driver.describe(1, (DATA, 512, NEXT, 2));
    rig.die();
    rig.driver.offer(0);
    rig.succeed();
    rig.wait_used(2);
    assert_eq!(rig.driver.read::<u8>(STATUS), OK);
    assert_eq!(in_image(&file, 4 * 512), 0x77);
}

/// An empty qcow2 image in a memfd.
fn qcow2() -> Arc<File> {
    use imago::FormatCreateBuilder;
    let file = File::from(memfd_create("qcow2", MemfdFlags::CLOEXEC).unwrap());
    let storage: imago::file::File = file.try_clone().unwrap().try_into().unwrap();
    imago::qcow2::Qcow2::<imago::file::File>::create_builder(storage).size(SIZE).create().unwrap();
    Arc::new(file)
}

#[test]
fn what_is_written_to_a_qcow2_image_is_there_for_another_process_before_it_is_answered() {
    let file = qcow2();
    let settings = Settings { format: Format::Qcow2, ..settings() };
    let mut first = rig(&file, &settings);
    for offset in 0..4096 {
        first.driver.write(offset as u8 ^ 0x3c, DATA + offset);
    }
    assert_eq!(request(&mut first, kind::OUT, 24, 4096, 0), OK);
    assert_eq!(range(&mut first, kind::WRITE_ZEROES, 28, 1, 0), OK);
    // The first process lives on and has flushed nothing: all that a second one knows is in the file.
    let mut second = rig(&file, &Settings { readonly: true, ..settings });
    assert_eq!(request(&mut second, kind::IN, 23, 4096, WRITE), OK);
    for offset in 0..4096u64 {
        let expected = match offset {
            0..512 | 2560..3072 => 0,
            _ => (offset - 512) as u8 ^ 0x3c,
        };
        assert_eq!(second.driver.read::<u8>(DATA + offset), expected, "{offset}");
    }
    assert_eq!(request(&mut second, kind::OUT, 0, 512, 0), IO_ERROR);
    assert_eq!(request(&mut first, kind::FLUSH, 0, 0, 0), OK);
    assert_eq!(request(&mut first, kind::IN, SIZE / 512, 512, WRITE), IO_ERROR);
}

#[test]
fn a_file_that_is_no_qcow2_image_is_no_disk() {
    let settings = Settings { format: Format::Qcow2, ..settings() };
    let image = Image::new(image().try_clone().unwrap(), &settings).unwrap();
    assert!(image.into_device(settings).is_err());
}
