use proptest::prelude::*;

use super::*;
use crate::pci::BarIndex;
use crate::pci::config::{ConfigSpace, Identity};
use crate::pci::spec::{COMMAND, COMMAND_MEMORY};

const BAR_SIZE: u64 = 0x4000;
const MEM64: u64 = 0x80_0000_0000;

/// Offset and bytes.
type Store = (u64, Vec<u8>);

/// A function with one BAR that answers with the offset it was read at, and remembers what was decoded.
struct Probe {
    config: ConfigSpace,
    decoded: Arc<Mutex<Vec<DecodedBar>>>,
    written: Arc<Mutex<Vec<Store>>>,
}

#[derive(Clone, Default)]
struct Seen {
    decoded: Arc<Mutex<Vec<DecodedBar>>>,
    written: Arc<Mutex<Vec<Store>>>,
}

fn probe_function(seen: &Seen) -> SharedFunction {
    let mut config = ConfigSpace::new(Identity {
        vendor: 0x1af4,
        device: 0x1044,
        revision: 1,
        class: [0xff, 0, 0],
        subsystem_vendor: 0x1af4,
        subsystem: 4,
    });
    config.add_memory_bar(BarIndex::ZERO, BAR_SIZE);
    let Seen { decoded, written } = seen.clone();
    Arc::new(Mutex::new(Probe { config, decoded, written }))
}

impl PciFunction for Probe {
    fn config_read(&mut self, offset: u16, data: &mut [u8]) {
        self.config.read(offset, data);
    }

    fn config_write(&mut self, offset: u16, data: &[u8]) {
        self.config.write(offset, data);
    }

    fn bars(&self) -> Vec<DecodedBar> {
        self.config.decoded_bars()
    }

    fn bars_decoded(&mut self, decoded: &[DecodedBar]) {
        *lock(&self.decoded) = decoded.to_vec();
    }

    fn bar_read(&mut self, _bar: BarIndex, offset: u64, data: &mut [u8]) {
        assert!(offset + data.len() as u64 <= BAR_SIZE);
        data.fill((offset >> 2) as u8);
    }

    fn bar_write(&mut self, _bar: BarIndex, offset: u64, data: &[u8]) {
        assert!(offset + data.len() as u64 <= BAR_SIZE);
        lock(&self.written).push((offset, data.to_vec()));
    }

    fn reset(&mut self) {
        self.config.reset();
    }
}

fn segment() -> Arc<PciSegment> {
    PciSegment::new(SegmentLayout {
        number: 0,
        ecam: AddressRange::new(0x3000_0000, 16 * ECAM_BUS_SIZE).unwrap(),
        mem32: AddressRange::new(0x1000_0000, 0x2000_0000).unwrap(),
        mem64: AddressRange::new(MEM64, 0x40_0000_0000).unwrap(),
    })
}

fn config_u32(segment: &PciSegment, offset: u64) -> u32 {
    let mut data = [0; 4];
    segment.config_read(offset, &mut data);
    u32::from_le_bytes(data)
}

fn enable(segment: &PciSegment, bdf: Bdf) {
    segment.config_write(ecam(bdf) + COMMAND as u64, &COMMAND_MEMORY.to_le_bytes());
}

fn move_bar(segment: &PciSegment, bdf: Bdf, address: u64) {
    segment.config_write(ecam(bdf) + 0x10, &(address as u32).to_le_bytes());
    segment.config_write(ecam(bdf) + 0x14, &((address >> 32) as u32).to_le_bytes());
}

fn ecam(bdf: Bdf) -> u64 {
    u64::from(bdf.requester_id()) << 12
}

fn byte_at(segment: &PciSegment, address: u64) -> u8 {
    let mut data = [0];
    segment.memory_read(address, &mut data);
    data[0]
}

#[test]
fn the_host_bridge_is_at_the_first_function_and_nothing_else_is() {
    let segment = segment();
    assert_eq!(config_u32(&segment, 0), 0x0008_1b36);
    assert_eq!(config_u32(&segment, 8) >> 16, 0x0600);
    for offset in [0x1000, 0x8000, 0x10_0000, 16 * ECAM_BUS_SIZE - 4] {
        assert_eq!(config_u32(&segment, offset), u32::MAX, "{offset:#x}");
    }
}

#[test]
fn odd_configuration_accesses_are_answered_with_ones() {
    let segment = segment();
    for (offset, len) in [(0, 8), (1, 2), (2, 4), (0, 3), (0, 0), (16 * ECAM_BUS_SIZE, 4), (u64::MAX, 1)] {
        let mut data = vec![0; len];
        segment.config_read(offset, &mut data);
        assert!(data.iter().all(|byte| *byte == 0xff), "{offset:#x} {len}");
        segment.config_write(offset, &data);
    }
    assert_eq!(config_u32(&segment, 0), 0x0008_1b36);
}

#[test]
fn extended_configuration_space_is_empty() {
    assert_eq!(config_u32(&segment(), 0x100), 0);
}

#[test]
fn bars_get_addresses_in_the_high_window_and_are_not_decoded_until_enabled() {
    let segment = segment();
    let seen = Seen::default();
    let bdf = segment.insert(1, probe_function(&seen)).unwrap();
    let range = AddressRange::new(MEM64, BAR_SIZE).unwrap();
    assert_eq!(segment.functions()[1], (bdf, vec![DecodedBar { bar: BarIndex::ZERO, range }]));
    assert_eq!(byte_at(&segment, MEM64 + 8), 0xff);
    enable(&segment, bdf);
    assert_eq!(byte_at(&segment, MEM64 + 8), 2);
    assert_eq!(lock(&seen.decoded)[0].range, range);
}

#[test]
fn a_moved_bar_answers_at_its_new_place_only() {
    let segment = segment();
    let bdf = segment.insert(1, probe_function(&Seen::default())).unwrap();
    enable(&segment, bdf);
    move_bar(&segment, bdf, 0x1000_0000);
    assert_eq!(byte_at(&segment, MEM64), 0xff);
    assert_eq!(byte_at(&segment, 0x1000_0004), 1);
    segment.config_write(ecam(bdf) + COMMAND as u64, &[0, 0]);
    assert_eq!(byte_at(&segment, 0x1000_0004), 0xff);
}

#[test]
fn a_bar_outside_the_windows_is_not_decoded() {
    let segment = segment();
    let seen = Seen::default();
    let bdf = segment.insert(1, probe_function(&seen)).unwrap();
    enable(&segment, bdf);
    // On the UART, on RAM, at the end of a window, at the top of the address space.
    for address in [0x0900_0000, 0x4000_0000, 0x3000_0000, 0xffff_ffff_ffff_c000] {
        move_bar(&segment, bdf, address);
        assert_eq!(byte_at(&segment, address), 0xff, "{address:#x}");
        assert!(lock(&seen.decoded).is_empty(), "{address:#x}");
    }
}

#[test]
fn of_two_overlapping_bars_the_first_answers() {
    let segment = segment();
    let (seen, other) = (Seen::default(), Seen::default());
    let first = segment.insert(1, probe_function(&seen)).unwrap();
    let second = segment.insert(2, probe_function(&other)).unwrap();
    enable(&segment, first);
    enable(&segment, second);
    move_bar(&segment, second, MEM64);
    segment.memory_write(MEM64, &[1, 2, 3, 4]);
    assert_eq!(*lock(&seen.written), [(0, vec![1, 2, 3, 4])]);
    assert!(lock(&other.written).is_empty() && lock(&other.decoded).is_empty());
}

#[test]
fn an_access_across_the_end_of_a_bar_is_not_decoded() {
    let segment = segment();
    let bdf = segment.insert(1, probe_function(&Seen::default())).unwrap();
    enable(&segment, bdf);
    let mut data = [0; 8];
    segment.memory_read(MEM64 + BAR_SIZE - 4, &mut data);
    assert_eq!(data, [0xff; 8]);
    segment.memory_read(u64::MAX - 3, &mut data);
}

#[test]
fn a_removed_function_is_gone_and_its_addresses_are_free_again() {
    let segment = segment();
    let seen = Seen::default();
    let bdf = segment.insert(3, probe_function(&seen)).unwrap();
    enable(&segment, bdf);
    assert!(segment.remove(bdf).is_some());
    assert!(lock(&seen.decoded).is_empty());
    assert_eq!(byte_at(&segment, MEM64), 0xff);
    assert_eq!(config_u32(&segment, ecam(bdf)), u32::MAX);
    let again = segment.insert(3, probe_function(&seen)).unwrap();
    assert_eq!(segment.functions()[1].1[0].range.base(), MEM64);
    assert_eq!(segment.insert(3, probe_function(&seen)), Err(InsertError::Taken(again)));
    assert_eq!(segment.insert(32, probe_function(&seen)), Err(InsertError::NoSuchSlot(32)));
}

#[test]
fn a_segment_holds_31_devices_beside_its_bridge() {
    let segment = segment();
    for slot in 1..32 {
        assert_eq!(segment.free_slot(), Ok(slot));
        segment.insert(slot, probe_function(&Seen::default())).unwrap();
    }
    assert_eq!(segment.free_slot(), Err(InsertError::Full(0)));
}

#[test]
fn a_reset_ends_decoding() {
    let segment = segment();
    let seen = Seen::default();
    let bdf = segment.insert(1, probe_function(&seen)).unwrap();
    enable(&segment, bdf);
    segment.reset();
    assert!(lock(&seen.decoded).is_empty());
    assert_eq!(byte_at(&segment, MEM64), 0xff);
}

#[test]
fn a_slow_function_does_not_delay_its_neighbours() {
    let segment = segment();
    let slow = probe_function(&Seen::default());
    segment.insert(1, Arc::clone(&slow)).unwrap();
    let bdf = segment.insert(2, probe_function(&Seen::default())).unwrap();
    // Would not return if any lock but the function's own were needed.
    let _held = lock(&slow);
    enable(&segment, bdf);
    assert_eq!(byte_at(&segment, MEM64 + BAR_SIZE + 4), 1);
}

proptest! {
    #[test]
    fn no_sequence_of_accesses_panics_or_leaves_a_bar(
        steps in prop::collection::vec((any::<bool>(), any::<bool>(), any::<u64>(), 0u8..9, any::<u64>()), 1..200)
    ) {
        let segment = segment();
        for slot in 1..4 {
            segment.insert(slot, probe_function(&Seen::default())).unwrap();
        }
        for (is_config, is_write, place, len, value) in steps {
            let bytes = value.to_le_bytes();
            let mut data = bytes[..usize::from(len).min(8)].to_vec();
            // Mostly near something: the first functions' headers, the windows.
            let near = if is_config { place % 0x2_0000 } else { MEM64 + place % 0x1_0000 };
            let at = if place & 7 == 7 { place } else { near };
            match (is_config, is_write) {
                (true, true) => segment.config_write(at, &data),
                (true, false) => segment.config_read(at, &mut data),
                (false, true) => segment.memory_write(at, &data),
                (false, false) => segment.memory_read(at, &mut data),
            }
        }
    }
}
