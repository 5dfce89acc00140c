use super::spec::PAGE;
use super::*;
use crate::contract::device_contract;
use crate::contract::driver::{BUFFERS, Driver, RAM, RAM_SIZE};
use crate::contract::rig::Rig;
use crate::serve::{Device, Wake};

/// A page that nothing else of these tests uses.
const VICTIM: u64 = RAM + 0x10_0000 + 16 * PAGE;

fn plain() -> BalloonDevice {
    BalloonDevice::new(Settings::default())
}

/// Asks for the pages to be taken that begin at these addresses.
fn give(driver: &mut Driver, addresses: &[u64]) {
    for (index, address) in (0..).zip(addresses) {
        driver.write(((address / PAGE) as u32).to_le(), BUFFERS + 4 * index);
    }
    driver.describe(0, (BUFFERS, 4 * addresses.len() as u32, 0, 0));
}

device_contract!(
    plain(),
    |driver: &mut Driver| {
        driver.write(0x55u8, VICTIM + 7);
        give(driver, &[VICTIM]);
    },
    |driver: &Driver, length: u32| length == 0 && driver.read::<u8>(VICTIM + 7) == 0
);

#[test]
fn only_pages_that_are_named_are_freed() {
    let mut rig = Rig::start(plain);
    rig.start_queue(0);
    let pages: Vec<u64> = (0..8).map(|page| VICTIM + page * PAGE).collect();
    for page in &pages {
        rig.driver.write(0x77u8, *page);
    }
    // In no order, one of them twice, and some that are nowhere.
    let nowhere = [0, RAM - PAGE, RAM + RAM_SIZE, u64::from(u32::MAX) * PAGE];
    give(&mut rig.driver, &[&[pages[5], pages[2], pages[3], pages[3]], &nowhere[..]].concat());
    assert_eq!(rig.round_trip(0), (0, 0));
    let left: Vec<bool> = pages.iter().map(|page| rig.driver.read::<u8>(*page) != 0).collect();
    assert_eq!(left, [true, true, false, false, true, false, true, true]);
}

#[test]
fn the_driver_writes_what_it_has_given_and_nothing_else() {
    let mut device = BalloonDevice::new(Settings { size: 8 << 20, ..Settings::default() });
    assert_eq!(device.config()[..8], [0, 8, 0, 0, 0, 0, 0, 0]);
    device.write_config(0, &[0xff; 16]);
    assert_eq!(device.config(), [0, 8, 0, 0, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 0, 0, 0]);
    device.write_config(4, &[2, 0, 0, 0]);
    assert_eq!(device.order(b"", None, &mut Wake::default()), Ok(b"8192".to_vec()));
}

#[test]
fn an_order_changes_what_the_guest_is_asked_for() {
    let mut device = plain();
    assert_eq!(device.order(b"1048576", None, &mut Wake::default()), Ok(b"0".to_vec()));
    assert_eq!(device.config()[..4], [0, 1, 0, 0]);
    assert!(device.order(b"much", None, &mut Wake::default()).is_err());
    let _ = device.order(u64::MAX.to_string().as_bytes(), None, &mut Wake::default());
    assert_eq!(device.config()[..4], [0xff; 4]);
}

#[test]
fn reporting_has_the_same_queue_however_a_driver_counts() {
    let device = BalloonDevice::new(Settings { free_page_reporting: true, ..Settings::default() });
    assert_eq!(device.queue_sizes().len(), 5);
    assert_eq!(plain().queue_sizes().len(), 2);
}

#[test]
fn what_the_driver_has_given_is_saved_and_put_back() {
    let mut device = plain();
    device.write_config(4, &[2, 0, 0, 0]);
    let saved = device.save();
    let mut other = BalloonDevice::new(Settings { size: 8192, ..Settings::default() });
    other.restore(&saved).unwrap();
    assert_eq!(other.order(b"", None, &mut Wake::default()), Ok(b"8192".to_vec()));
    assert_eq!(other.save(), saved);
    assert!(other.restore(&saved[..3]).is_err());
}
