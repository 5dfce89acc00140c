//! The pager, with threads of this process as those who wait. Without tags, which need an Arm host
//! (tests/tests/e2e/on_demand.rs), and with userfaultfds that see what a thread's own instructions do, which anybody may have.

use std::fs::File;
use std::os::fd::{AsFd, FromRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::thread::{self, JoinHandle};

use granule_devices::userfault::{Announcement, Late, LateError, Mapped, Userfault};
use vm_memory::{FileOffset, MmapRegion, VolatileMemory};

use super::super::tests::{BASE, SIZE, SLOTS, bytes, filled, manifest, memfd, save};
use super::super::{Passed, on_demand};
use super::mappings::Mappings;
use crate::wire::{Channel, Failure, FdSlot, FromMover, LayerSpec, SharedMemory, SharedRegion};

const PAGE: usize = 4096;

fn userfault() -> Userfault {
    const UFFD_USER_MODE_ONLY: libc::c_int = 1;
    let flags = libc::O_CLOEXEC | libc::O_NONBLOCK | UFFD_USER_MODE_ONLY;
    // SAFETY: the call takes flags and answers a new descriptor.
    let fd = unsafe { libc::syscall(libc::SYS_userfaultfd, flags) };
    let fd = libc::c_int::try_from(fd).unwrap();
    assert!(fd >= 0, "{}", std::io::Error::last_os_error());
    // SAFETY: the descriptor is new and nobody else's.
    Userfault::received(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Guest memory as one process sees it.
struct Process {
    memory: MmapRegion<()>,
    late: Late,
}

impl Process {
    fn new(memory: &File, mover: OwnedFd) -> Self {
        let file = FileOffset::new(memory.try_clone().unwrap(), 0);
        let memory = MmapRegion::from_file(file, usize::try_from(SIZE).unwrap()).unwrap();
        Self { memory, late: Late::new(File::open("/dev/null").unwrap().into(), mover) }
    }

    fn announce(&mut self, guest: u64) -> Result<(), LateError> {
        self.announce_part(guest, 0, SIZE)
    }

    /// Announces that `size` bytes of the guest's, from `guest` on, are at `offset` of what is mapped here.
    fn announce_part(&mut self, guest: u64, offset: u64, size: u64) -> Result<(), LateError> {
        let address = self.memory.as_ptr().addr() as u64 + offset;
        self.late.announce_as(userfault(), &[Mapped { guest, address, size }])
    }

    /// Looks at pages in this order, and answers what is in them.
    fn look(self, order: impl Iterator<Item = usize> + Send + 'static) -> JoinHandle<Vec<(usize, Vec<u8>)>> {
        thread::spawn(move || {
            let slice = self.memory.as_volatile_slice();
            let page = |page: usize| {
                let mut seen = vec![0; PAGE];
                slice.subslice(page * PAGE, PAGE).unwrap().copy_to(&mut seen[..]);
                (page, seen)
            };
            order.map(page).collect()
        })
    }
}

/// A snapshot of `filled`, whose files `damage` may change, being placed into fresh memory.
struct Placing {
    memory: File,
    processes: Vec<OwnedFd>,
    mover: JoinHandle<Result<FromMover, Failure>>,
}

fn place(count: usize, damage: impl FnOnce(&File)) -> Placing {
    let (raw, pages) = (memfd(0), memfd(0));
    let manifest = manifest(&save(&filled(), &[&raw, &pages]));
    damage(&raw);
    let memory = memfd(SIZE);
    let (movers, processes): (Vec<_>, Vec<_>) = (0..count).map(|_| Channel::pair().unwrap()).unzip();
    let regions = vec![SharedRegion { gpa: BASE, size: SIZE, offset: 0 }];
    processes[0].send(&SharedMemory { regions, log: None }, &[memory.as_fd()]).unwrap();
    let mut movers = movers.into_iter().map(OwnedFd::from);
    let machine = movers.next();
    let fds = [machine, Some(raw.into()), Some(pages.into())];
    let mut fds = Passed(fds.into_iter().chain(movers.map(Some)).collect());
    let mover = thread::spawn(move || {
        let (control, _other) = Channel::pair().unwrap();
        let layers = [LayerSpec { manifest, files: SLOTS }];
        let others: Vec<_> = (3..).take(count - 1).map(FdSlot).collect();
        on_demand::place(FdSlot(0), &layers, &others, &mut fds, &control)
    });
    Placing { memory, processes: processes.into_iter().map(OwnedFd::from).collect(), mover }
}

#[test]
fn whoever_looks_at_a_page_waits_until_it_is_whole() {
    let Placing { memory, processes, mover } = place(3, |_| {});
    let mut processes = processes.into_iter().map(|socket| Process::new(&memory, socket));
    let mut machine = processes.next().unwrap();
    machine.announce(BASE).unwrap();
    let pages = SIZE as usize / PAGE;
    let machine = machine.look((0..pages).rev());
    let devices = processes.map(|mut device| {
        device.announce(BASE).unwrap();
        device.look((0..pages).chain([2, 3]))
    });
    let devices: Vec<_> = devices.collect();
    let expected = bytes(&filled());
    for looker in [machine].into_iter().chain(devices) {
        for (page, seen) in looker.join().unwrap() {
            assert!(seen == expected[page * PAGE..][..PAGE], "page {page}");
        }
    }
    assert!(matches!(mover.join().unwrap().unwrap(), FromMover::Restored));
}

#[test]
fn a_mapping_that_is_not_the_guests_is_refused_and_complete_memory_needs_none() {
    let Placing { memory, mut processes, mover } = place(2, |_| {});
    let mut device = Process::new(&memory, processes.pop().unwrap());
    let mut machine = Process::new(&memory, processes.pop().unwrap());
    // Waits in the socket until the machine's mapping is there.
    let early = thread::spawn(move || (device.announce(BASE + SIZE / 2), device));
    machine.announce(BASE).unwrap();
    let (answer, mut device) = early.join().unwrap();
    match answer {
        Err(LateError::Refused(reason)) => assert!(reason.contains("is not memory of the guest"), "{reason}"),
        // The mover was done before it read what was announced.
        other => other.unwrap(),
    }
    assert!(matches!(mover.join().unwrap().unwrap(), FromMover::Restored));
    device.announce(BASE).unwrap();
    assert_eq!(device.look([2].into_iter()).join().unwrap()[0].1, [7; PAGE]);
    machine.late.wait(|| panic!("memory was complete"));
}

#[test]
fn what_the_machine_does_not_wait_for_is_there_before_it_goes_on_and_nobody_waits_for_it() {
    const HALF: u64 = SIZE / 2;
    let Placing { memory, mut processes, mover } = place(2, |_| {});
    let mut device = Process::new(&memory, processes.pop().unwrap());
    let mut machine = Process::new(&memory, processes.pop().unwrap());
    machine.announce_part(BASE, 0, HALF).unwrap();
    let expected = bytes(&filled());
    let mut there = vec![0; HALF as usize];
    memory.read_exact_at(&mut there, HALF).unwrap();
    assert!(there == expected[HALF as usize..], "by another way than a mapping");
    device.announce_part(BASE + HALF, HALF, HALF).unwrap();
    device.announce_part(BASE + 4 * SIZE, 0, SIZE).unwrap();
    match device.announce(BASE) {
        Err(LateError::Refused(reason)) => assert!(reason.contains("is not memory of the guest"), "{reason}"),
        // The mover was done before it read what was announced.
        other => other.unwrap(),
    }
    assert!(matches!(mover.join().unwrap().unwrap(), FromMover::Restored));
    assert_eq!(machine.look([2].into_iter()).join().unwrap()[0].1, [7; PAGE]);
}

#[test]
fn damage_ends_the_mover_with_its_place_and_is_no_completion() {
    let Placing { memory, mut processes, mover } = place(1, |raw| raw.write_all_at(&[8], 8200).unwrap());
    let mut machine = Process::new(&memory, processes.pop().unwrap());
    machine.announce(BASE).unwrap();
    let failure = mover.join().unwrap().unwrap_err();
    assert!(failure.causes.join(": ").contains("page 2 of memory is damaged"), "{failure:?}");
    let mut lost = false;
    machine.late.wait(|| lost = true);
    assert!(lost, "pages are missing");
}

#[test]
fn a_process_may_announce_as_often_as_it_unmaps() {
    let memory = memfd(SIZE);
    let layout = granule_snapshot::layout::Layout::new(
        granule_snapshot::layout::PageSize::K4,
        vec![granule_snapshot::layout::Region { gpa: BASE, size: SIZE }],
    );
    let mut mappings = Mappings::new(layout.unwrap());
    let announce = |mappings: &mut Mappings, process| {
        let file = FileOffset::new(memory.try_clone().unwrap(), 0);
        let region = MmapRegion::<()>::from_file(file, usize::try_from(SIZE).unwrap()).unwrap();
        let ranges = vec![Mapped { guest: BASE, address: region.as_ptr().addr() as u64, size: SIZE }];
        let announced = Announcement { number: 1, ranges, fd: Some(userfault().into()) };
        mappings.register(process, announced).unwrap();
        region
    };
    let mut held: Vec<_> = (0..4).map(|_| announce(&mut mappings, 1)).collect();
    assert!(!mappings.has_room(1).unwrap(), "all are still mapped");
    assert!(mappings.has_room(2).unwrap(), "another process has none");
    assert_eq!(mappings.fds().count(), 4, "none was let go of");
    drop(held.pop());
    assert!(mappings.has_room(1).unwrap());
    assert_eq!(mappings.fds().count(), 3);
}
