use std::os::unix::net::UnixStream;
use std::sync::Mutex;

use proptest::prelude::*;
use vm_memory::{Bytes, GuestAddress, GuestAddressSpace};

use super::*;
use crate::fakes::{BackendLog, FakeBackend, FakeDoorbells, FakeVectors};
use crate::pci::spec::{CAPABILITY_POINTER, CAPABILITY_VENDOR, COMMAND, COMMAND_MEMORY, MSIX_ENABLE};
use crate::pci::{AddressRange, BarIndex};
use crate::sync::lock;
use crate::virtio::spec::{
    CAP_COMMON, CAP_DEVICE, CAP_ISR, CAP_NOTIFY, CAP_PCI, F_VERSION_1, NO_VECTOR, STATUS_DRIVER_OK,
    STATUS_NEEDS_RESET, common,
};

const RAM: u64 = 0x4000_0000;
const UP: [u8; 3] = [1, 3, 11];

/// A device with everything around it.
struct Bench {
    device: VirtioPciDevice,
    log: Arc<Mutex<BackendLog>>,
    vectors: Arc<FakeVectors>,
    doorbells: Arc<FakeDoorbells>,
    memory: GuestMemory,
    faults: Arc<Mutex<Vec<String>>>,
}

fn bench() -> Bench {
    let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(RAM), 0x10_0000)]).unwrap();
    let memory = GuestMemoryAtomic::new(memory);
    let vectors = Arc::new(FakeVectors::new(3));
    let doorbells = Arc::new(FakeDoorbells::default());
    let (log, backend) = FakeBackend::new(2);
    let device = VirtioPciDevice::new(
        "_rng0",
        DeviceType::Rng,
        Box::new(backend),
        Arc::<FakeVectors>::clone(&vectors),
        Arc::<FakeDoorbells>::clone(&doorbells),
        memory.clone(),
    )
    .unwrap();
    let faults = Arc::new(Mutex::new(Vec::new()));
    Bench { device, log, vectors, doorbells, memory, faults }
}

impl Bench {
    /// With an owner who is told of faults.
    fn watched(mut self) -> Self {
        let faults = Arc::clone(&self.faults);
        self.device = self.device.on_fault(Arc::new(move |id, fault| {
            lock(&faults).push(format!("{id}: {fault}"));
        }));
        self
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        self.device.bar_write(BarIndex::ZERO, offset, data);
    }

    fn read<const N: usize>(&mut self, offset: u64) -> [u8; N] {
        let mut data = [0; N];
        self.device.bar_read(BarIndex::ZERO, offset, &mut data);
        data
    }

    fn status(&mut self) -> u8 {
        self.read::<1>(common::DEVICE_STATUS)[0]
    }

    fn set_up_queue(&mut self, index: u16, base: u64) {
        self.write(common::QUEUE_SELECT, &index.to_le_bytes());
        self.write(common::QUEUE_SIZE, &64u16.to_le_bytes());
        self.write(common::QUEUE_VECTOR, &(index + 1).to_le_bytes());
        for (register, offset) in
            [(common::QUEUE_DESC, 0), (common::QUEUE_DRIVER, 0x1000), (common::QUEUE_DEVICE, 0x2000)]
        {
            self.write(register, &base.wrapping_add(offset).to_le_bytes());
        }
        self.write(common::QUEUE_ENABLE, &1u16.to_le_bytes());
    }

    /// Does what a driver does, with queue 0 at `base`.
    fn bring_up(&mut self, base: u64) {
        self.write(common::DRIVER_FEATURE_SELECT, &1u32.to_le_bytes());
        self.write(common::DRIVER_FEATURE, &1u32.to_le_bytes());
        for status in UP {
            self.write(common::DEVICE_STATUS, &[status]);
        }
        self.write(common::CONFIG_VECTOR, &0u16.to_le_bytes());
        self.set_up_queue(0, base);
        self.write(common::DEVICE_STATUS, &[UP[2] | STATUS_DRIVER_OK]);
    }

    fn calls(&self) -> Vec<String> {
        std::mem::take(&mut lock(&self.log).calls)
    }
}

const STARTED: &str = "start 100000000 0:64@40000000+0 call";

/// The virtio capabilities as (type, offset of the capability, offset in the BAR, length).
fn capabilities(device: &mut VirtioPciDevice) -> Vec<(u8, u16, u32, u32)> {
    let mut found = Vec::new();
    let mut read = |at: u16| {
        let mut data = [0; 4];
        device.config_read(at, &mut data);
        data
    };
    let mut at = u16::from(read(CAPABILITY_POINTER as u16)[0]);
    while at != 0 {
        let [id, next, _, kind] = read(at);
        if id == CAPABILITY_VENDOR {
            let (offset, length) = (u32::from_le_bytes(read(at + 8)), u32::from_le_bytes(read(at + 12)));
            found.push((kind, at, offset, length));
        }
        at = u16::from(next);
    }
    found
}

#[test]
fn the_capabilities_name_every_structure_once() {
    let mut bench = bench();
    let found: Vec<_> = capabilities(&mut bench.device).into_iter().map(|c| (c.0, c.2, c.3)).collect();
    let expected = [
        (CAP_COMMON, 0, 0x38),
        (CAP_ISR, 0x1000, 1),
        (CAP_DEVICE, 0x2000, 4),
        (CAP_NOTIFY, 0x3000, 8),
        (CAP_PCI, 0, 0),
    ];
    assert_eq!(found, expected);
}

#[test]
fn the_identity_is_that_of_a_modern_entropy_device() {
    let mut data = [0; 4];
    bench().device.config_read(0, &mut data);
    assert_eq!(u32::from_le_bytes(data), 0x1044_1af4);
}

#[test]
fn no_feature_that_the_transport_lacks_is_offered() {
    let mut bench = bench();
    let mut offered = 0;
    for select in 0..2u32 {
        bench.write(common::DEVICE_FEATURE_SELECT, &select.to_le_bytes());
        offered |= u64::from(u32::from_le_bytes(bench.read(common::DEVICE_FEATURE))) << (32 * select);
    }
    // Packed ring, SR-IOV, notification data and its twin, queue reset; vhost's and vhost-user's own.
    for bit in [24, 26, 27, 30, 33, 34, 37, 38, 39, 40] {
        assert_eq!(offered & 1 << bit, 0, "bit {bit}");
    }
    assert_ne!(offered & F_VERSION_1, 0);
}

#[test]
fn a_driver_that_comes_up_starts_the_back_end_once() {
    let mut bench = bench();
    bench.bring_up(RAM);
    assert_eq!(bench.calls(), [STARTED]);
    bench.write(common::DEVICE_STATUS, &[UP[2] | STATUS_DRIVER_OK]);
    assert!(bench.calls().is_empty());
    assert_eq!(bench.status(), UP[2] | STATUS_DRIVER_OK);
}

#[test]
fn its_owner_is_told_when_the_driver_comes_and_when_it_goes() {
    let mut bench = bench();
    let events = Arc::new(Mutex::new(Vec::new()));
    let sink = Arc::clone(&events);
    bench.device = bench.device.on_driver(Arc::new(move |_, event| lock(&sink).push(event)));
    bench.write(common::DEVICE_STATUS, &[0]);
    bench.bring_up(RAM);
    bench.write(common::DEVICE_STATUS, &[0]);
    bench.bring_up(0);
    assert_eq!(*lock(&events), [DriverEvent::Up, DriverEvent::Reset]);
}

#[test]
fn rings_outside_ram_lead_to_needs_reset_and_never_reach_the_back_end() {
    for base in [0, RAM + 0xf_f000, !0xfff, RAM + 8] {
        let mut bench = bench().watched();
        bench.bring_up(base);
        assert!(bench.calls().is_empty(), "{base:#x}");
        assert_eq!(bench.status() & STATUS_NEEDS_RESET, STATUS_NEEDS_RESET, "{base:#x}");
        assert_eq!(bench.vectors.raised(0), 1, "the driver is told by a configuration interrupt");
        assert_eq!(bench.read::<1>(layout::ISR), [ISR_CONFIG]);
        assert_eq!(lock(&bench.faults).len(), 1);
        bench.write(common::DEVICE_STATUS, &[0]);
        assert_eq!(bench.status(), 0);
        bench.bring_up(RAM);
        assert_eq!(bench.calls(), [STARTED]);
    }
}

#[test]
fn a_reset_stops_the_back_end_before_the_status_reads_zero() {
    let mut bench = bench();
    bench.bring_up(RAM);
    bench.write(common::DEVICE_STATUS, &[0]);
    assert_eq!(bench.calls(), [STARTED, "stop"]);
    assert_eq!(bench.status(), 0);
    assert_eq!(bench.read::<2>(common::QUEUE_ENABLE), [0, 0]);
}

#[test]
fn a_vector_changed_while_running_reaches_the_back_end() {
    let mut bench = bench();
    bench.bring_up(RAM);
    bench.calls();
    bench.write(common::QUEUE_VECTOR, &NO_VECTOR.to_le_bytes());
    bench.write(common::QUEUE_VECTOR, &2u16.to_le_bytes());
    assert_eq!(bench.calls(), ["set_call 0 false", "set_call 0 true"]);
    // Queue 1 is not enabled, queue 0xffff is not there.
    for queue in [1u16, 0xffff] {
        bench.write(common::QUEUE_SELECT, &queue.to_le_bytes());
        bench.write(common::QUEUE_VECTOR, &1u16.to_le_bytes());
    }
    assert!(bench.calls().is_empty());
}

#[test]
fn a_store_to_a_doorbell_kicks_its_queue_and_no_other_store_does() {
    let bench = &mut bench();
    for offset in [8, 0xffc, 0x7ff] {
        bench.write(layout::NOTIFY + offset, &[1, 0]);
    }
    assert!(bench.device.kicks.of(0).read().is_err() && bench.device.kicks.of(1).read().is_err());
    bench.write(layout::NOTIFY + 4, &[1, 0]);
    assert_eq!(bench.device.kicks.of(1).read().unwrap(), 1);
    assert!(bench.device.kicks.of(0).read().is_err());
}

#[test]
fn doorbells_follow_the_bar() {
    let mut bench = bench();
    let at = |base| {
        let range = AddressRange::new(base, layout::BAR_SIZE).unwrap();
        [DecodedBar { bar: BarIndex::ZERO, range }]
    };
    bench.device.bars_decoded(&at(0x1000_0000));
    assert_eq!(bench.doorbells.addresses(), [0x1000_3000, 0x1000_3004]);
    bench.device.bars_decoded(&at(0x1000_0000));
    bench.device.bars_decoded(&at(0x80_0000_0000));
    assert_eq!(bench.doorbells.addresses(), [0x80_0000_3000, 0x80_0000_3004]);
    bench.device.bars_decoded(&[]);
    assert!(bench.doorbells.addresses().is_empty());
}

#[test]
fn reading_the_interrupt_status_clears_it() {
    let mut bench = bench();
    bench.device.config_changed();
    assert_eq!(bench.read::<1>(layout::ISR), [ISR_CONFIG]);
    assert_eq!(bench.read::<1>(layout::ISR), [0]);
    assert_eq!(bench.read::<1>(common::CONFIG_GENERATION), [1]);
}

#[test]
fn device_configuration_is_read_and_written_within_its_size_only() {
    let mut bench = bench();
    assert_eq!(bench.read::<4>(layout::DEVICE), [1, 2, 3, 0]);
    bench.write(layout::DEVICE + 2, &[9, 9]);
    bench.write(layout::DEVICE + 0xfff, &[9]);
    bench.write(layout::DEVICE + 1, &[7]);
    assert_eq!(bench.calls(), ["write_config 1 [7]"]);
    assert_eq!(bench.read::<4>(layout::DEVICE), [1, 7, 3, 0]);
}

#[test]
fn msix_is_enabled_through_configuration_space_and_programmed_through_the_bar() {
    let mut bench = bench();
    let at = bench.device.msix_capability as u16;
    bench.write(layout::MSIX_TABLE + 16, &[0x40, 0, 8, 8, 0, 0, 0, 0]);
    bench.write(layout::MSIX_TABLE + 24, &[5, 0, 0, 0, 0, 0, 0, 0]);
    bench.device.config_write(at + 2, &MSIX_ENABLE.to_le_bytes());
    let message = bench.vectors.routed(1).unwrap();
    assert_eq!((message.address, message.data), (0x0808_0040, 5));
    bench.device.reset();
    assert_eq!(bench.vectors.routed(1), None);
}

#[test]
fn the_configuration_window_reaches_registers_and_nothing_outside_the_bar() {
    let mut bench = bench();
    let (_, window, ..) = capabilities(&mut bench.device).into_iter().find(|c| c.0 == CAP_PCI).unwrap();
    let mut access = |bar: u8, offset: u32, length: u32| {
        bench.device.config_write(window + 4, &[bar]);
        bench.device.config_write(window + 8, &offset.to_le_bytes());
        bench.device.config_write(window + 12, &length.to_le_bytes());
        let mut data = [0; 4];
        bench.device.config_read(window + 16, &mut data);
        data
    };
    assert_eq!(access(0, common::NUM_QUEUES as u32, 2), [2, 0, 0, 0]);
    assert_eq!(access(0, 0x2000, 1), [1, 0, 0, 0]);
    for (bar, offset, length) in
        [(1, 0, 4), (0, 0x8000, 4), (0, u32::MAX, 1), (0, 2, 4), (0, 0, 3), (0, 0, 0), (0, 0, u32::MAX)]
    {
        access(bar, offset, length);
    }
    access(0, common::DEVICE_STATUS as u32, 1);
    bench.device.config_write(window + 16, &[1]);
    assert_eq!(bench.status(), 1);
}

#[test]
fn a_dead_back_end_is_replaced_and_the_queues_go_on_where_they_were() {
    let mut bench = bench().watched();
    bench.bring_up(RAM);
    bench.memory.memory().write_obj(41u16.to_le(), GuestAddress(RAM + 0x2002)).unwrap();
    bench.calls();
    bench.device.backend_gone();
    bench.vectors.raised(1);
    bench.device.reconnect(UnixStream::pair().unwrap().0).unwrap();
    assert_eq!(bench.calls(), ["reconnect", "start 100000000 0:64@40000000+41 call"]);
    assert_eq!(bench.vectors.raised(1), 1, "an interrupt that the dead one owed");
    assert_eq!(bench.device.kicks.of(0).read().unwrap(), 1, "a kick that the dead one took");
    assert_eq!(bench.status(), UP[2] | STATUS_DRIVER_OK);
}

#[test]
fn a_driver_that_comes_up_over_a_dead_back_end_is_served_by_the_next() {
    let mut bench = bench().watched();
    lock(&bench.log).hung = true;
    bench.bring_up(RAM);
    assert_eq!(lock(&bench.faults).len(), 1);
    assert_eq!(bench.status(), UP[2] | STATUS_DRIVER_OK);
    bench.device.reconnect(UnixStream::pair().unwrap().0).unwrap();
    assert_eq!(bench.calls(), [STARTED, "reconnect", STARTED]);
}

#[test]
fn a_back_end_that_will_not_stop_keeps_the_driver_waiting_until_it_is_dead() {
    let mut bench = bench().watched();
    bench.bring_up(RAM);
    lock(&bench.log).hung = true;
    bench.write(common::DEVICE_STATUS, &[0]);
    bench.write(common::DEVICE_STATUS, &[0]);
    assert_ne!(bench.status(), 0);
    bench.device.backend_gone();
    assert_eq!(bench.status(), 0);
    assert_eq!(bench.calls(), [STARTED, "stop"]);
}

#[test]
fn without_an_owner_a_failed_back_end_means_needs_reset() {
    let mut bench = bench();
    lock(&bench.log).hung = true;
    bench.bring_up(RAM);
    assert_ne!(bench.status() & STATUS_NEEDS_RESET, 0);
    bench.write(common::DEVICE_STATUS, &[0]);
    assert_eq!(bench.status(), 0);
}

#[test]
fn every_register_takes_every_width_at_every_offset() {
    let mut bench = bench();
    for offset in 0..layout::BAR_SIZE {
        for len in [1, 2, 3, 4, 8] {
            let mut data = vec![0xa5; len];
            bench.device.bar_read(BarIndex::ZERO, offset, &mut data);
            bench.device.bar_write(BarIndex::ZERO, offset, &data);
        }
    }
    for offset in 0..0x1000 {
        let mut data = [0; 4];
        bench.device.config_read(offset, &mut data);
        bench.device.config_write(offset, &data);
        bench.device.config_write(offset, &[0xff; 4]);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn no_sequence_of_accesses_panics(
        steps in prop::collection::vec((0u8..4, 0u64..0x8000, 1usize..9, any::<u64>()), 1..400)
    ) {
        let mut bench = bench().watched();
        for (kind, place, len, value) in steps {
            // Half of the accesses go to the common configuration, with values that mean something there.
            let (offset, value) = if place & 1 == 0 { (place % 0x40, value % 0x100) } else { (place, value) };
            let mut data = value.to_le_bytes()[..len].to_vec();
            match kind {
                0 => bench.device.bar_read(BarIndex::ZERO, offset, &mut data),
                1 => bench.device.bar_write(BarIndex::ZERO, offset, &data),
                2 => bench.device.config_read((place % 0x100) as u16, &mut data),
                _ => bench.device.config_write((place % 0x100) as u16, &data),
            }
        }
        bench.device.config_write(COMMAND as u16, &COMMAND_MEMORY.to_le_bytes());
        prop_assert!(bench.device.bars().len() <= 1);
        bench.device.reset();
        prop_assert_eq!(bench.status(), 0);
    }
}

#[test]
fn a_quiet_device_goes_on_where_it_stood() {
    let mut bench = bench();
    bench.bring_up(RAM);
    assert_eq!(bench.calls(), [STARTED]);
    bench.device.quiesce().unwrap();
    bench.device.quiesce().unwrap();
    assert_eq!(bench.calls(), ["stop"], "once");
    bench.device.wake().unwrap();
    assert_eq!(bench.calls(), ["start 100000000 0:64@40000000+100 call"]);
    bench.device.wake().unwrap();
    assert!(bench.calls().is_empty());
    assert_eq!(bench.vectors.raised(1), 1, "an interrupt that got lost is made up for");
}

#[test]
fn a_restored_device_is_the_saved_one() {
    let mut saved = bench();
    saved.device.config_write(0x10, &0x8000_0000u32.to_le_bytes());
    saved.device.config_write(COMMAND as u16, &COMMAND_MEMORY.to_le_bytes());
    saved.bring_up(RAM);
    assert!(matches!(saved.device.save(), Err(StateError::NotQuiet)));
    saved.device.quiesce().unwrap();
    let state = saved.device.save().unwrap();
    let json = serde_json::to_string(&state).unwrap();
    let read: VirtioState = serde_json::from_str(&json).unwrap();
    assert_eq!(read, state);

    let mut restored = bench();
    restored.device.restore(&read).unwrap();
    assert_eq!(restored.device.save().unwrap(), state);
    assert_eq!(restored.calls(), ["restore [fa]", "save"]);
    assert!(restored.device.driver_ok());
    assert_eq!(restored.device.bars(), saved.device.bars());
    restored.device.wake().unwrap();
    assert_eq!(restored.calls(), ["start 100000000 0:64@40000000+100 call"]);
    restored.write(common::DEVICE_STATUS, &[0]);
    assert_eq!(restored.calls(), ["stop"], "the driver finds it as it left it");
}

#[test]
fn a_device_that_never_ran_is_restored_as_such() {
    let state = bench().device.save().unwrap();
    let mut restored = bench();
    restored.device.restore(&state).unwrap();
    restored.device.wake().unwrap();
    assert_eq!(restored.calls(), ["restore [fa]"]);
    restored.bring_up(RAM);
    assert_eq!(restored.calls(), [STARTED]);
}

#[test]
fn state_that_is_not_this_devices_is_refused() {
    let mut saved = bench();
    saved.bring_up(RAM);
    saved.device.quiesce().unwrap();
    let state = saved.device.save().unwrap();
    type Spoil = fn(&mut VirtioState);
    let spoils: [(Spoil, &str); 6] = [
        (|s| s.config.0[2] ^= 1, "PCI function"),
        (|s| s.common.queues[0].size = 512, "size of 512"),
        (|s| s.common.queues[1].size = 0, "size of 0"),
        (|s| s.common.queues.truncate(1), "1 queues"),
        (|s| s.common.features = u64::MAX, "features"),
        (|s| s.msix.entries.truncate(1), "PCI function"),
    ];
    for (spoil, reason) in spoils {
        let mut spoiled = state.clone();
        spoil(&mut spoiled);
        let refused = bench().device.restore(&spoiled).unwrap_err().to_string();
        assert!(refused.contains(reason), "{refused}");
    }
}

#[test]
fn a_process_that_dies_while_its_device_is_quiet_is_replaced() {
    let mut bench = bench().watched();
    bench.bring_up(RAM);
    bench.device.quiesce().unwrap();
    bench.device.backend_gone();
    assert!(bench.device.quiesce().is_err(), "no snapshot until it has a successor");
    let (stream, _peer) = UnixStream::pair().unwrap();
    bench.device.reconnect(stream).unwrap();
    bench.device.quiesce().unwrap();
    assert_eq!(bench.calls().last().map(String::as_str), Some("stop"));
}
