use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, eventfd};

use super::*;
use crate::contract::bench::Bench;
use crate::contract::device_contract;
use crate::serve::{Device, Wake};

fn bite() -> OwnedFd {
    eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).unwrap()
}

device_contract!(
    WatchdogDevice::new(bite(), TIMEOUT),
    |driver: &mut Driver| {
        driver.write([0u8; 1], BUFFERS);
        driver.describe(0, (BUFFERS, 1, WRITE, 0));
    },
    |driver: &Driver, length: u32| length == 1 && driver.read::<[u8; 1]>(BUFFERS) == [1]
);

fn watchdog(limit: Duration) -> (OwnedFd, Bench<WatchdogDevice>) {
    let heard = bite();
    let bench = Bench::new(WatchdogDevice::new(heard.try_clone().unwrap(), limit));
    (heard, bench)
}

fn bites(heard: &OwnedFd) -> u64 {
    let mut count = [0; 8];
    rustix::io::read(heard, &mut count).map_or(0, |_| u64::from_ne_bytes(count))
}

#[test]
fn a_guest_without_a_driver_is_left_alone() {
    let (heard, mut bench) = watchdog(Duration::ZERO);
    assert_eq!(bench.device.deadline(), None);
    bench.settle();
    assert_eq!(bites(&heard), 0);
}

#[test]
fn each_ping_is_answered_and_moves_the_end() {
    let (_heard, mut bench) = watchdog(TIMEOUT);
    bench.give(0, 1);
    assert_eq!(bench.taken(0), [[1]]);
    let first = bench.device.deadline().unwrap();
    assert!(first > Instant::now() + TIMEOUT / 2);
    bench.give(0, 1);
    assert!(bench.device.deadline().unwrap() >= first);
}

#[test]
fn silence_is_told_once() {
    let (heard, mut bench) = watchdog(Duration::ZERO);
    bench.give(0, 1);
    bench.settle();
    assert_eq!(bites(&heard), 1);
    bench.give(0, 1);
    bench.settle();
    assert_eq!((bites(&heard), bench.device.deadline()), (0, None));
}

#[test]
fn a_machine_that_stands_still_is_not_a_hung_one() {
    let (heard, mut bench) = watchdog(Duration::ZERO);
    bench.device.order(RESUME, None, &mut Wake::default()).unwrap();
    assert_eq!(bench.device.deadline(), None, "it had not begun");
    bench.give(0, 1);
    bench.device.order(PAUSE, None, &mut Wake::default()).unwrap();
    assert_eq!(bench.device.deadline(), None);
    bench.settle();
    assert_eq!(bites(&heard), 0);
    bench.device.order(RESUME, None, &mut Wake::default()).unwrap();
    bench.settle();
    assert_eq!(bites(&heard), 1);
    assert!(bench.device.order(b"bark", None, &mut Wake::default()).is_err());
}

#[test]
fn a_successor_goes_on_watching_a_guest_that_had_begun() {
    let (heard, mut bench) = watchdog(TIMEOUT);
    bench.give(0, 1);
    bench.replace(WatchdogDevice::new(heard.try_clone().unwrap(), Duration::ZERO));
    bench.serve(0).unwrap();
    bench.settle();
    assert_eq!(bites(&heard), 1);
}

#[test]
fn a_saved_watchdog_begins_anew_where_it_had_begun() {
    let (_heard, mut bench) = watchdog(TIMEOUT);
    let mut restored = WatchdogDevice::new(bite(), TIMEOUT);
    restored.restore(&bench.device.save()).unwrap();
    assert_eq!(restored.deadline(), None);
    bench.give(0, 1);
    restored.restore(&bench.device.save()).unwrap();
    assert!(restored.deadline().is_some());
    assert!(restored.restore(&[2]).is_err());
}
