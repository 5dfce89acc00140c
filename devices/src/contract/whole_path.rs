//! The whole path at once: a driver that stores to a BAR, the segment, the transport, the front end, a device.

use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use super::driver::{BUFFERS, Driver, SIZE, WRITE, guest_memory};
use super::rig::{ready, spawn};
use crate::fakes::{FakeDoorbells, FakeVectors};
use crate::pci::spec::{COMMAND, COMMAND_MEMORY, ECAM_BUS_SIZE, MSIX_ENABLE};
use crate::pci::{AddressRange, Bdf, PciSegment, SegmentLayout};
use crate::platform::MsiVectors;
use crate::rng::{RngDevice, Source};
use crate::serve::ServeError;
use crate::sync::lock;
use crate::virtio::spec::common;
use crate::virtio::{Deadlines, DeviceProcess, DeviceType, Expected, GuestMemory, VirtioPciDevice};

/// As Linux lays it out: the BAR at the beginning of the high window.
const BAR: u64 = 0x80_0000_0000;
const NOTIFY: u64 = BAR + 0x3000;
const MSIX_TABLE: u64 = BAR + 0x4000;

type Process = (UnixStream, JoinHandle<Result<(), ServeError>>);

struct Machine {
    segment: Arc<PciSegment>,
    bdf: Bdf,
    device: Arc<Mutex<VirtioPciDevice>>,
    vectors: Arc<FakeVectors>,
    doorbells: Arc<FakeDoorbells>,
    driver: Driver,
    memory: GuestMemory,
    faults: Arc<Mutex<usize>>,
}

fn process() -> Process {
    spawn(|| RngDevice::new(Source::Kernel))
}

fn machine(stream: UnixStream) -> Machine {
    let memory = guest_memory();
    let range = |base, size| AddressRange::new(base, size).unwrap();
    let segment = PciSegment::new(SegmentLayout {
        number: 0,
        ecam: range(0x3000_0000, 16 * ECAM_BUS_SIZE),
        mem32: range(0x1000_0000, 0x2000_0000),
        mem64: range(BAR, 0x40_0000_0000),
    });
    let vectors = Arc::new(FakeVectors::new(2));
    let doorbells = Arc::new(FakeDoorbells::default());
    let expected = Expected { limit: Duration::from_secs(20), ..Expected::rng() };
    let deadlines = Deadlines::start(|| ()).unwrap();
    let process = DeviceProcess::connect(stream, deadlines, memory.clone(), expected).unwrap();
    let faults = Arc::new(Mutex::new(0));
    let count = Arc::clone(&faults);
    let device = VirtioPciDevice::new(
        "_rng0",
        DeviceType::Rng,
        Box::new(process),
        Arc::<FakeVectors>::clone(&vectors),
        Arc::<FakeDoorbells>::clone(&doorbells),
        memory.clone(),
    )
    .unwrap()
    .on_fault(Arc::new(move |_, _| *lock(&count) += 1));
    let device = Arc::new(Mutex::new(device));
    let bdf = segment.insert(1, Arc::<Mutex<VirtioPciDevice>>::clone(&device)).unwrap();
    Machine { segment, bdf, device, vectors, doorbells, driver: Driver::new(memory.clone()), memory, faults }
}

impl Machine {
    fn store(&self, offset: u64, data: &[u8]) {
        self.segment.memory_write(BAR + offset, data);
    }

    fn status(&self) -> u8 {
        let mut data = [0];
        self.segment.memory_read(BAR + common::DEVICE_STATUS, &mut data);
        data[0]
    }

    /// Does what Linux does, from finding the device to DRIVER_OK.
    fn probe(&mut self) {
        let config = u64::from(self.bdf.requester_id()) << 12;
        self.segment.config_write(config + COMMAND as u64, &COMMAND_MEMORY.to_le_bytes());
        let msix = self.msix_capability(config);
        self.segment.config_write(msix + 2, &MSIX_ENABLE.to_le_bytes());
        for vector in 0..2u32 {
            let entry = MSIX_TABLE + 16 * u64::from(vector);
            self.segment.memory_write(entry, &0x0808_0040u64.to_le_bytes());
            self.segment.memory_write(entry + 8, &vector.to_le_bytes());
            self.segment.memory_write(entry + 12, &0u32.to_le_bytes());
        }
        self.driver = Driver::new(self.memory.clone());
        self.store(common::DEVICE_STATUS, &[0]);
        self.store(common::DEVICE_STATUS, &[1]);
        self.store(common::DEVICE_STATUS, &[3]);
        for (select, features) in [(0u32, 0u32), (1, 1)] {
            self.store(common::DRIVER_FEATURE_SELECT, &select.to_le_bytes());
            self.store(common::DRIVER_FEATURE, &features.to_le_bytes());
        }
        self.store(common::DEVICE_STATUS, &[11]);
        let (descriptors, available, used) = Driver::areas();
        self.store(common::CONFIG_VECTOR, &0u16.to_le_bytes());
        self.store(common::QUEUE_SELECT, &0u16.to_le_bytes());
        self.store(common::QUEUE_SIZE, &SIZE.to_le_bytes());
        self.store(common::QUEUE_VECTOR, &1u16.to_le_bytes());
        self.store(common::QUEUE_DESC, &descriptors.to_le_bytes());
        self.store(common::QUEUE_DRIVER, &available.to_le_bytes());
        self.store(common::QUEUE_DEVICE, &used.to_le_bytes());
        self.store(common::QUEUE_ENABLE, &1u16.to_le_bytes());
        self.store(common::DEVICE_STATUS, &[15]);
    }

    fn msix_capability(&self, config: u64) -> u64 {
        let mut at = [0x34, 0];
        self.segment.config_read(config + 0x34, &mut at[..1]);
        loop {
            let place = config + u64::from(at[0]);
            let mut header = [0; 2];
            self.segment.config_read(place, &mut header);
            if header[0] == 0x11 {
                return place;
            }
            at[0] = header[1];
            assert_ne!(at[0], 0, "there is an MSI-X capability");
        }
    }

    /// Asks for 32 random bytes and waits for the interrupt.
    fn ask(&mut self) {
        self.driver.write([0u8; 32], BUFFERS);
        self.driver.describe(0, (BUFFERS, 32, WRITE, 0));
        let before = self.driver.used();
        self.driver.offer(0);
        self.segment.memory_write(NOTIFY, &0u16.to_le_bytes());
        self.wait(before.wrapping_add(1));
        assert_ne!(self.driver.read::<[u8; 32]>(BUFFERS), [0; 32]);
    }

    fn wait(&self, used: u16) {
        while self.driver.used() != used {
            assert!(ready(self.vectors.eventfd(1).unwrap()), "the guest was not interrupted");
            self.vectors.raised(1);
        }
    }
}

#[test]
fn a_driver_that_follows_linux_gets_random_bytes() {
    let (stream, _) = process();
    let mut machine = machine(stream);
    machine.probe();
    assert_eq!(machine.status(), 15);
    assert_eq!(machine.doorbells.addresses(), [NOTIFY]);
    assert_eq!(machine.vectors.routed(1).unwrap().data, 1);
    for _ in 0..100 {
        machine.ask();
    }
}

#[test]
fn a_guest_that_reboots_gets_random_bytes_again() {
    let (stream, _) = process();
    let mut machine = machine(stream);
    for _ in 0..3 {
        machine.probe();
        machine.ask();
        machine.segment.reset();
        assert!(machine.doorbells.addresses().is_empty());
    }
}

#[test]
fn a_killed_process_is_replaced_under_a_driver_that_notices_nothing() {
    let (stream, mut thread) = process();
    let mut kill = stream.try_clone().unwrap();
    let mut machine = machine(stream);
    machine.probe();
    for _ in 0..5 {
        machine.ask();
        kill.shutdown(std::net::Shutdown::Both).unwrap();
        thread.join().unwrap().unwrap();
        lock(&machine.device).backend_gone();
        // Asked for while nobody is there.
        let before = machine.driver.used();
        machine.driver.offer(0);
        machine.segment.memory_write(NOTIFY, &0u16.to_le_bytes());
        let (stream, successor) = process();
        kill = stream.try_clone().unwrap();
        thread = successor;
        lock(&machine.device).reconnect(stream).unwrap();
        machine.wait(before.wrapping_add(1));
    }
    assert_eq!(machine.status(), 15);
    assert_eq!(*lock(&machine.faults), 0);
}

#[test]
fn a_reset_of_a_dead_device_waits_until_its_death_is_known() {
    let (stream, thread) = process();
    let kill = stream.try_clone().unwrap();
    let mut machine = machine(stream);
    machine.probe();
    kill.shutdown(std::net::Shutdown::Both).unwrap();
    thread.join().unwrap().unwrap();
    machine.store(common::DEVICE_STATUS, &[0]);
    assert_ne!(machine.status(), 0);
    assert_eq!(*lock(&machine.faults), 1);
    lock(&machine.device).backend_gone();
    assert_eq!(machine.status(), 0);
    let (stream, _thread) = process();
    lock(&machine.device).reconnect(stream).unwrap();
    machine.probe();
    machine.ask();
}
