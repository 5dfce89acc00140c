use std::fs::File;
use std::io::Write;

use rustix::fs::{MemfdFlags, memfd_create};

use super::*;
use crate::contract::device_contract;
use crate::contract::driver::{BUFFERS, WRITE};
use crate::contract::rig::Rig;

device_contract!(
    RngDevice::new(Source::File(File::open("/dev/urandom").unwrap())),
    |driver: &mut Driver| {
        driver.write([0u8; 32], BUFFERS);
        driver.describe(0, (BUFFERS, 64, WRITE, 0));
    },
    |driver: &Driver, length: u32| length == 64 && driver.read::<[u8; 32]>(BUFFERS) != [0; 32]
);

/// A source of exactly `bytes`.
fn short(bytes: &[u8]) -> Source {
    let mut file = File::from(memfd_create("entropy", MemfdFlags::CLOEXEC).unwrap());
    file.write_all(bytes).unwrap();
    rustix::fs::seek(&file, rustix::fs::SeekFrom::Start(0)).unwrap();
    Source::File(file)
}

#[test]
fn the_bytes_are_those_of_the_source() {
    let mut rig = Rig::start(|| RngDevice::new(short(&[7; 100])));
    rig.start_queue(0);
    rig.driver.describe(0, (BUFFERS, 100, WRITE, 0));
    assert_eq!(rig.round_trip(0), (0, 100));
    assert_eq!(rig.driver.read::<[u8; 32]>(BUFFERS + 68), [7; 32]);
}

#[test]
fn a_source_that_runs_dry_is_replaced() {
    let mut rig = Rig::start(|| RngDevice::new(short(&[7; 10])));
    rig.start_queue(0);
    rig.driver.describe(0, (BUFFERS, 64, WRITE, 0));
    assert_eq!(rig.round_trip(0), (0, 64));
    assert_eq!(rig.driver.read::<[u8; 8]>(BUFFERS), [7; 8]);
    assert_ne!(rig.driver.read::<[u8; 32]>(BUFFERS + 16), [0; 32]);
}

#[test]
fn one_chain_is_never_given_more_than_its_share() {
    let mut rig = Rig::start(|| RngDevice::new(Source::Kernel));
    rig.start_queue(0);
    rig.driver.describe(0, (BUFFERS, 0x10_0000, WRITE, 0));
    assert_eq!(rig.round_trip(0), (0, spec::MAX_CHAIN_BYTES as u32));
}
