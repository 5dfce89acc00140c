use super::super::config::{ConfigSpace, Identity};
use super::super::segment::SegmentLayout;
use super::super::spec::{
    BRIDGE_BUS_RESET, BRIDGE_CONTROL, COMMAND, COMMAND_MEMORY, ECAM_BUS_SIZE, MEMORY_WINDOW, PRIMARY_BUS,
};
use super::super::{AddressRange, BarIndex, DecodedBar, PciFunction};
use super::*;
use crate::fakes::FakeVectors;

const MEM32: u64 = 0x1000_0000;

/// An endpoint with one BAR of 16 KiB, and how often it was reset.
struct Endpoint {
    config: ConfigSpace,
    resets: Arc<Mutex<u32>>,
}

impl PciFunction for Endpoint {
    fn config_read(&mut self, offset: u16, data: &mut [u8]) {
        self.config.read(offset, data);
    }

    fn config_write(&mut self, offset: u16, data: &[u8]) {
        self.config.write(offset, data);
    }

    fn bars(&self) -> Vec<DecodedBar> {
        self.config.decoded_bars()
    }

    fn bar_read(&mut self, _bar: BarIndex, _offset: u64, data: &mut [u8]) {
        data.fill(0x5a);
    }

    fn bar_write(&mut self, _bar: BarIndex, _offset: u64, _data: &[u8]) {}

    fn reset(&mut self) {
        *lock(&self.resets) += 1;
        self.config.reset();
    }
}

fn endpoint() -> (Arc<Mutex<u32>>, SharedFunction) {
    let mut config = ConfigSpace::new(Identity {
        vendor: 0x1af4,
        device: 0x1042,
        revision: 1,
        class: [1, 0, 0],
        subsystem_vendor: 0x1af4,
        subsystem: 2,
    });
    config.add_memory_bar(BarIndex::ZERO, 0x4000);
    let resets = Arc::new(Mutex::new(0));
    (Arc::clone(&resets), Arc::new(Mutex::new(Endpoint { config, resets })))
}

fn segment(ports: u8) -> Arc<PciSegment> {
    let segment = PciSegment::new(SegmentLayout {
        number: 0,
        ecam: AddressRange::new(0x3000_0000, 16 * ECAM_BUS_SIZE).unwrap(),
        mem32: AddressRange::new(MEM32, 0x2000_0000).unwrap(),
        mem64: AddressRange::new(0x80_0000_0000, 0x40_0000_0000).unwrap(),
    });
    for PortPlace { bdf, home, shared } in port_places(ports) {
        let vectors = Arc::new(FakeVectors::new(1));
        let port = RootPort::new(home, home.into(), shared, vectors, Arc::new(|| ()));
        segment.add_port(bdf, port).unwrap();
    }
    segment
}

fn at(bdf: Bdf, register: usize) -> u64 {
    (u64::from(bdf.requester_id()) << 12) + register as u64
}

fn bdf(bus: u8, device: u8, function: u8) -> Bdf {
    Bdf::new(bus, device, function).unwrap()
}

fn identity(segment: &PciSegment, bdf: Bdf) -> u32 {
    let mut data = [0; 4];
    segment.config_read(at(bdf, 0), &mut data);
    u32::from_le_bytes(data)
}

fn byte(segment: &PciSegment, address: u64) -> u8 {
    let mut data = [0];
    segment.memory_read(address, &mut data);
    data[0]
}

/// What Linux does with a device behind the port at 1f.`function`: opens a window, places the BAR, enables both.
fn set_up(segment: &PciSegment, port: Bdf, device: Bdf) {
    segment.config_write(at(port, MEMORY_WINDOW), &0x1010_1000_u32.to_le_bytes());
    segment.config_write(at(port, COMMAND), &COMMAND_MEMORY.to_le_bytes());
    segment.config_write(at(device, 0x10), &(MEM32 as u32).to_le_bytes());
    segment.config_write(at(device, 0x14), &[0; 4]);
    segment.config_write(at(device, COMMAND), &COMMAND_MEMORY.to_le_bytes());
}

#[test]
fn ports_have_the_highest_device_numbers_and_buses_in_the_order_of_a_scan() {
    let places =
        |count| port_places(count).iter().map(|p| (p.bdf.to_string(), p.home, p.shared)).collect::<Vec<_>>();
    assert_eq!(places(1), [("00:1f.0".to_owned(), 1, false)]);
    assert_eq!(places(2)[1], ("00:1f.1".to_owned(), 2, true));
    let nine = places(9);
    assert_eq!(nine[0], ("00:1e.0".to_owned(), 1, true));
    assert_eq!(nine[7], ("00:1e.7".to_owned(), 8, true));
    assert_eq!(nine[8], ("00:1f.0".to_owned(), 9, false));
    assert_eq!(places(200).len(), 15, "a segment has 16 buses");
}

#[test]
fn cold_devices_are_put_before_the_ports() {
    let segment = segment(9);
    for slot in 1..30 {
        assert_eq!(segment.free_slot(), Ok(slot));
        segment.insert(slot, endpoint().1).unwrap();
    }
    assert_eq!(segment.free_slot(), Err(InsertError::Full(0)));
    assert_eq!(identity(&segment, bdf(0, 0x1e, 7)), 0x000c_1b36);
}

#[test]
fn what_is_plugged_in_is_found_behind_its_port_and_nowhere_else() {
    let segment = segment(8);
    assert_eq!(segment.free_port(), Ok(1));
    segment.plug(1, endpoint().1).unwrap();
    assert_eq!(segment.free_port(), Ok(2));
    assert_eq!(identity(&segment, bdf(1, 0, 0)), 0x1042_1af4);
    for elsewhere in [bdf(1, 1, 0), bdf(1, 0, 1), bdf(2, 0, 0), bdf(15, 0, 0)] {
        assert_eq!(identity(&segment, elsewhere), u32::MAX, "{elsewhere}");
    }
    assert!(segment.unplug(1).is_some());
    assert_eq!(identity(&segment, bdf(1, 0, 0)), u32::MAX);
    assert!(segment.unplug(1).is_none());
}

#[test]
fn a_full_segment_and_a_port_that_is_not_there_are_refused() {
    let segment = segment(2);
    segment.plug(1, endpoint().1).unwrap();
    assert_eq!(segment.plug(1, endpoint().1), Err(InsertError::Taken(bdf(1, 0, 0))));
    segment.plug(2, endpoint().1).unwrap();
    assert_eq!(segment.free_port(), Err(InsertError::NoFreePort { segment: 0, ports: 2 }));
    assert_eq!(segment.plug(3, endpoint().1), Err(InsertError::NoSuchPort(3)));
}

#[test]
fn a_guest_may_number_the_buses_as_it_likes() {
    let segment = segment(2);
    segment.plug(1, endpoint().1).unwrap();
    segment.config_write(at(bdf(0, 31, 0), PRIMARY_BUS), &[0, 7, 7, 0]);
    assert_eq!(identity(&segment, bdf(1, 0, 0)), u32::MAX);
    assert_eq!(identity(&segment, bdf(7, 0, 0)), 0x1042_1af4);
    assert_eq!(segment.bus_of(1), Some(7));
}

#[test]
fn a_bar_answers_where_its_port_lets_it_through() {
    let segment = segment(1);
    segment.plug(1, endpoint().1).unwrap();
    let port = bdf(0, 31, 0);
    set_up(&segment, port, bdf(1, 0, 0));
    assert_eq!(byte(&segment, MEM32), 0x5a);
    segment.config_write(at(port, MEMORY_WINDOW), &0x1020_1020_u32.to_le_bytes());
    assert_eq!(byte(&segment, MEM32), 0xff, "the port forwards other addresses");
    segment.config_write(at(port, MEMORY_WINDOW), &0x1000_1000_u32.to_le_bytes());
    assert_eq!(byte(&segment, MEM32), 0x5a);
    segment.config_write(at(port, COMMAND), &[0, 0]);
    assert_eq!(byte(&segment, MEM32), 0xff, "the port forwards no memory");
    segment.unplug(1);
    segment.config_write(at(port, COMMAND), &COMMAND_MEMORY.to_le_bytes());
    assert_eq!(byte(&segment, MEM32), 0xff, "nothing is there");
}

#[test]
fn a_reset_of_the_bus_resets_what_is_on_it_once() {
    let segment = segment(1);
    let (resets, device) = endpoint();
    segment.plug(1, device).unwrap();
    let port = bdf(0, 31, 0);
    set_up(&segment, port, bdf(1, 0, 0));
    let control = at(port, BRIDGE_CONTROL);
    segment.config_write(control, &BRIDGE_BUS_RESET.to_le_bytes());
    segment.config_write(control, &BRIDGE_BUS_RESET.to_le_bytes());
    assert_eq!(identity(&segment, bdf(1, 0, 0)), u32::MAX, "nothing answers during a reset");
    segment.config_write(control, &[0, 0]);
    assert_eq!(*lock(&resets), 1);
    assert_eq!(identity(&segment, bdf(1, 0, 0)), 0x1042_1af4);
    assert_eq!(byte(&segment, MEM32), 0xff, "a reset ends decoding");
}

#[test]
fn a_reset_of_the_machine_gives_buses_their_first_numbers() {
    let segment = segment(1);
    segment.plug(1, endpoint().1).unwrap();
    segment.config_write(at(bdf(0, 31, 0), PRIMARY_BUS), &[0, 7, 7, 0]);
    segment.reset();
    assert_eq!(identity(&segment, bdf(1, 0, 0)), 0x1042_1af4);
}
