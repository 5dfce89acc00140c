//! Memory goes through files and back, here without tags: those need an Arm host (tests/tests/e2e/snapshot.rs).

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};

use granule_snapshot::file::ReadAt;
use granule_snapshot::layout::{Layout, PageSize, Region};
use granule_snapshot::manifest::{FileSum, Manifest, SnapshotId};
use rustix::fs::{MemfdFlags, memfd_create};

use super::*;
use crate::wire::{FileSlots, LayerSpec, SharedMemory, SharedRegion};

const BASE: u64 = 0x4000_0000;
const SIZE: u64 = 1 << 20;

fn memfd(size: u64) -> File {
    let file = File::from(memfd_create("test", MemfdFlags::CLOEXEC).unwrap());
    file.set_len(size).unwrap();
    file
}

/// Passes a memory file as the machine does.
fn shared(memory: &File, size: u64) -> OwnedFd {
    let (machine, mover) = Channel::pair().unwrap();
    let regions = vec![SharedRegion { gpa: BASE, size, offset: 0 }];
    machine.send(&SharedMemory { regions }, &[memory.as_fd()]).unwrap();
    mover.into()
}

fn passed(machine: OwnedFd, files: &[&File]) -> Passed {
    let files = files.iter().map(|file| Some(file.as_fd().try_clone_to_owned().unwrap()));
    Passed([Some(machine)].into_iter().chain(files).collect())
}

const SLOTS: FileSlots = FileSlots { memory: FdSlot(1), pages: FdSlot(2), tags: None };

fn save(memory: &File, files: &[&File]) -> crate::wire::SavedMemory {
    let (control, _other) = Channel::pair().unwrap();
    let mut fds = passed(shared(memory, SIZE), files);
    match save::save(FdSlot(0), SLOTS, &mut fds, &control).unwrap() {
        FromMover::Saved(saved) => saved,
        other => panic!("{other:?}"),
    }
}

fn manifest(saved: &crate::wire::SavedMemory) -> String {
    let layout = Layout::new(PageSize::K4, vec![Region { gpa: BASE, size: SIZE }]).unwrap();
    let (size, sum) = saved.pages;
    let manifest = Manifest {
        id: SnapshotId([1; 16]),
        parent: None,
        creator: "test".into(),
        created: 0,
        arch: "x".into(),
        mte: None,
        layout,
        config: FileSum::of(b""),
        state: FileSum::of(b""),
        pages: FileSum { size, sum },
        tags: None,
    };
    String::from_utf8(manifest.encode()).unwrap()
}

fn restore(manifest: String, files: &[&File], memory: &File, size: u64) -> Result<FromMover, Failure> {
    let (control, _other) = Channel::pair().unwrap();
    let mut fds = passed(shared(memory, size), files);
    restore::restore(FdSlot(0), &[LayerSpec { manifest, files: SLOTS }], &mut fds, &control)
}

fn filled() -> File {
    use std::os::unix::fs::FileExt;
    let memory = memfd(SIZE);
    memory.write_all_at(&[7; 5000], 8192).unwrap();
    memory.write_all_at(&[9; 1], SIZE - 1).unwrap();
    memory
}

#[test]
fn memory_is_the_same_after_a_way_through_files() {
    let (memory, raw, pages) = (filled(), memfd(0), memfd(0));
    let saved = save(&memory, &[&raw, &pages]);
    assert_eq!((saved.memory_size, &saved.regions), (SIZE, &vec![(BASE, SIZE)]));
    let restored = memfd(SIZE);
    let done = restore(manifest(&saved), &[&raw, &pages], &restored, SIZE).unwrap();
    assert!(matches!(done, FromMover::Restored));
    let bytes = |file: &File| {
        let mut bytes = vec![0; SIZE as usize];
        file.read_at(&mut bytes, 0).unwrap();
        bytes
    };
    assert_eq!(bytes(&memory), bytes(&restored));
    let first = restored.next_data(0).unwrap();
    assert_eq!(first, Some(8192), "what was a hole is one again");
}

#[test]
fn damaged_files_and_other_memory_are_refused() {
    use std::os::unix::fs::FileExt;
    let (memory, raw, pages) = (filled(), memfd(0), memfd(0));
    let saved = save(&memory, &[&raw, &pages]);
    let refused = |size| restore(manifest(&saved), &[&raw, &pages], &memfd(size), size).unwrap_err();
    assert!(refused(SIZE * 2).causes.join(": ").contains("not where the snapshot's is"));
    raw.write_all_at(&[8], 8200).unwrap();
    assert!(refused(SIZE).causes.join(": ").contains("page 2 of memory is damaged"));
}

#[test]
fn a_descriptor_that_did_not_come_is_named() {
    let mut fds = Passed(Vec::new());
    let failure = fds.take(FdSlot(3)).unwrap_err();
    assert_eq!(failure.causes, ["descriptor 3 did not come with the order"]);
}
