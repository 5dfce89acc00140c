use std::fs::File;

use proptest::prelude::*;
use rustix::fs::{MemfdFlags, memfd_create};
use vm_memory::{Bytes, GuestAddress};

use super::spec::{
    ACK, ERROR, MIXED, NACK, PLUG, PLUGGED, REQUEST_SIZE, Request, STATE, UNPLUG, UNPLUG_ALL, UNPLUGGED,
    answer,
};
use super::*;
use crate::contract::bench::Bench;
use crate::contract::device_contract;
use crate::contract::driver::RAM;
use crate::serve::{Device, Wake};

const SMALL: u64 = 0x1_0000;
const ADDRESS: u64 = RAM + 0x10_0000;
const BLOCKS: u64 = 11;

fn settings(requested: u64) -> Settings {
    Settings { block: SMALL, address: ADDRESS, size: BLOCKS * SMALL, requested: requested * SMALL }
}

fn device(requested: u64) -> MemDevice {
    MemDevice::new(settings(requested), None).unwrap()
}

fn request(kind: u16, block: u64, blocks: u16) -> Request {
    Request { kind, address: ADDRESS + block * SMALL, blocks }
}

/// The answer to a request, and the state that it tells.
fn ask(bench: &mut Bench<MemDevice>, request: Request) -> (u16, u16) {
    let at = bench.ask(0, &request.bytes(), 16);
    bench.serve(0).unwrap();
    (u16::from(bench.read_answer(at)), u16::from(bench.read_answer(at + 8)))
}

fn plugged(bench: &mut Bench<MemDevice>) -> u64 {
    let told = bench.device.order(b"", None, &mut Wake::default()).unwrap();
    String::from_utf8(told).unwrap().parse::<u64>().unwrap() / SMALL
}

device_contract!(
    device(4),
    |driver: &mut Driver| {
        driver.write(request(STATE, 0, 1).bytes(), BUFFERS);
        driver.describe(0, (BUFFERS, REQUEST_SIZE as u32, NEXT, 1));
        driver.describe(1, (BUFFERS + 64, 16, WRITE, 0));
    },
    |driver: &Driver, length: u32| length == 10
        && driver.read::<[u8; 10]>(BUFFERS + 64) == answer(ACK, UNPLUGGED)
);

#[test]
fn blocks_are_plugged_and_unplugged_up_to_what_is_asked_for() {
    let mut bench = Bench::new(device(4));
    assert_eq!(ask(&mut bench, request(PLUG, 1, 3)).0, ACK);
    assert_eq!(ask(&mut bench, request(STATE, 1, 3)), (ACK, PLUGGED));
    assert_eq!(ask(&mut bench, request(STATE, 0, 2)), (ACK, MIXED));
    assert_eq!(ask(&mut bench, request(STATE, 4, 7)), (ACK, UNPLUGGED));
    assert_eq!(ask(&mut bench, request(PLUG, 5, 2)).0, NACK);
    assert_eq!(ask(&mut bench, request(PLUG, 10, 1)).0, ACK);
    assert_eq!(plugged(&mut bench), 4);
    assert_eq!(ask(&mut bench, request(UNPLUG, 2, 2)).0, ACK);
    assert_eq!(plugged(&mut bench), 2);
    assert_eq!(bench.device.config()[40..48], (2 * SMALL).to_le_bytes());
    assert_eq!(ask(&mut bench, request(UNPLUG_ALL, 0, 0)).0, ACK);
    assert_eq!(plugged(&mut bench), 0);
}

#[test]
fn what_is_wrong_is_refused_and_changes_nothing() {
    let mut bench = Bench::new(device(BLOCKS));
    assert_eq!(ask(&mut bench, request(PLUG, 3, 1)).0, ACK);
    let wrong = [
        request(PLUG, 3, 1),
        request(PLUG, 2, 3),
        request(UNPLUG, 3, 2),
        request(UNPLUG, 0, 1),
        request(PLUG, 0, 0),
        request(PLUG, BLOCKS, 1),
        request(PLUG, 10, 2),
        request(PLUG, 0, u16::MAX),
        request(STATE, 10, 2),
        request(4, 0, 1),
        request(u16::MAX, 0, 1),
        Request { address: ADDRESS + 1, ..request(PLUG, 0, 1) },
        Request { address: ADDRESS - SMALL, ..request(PLUG, 0, 1) },
        Request { address: 0, ..request(PLUG, 0, 1) },
        Request { address: !(SMALL - 1), ..request(PLUG, 0, 1) },
    ];
    for request in wrong {
        assert_eq!(ask(&mut bench, request).0, ERROR, "{request:?}");
        assert_eq!(plugged(&mut bench), 1, "{request:?}");
    }
    let at = bench.ask(0, &[0; REQUEST_SIZE - 1], 16);
    bench.serve(0).unwrap();
    assert_eq!(u16::from(bench.read_answer(at)), ERROR);
    // Without room for the answer nothing is done.
    bench.ask(0, &request(UNPLUG, 3, 1).bytes(), 9);
    bench.serve(0).unwrap();
    assert_eq!(plugged(&mut bench), 1);
}

#[test]
fn an_unplugged_block_is_empty_and_its_neighbours_are_not() {
    let mut bench = Bench::new(device(BLOCKS));
    ask(&mut bench, request(PLUG, 0, 6));
    let memory = bench.memory();
    for block in 0..6 {
        memory.write_obj(0x77u8, GuestAddress(ADDRESS + block * SMALL + 5)).unwrap();
    }
    ask(&mut bench, request(UNPLUG, 2, 2));
    let left = (0..6).map(|block| memory.read_obj::<u8>(GuestAddress(ADDRESS + block * SMALL + 5)).unwrap());
    assert_eq!(left.collect::<Vec<_>>(), [0x77, 0x77, 0, 0, 0x77, 0x77]);
}

#[test]
fn an_order_changes_what_the_guest_is_asked_for() {
    let mut device = device(0);
    device.order((3 * SMALL).to_string().as_bytes(), None, &mut Wake::default()).unwrap();
    assert_eq!(device.config()[48..], (3 * SMALL).to_le_bytes());
    let bad = [(BLOCKS + 1) * SMALL, 1, u64::MAX].map(|bytes| bytes.to_string());
    for bad in bad.iter().map(String::as_str).chain(["much", "-1"]) {
        device.order(bad.as_bytes(), None, &mut Wake::default()).unwrap_err();
    }
    assert_eq!(device.config()[48..], (3 * SMALL).to_le_bytes());
}

#[test]
fn the_configuration_is_laid_out_as_the_specification_has_it() {
    let device = MemDevice::new(settings(1), None).unwrap();
    let field = |index: usize| u64::from_le_bytes(device.config()[8 * index..][..8].try_into().unwrap());
    let fields: Vec<u64> = (0..7).map(field).collect();
    assert_eq!(fields, [SMALL, 0, ADDRESS, BLOCKS * SMALL, BLOCKS * SMALL, 0, SMALL]);
}

fn notes() -> File {
    memfd_create("notes", MemfdFlags::CLOEXEC).unwrap().into()
}

#[test]
fn a_successor_knows_what_is_plugged_and_does_what_was_in_flight_once() {
    let notes = notes();
    let start = |notes: &File| MemDevice::new(settings(8), Some(notes.try_clone().unwrap())).unwrap();
    let mut bench = Bench::new(start(&notes));
    assert_eq!(ask(&mut bench, request(PLUG, 0, 3)).0, ACK);
    assert_eq!(ask(&mut bench, request(PLUG, 4, 2)).0, ACK);
    // It dies with the last request done and not answered: the successor is given it again.
    let mut bench = Bench::new(start(&notes));
    assert_eq!(plugged(&mut bench), 5);
    assert_eq!(ask(&mut bench, request(PLUG, 4, 2)).0, ACK);
    assert_eq!(plugged(&mut bench), 5);
    // Only that one, and only once.
    assert_eq!(ask(&mut bench, request(PLUG, 4, 2)).0, ERROR);
    let mut bench = Bench::new(start(&notes));
    assert_eq!(ask(&mut bench, request(PLUG, 0, 3)).0, ERROR);
    assert_eq!(ask(&mut bench, request(UNPLUG, 1, 1)).0, ACK);
    let mut bench = Bench::new(start(&notes));
    assert_eq!(ask(&mut bench, request(UNPLUG, 1, 1)).0, ACK);
    assert_eq!(plugged(&mut bench), 4);
}

#[test]
fn what_is_plugged_is_saved_and_put_back() {
    let mut bench = Bench::new(device(BLOCKS));
    ask(&mut bench, request(PLUG, 2, 4));
    ask(&mut bench, request(PLUG, 10, 1));
    let saved = bench.device.save();
    let mut other = Bench::new(device(BLOCKS));
    other.device.restore(&saved).unwrap();
    assert_eq!(plugged(&mut other), 5);
    assert_eq!(ask(&mut other, request(STATE, 2, 4)), (ACK, PLUGGED));
    for bad in [&[][..], &[0], &[0; 3], &[0, 0x08], &[0xff, 0xff]] {
        other.device.restore(bad).unwrap_err();
        assert_eq!(plugged(&mut other), 5);
    }
}

#[test]
fn settings_that_make_no_blocks_are_refused() {
    let good = settings(0);
    let bad = [
        Settings { block: 0, ..good },
        Settings { block: 3 * SMALL, ..good },
        Settings { address: ADDRESS + 1, ..good },
        Settings { size: 0, ..good },
        Settings { size: SMALL + 1, ..good },
        Settings { address: !(SMALL - 1), size: 2 * SMALL, ..good },
    ];
    for settings in bad {
        assert!(MemDevice::new(settings, None).is_err(), "{settings:?}");
    }
}

proptest! {
    /// Whatever a guest asks: what is plugged is what was acknowledged, and never more than it was asked to plug.
    #[test]
    fn any_requests_leave_what_their_answers_say(
        requests in proptest::collection::vec((0u16..5, 0u64..BLOCKS + 2, 0u16..5), 1..40),
        requested in 0..=BLOCKS,
    ) {
        let mut bench = Bench::new(device(requested));
        let mut model = vec![false; BLOCKS as usize];
        for (kind, block, blocks) in requests {
            let (answer, _) = ask(&mut bench, request(kind, block, blocks));
            match (answer, kind) {
                (ACK, PLUG | UNPLUG) => {
                    let range = &mut model[block as usize..][..usize::from(blocks)];
                    prop_assert!(range.iter().all(|plugged| *plugged == (kind == UNPLUG)));
                    range.fill(kind == PLUG);
                }
                (ACK, UNPLUG_ALL) => model.fill(false),
                _ => {}
            }
            let count = model.iter().filter(|plugged| **plugged).count() as u64;
            prop_assert_eq!(plugged(&mut bench), count);
            prop_assert!(count <= requested);
        }
    }

    #[test]
    fn a_request_is_the_same_after_its_bytes(kind: u16, address: u64, blocks: u16) {
        let request = Request { kind, address, blocks };
        prop_assert_eq!(Request::of(&request.bytes()), request);
    }
}
