//! Memory goes through files and back, here without tags: those need an Arm host (tests/tests/e2e/snapshot.rs).

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};

use granule_snapshot::data::DataKind;
use granule_snapshot::file::ReadAt;
use granule_snapshot::layout::{Layout, PageSize, Region};
use granule_snapshot::manifest::{FileSum, Manifest, Parent, SnapshotId};
use rustix::fs::{MemfdFlags, memfd_create};

use super::*;
use crate::wire::{FileSlots, LayerSpec, SharedMemory, SharedRegion};

pub(super) const BASE: u64 = 0x4000_0000;
pub(super) const SIZE: u64 = 1 << 20;

pub(super) fn memfd(size: u64) -> File {
    let file = File::from(memfd_create("test", MemfdFlags::CLOEXEC).unwrap());
    file.set_len(size).unwrap();
    file
}

/// Passes a memory file as the machine does.
fn shared(memory: &File, size: u64) -> OwnedFd {
    let (machine, mover) = Channel::pair().unwrap();
    let regions = vec![SharedRegion { gpa: BASE, size, offset: 0 }];
    machine.send(&SharedMemory { regions, log: None }, &[memory.as_fd()]).unwrap();
    mover.into()
}

fn passed(machine: OwnedFd, files: &[&File]) -> Passed {
    let files = files.iter().map(|file| Some(file.as_fd().try_clone_to_owned().unwrap()));
    Passed([Some(machine)].into_iter().chain(files).collect())
}

pub(super) const SLOTS: FileSlots = FileSlots { memory: FdSlot(1), pages: FdSlot(2), tags: None };

fn job(parent: Vec<LayerSpec>, live: bool) -> save::Job {
    save::Job { machine: FdSlot(0), files: SLOTS, parent, live }
}

pub(super) fn save(memory: &File, files: &[&File]) -> crate::wire::SavedMemory {
    let (control, _other) = Channel::pair().unwrap();
    let mut fds = passed(shared(memory, SIZE), files);
    saved(save::save(&job(Vec::new(), false), &mut fds, &control))
}

fn saved(result: Result<FromMover, Failure>) -> crate::wire::SavedMemory {
    match result.unwrap() {
        FromMover::Saved(saved) => saved,
        other => panic!("{other:?}"),
    }
}

pub(super) fn manifest(saved: &crate::wire::SavedMemory) -> String {
    manifest_of(saved, None)
}

fn manifest_of(saved: &crate::wire::SavedMemory, parent: Option<Parent>) -> String {
    let layout = Layout::new(PageSize::K4, vec![Region { gpa: BASE, size: SIZE }]).unwrap();
    let (size, sum) = saved.pages;
    let manifest = Manifest {
        id: SnapshotId([1; 16]),
        parent,
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

pub(super) fn bytes(file: &File) -> Vec<u8> {
    use std::os::unix::fs::FileExt;
    let mut bytes = vec![0; SIZE as usize];
    file.read_exact_at(&mut bytes, 0).unwrap();
    bytes
}

fn restore(manifest: String, files: &[&File], memory: &File, size: u64) -> Result<FromMover, Failure> {
    let (control, _other) = Channel::pair().unwrap();
    let mut fds = passed(shared(memory, size), files);
    restore::restore(FdSlot(0), &[LayerSpec { manifest, files: SLOTS }], &mut fds, &control)
}

pub(super) fn filled() -> File {
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

fn contents(memory: &File) -> Vec<u8> {
    use std::os::unix::fs::FileExt;
    let mut bytes = vec![0; SIZE as usize];
    memory.read_exact_at(&mut bytes, 0).unwrap();
    bytes
}

fn punch(memory: &File, offset: u64) {
    use rustix::fs::{FallocateFlags, fallocate};
    fallocate(memory, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, offset, 4096).unwrap();
}

#[test]
fn a_diff_has_what_has_changed_and_no_more() {
    use std::os::unix::fs::FileExt;
    let (memory, raw, pages) = (filled(), memfd(0), memfd(0));
    let base = manifest(&save(&memory, &[&raw, &pages]));
    // One page anew, one that was there, one given back, one written with what it had.
    memory.write_all_at(&[5; 100], 40_960).unwrap();
    memory.write_all_at(&[6; 1], 12_288).unwrap();
    punch(&memory, SIZE - 4096);
    memory.write_all_at(&[7; 100], 8192).unwrap();
    let (diff_raw, diff_pages) = (memfd(0), memfd(0));
    let files = [&diff_raw, &diff_pages, &raw, &pages];
    let parents = |first: u8| FileSlots { memory: FdSlot(first), pages: FdSlot(first + 1), tags: None };
    let parent = vec![LayerSpec { manifest: base.clone(), files: parents(3) }];
    let (control, _other) = Channel::pair().unwrap();
    let mut fds = passed(shared(&memory, SIZE), &files);
    let diff = saved(save::save(&job(parent, false), &mut fds, &control));
    assert_eq!(memory.next_data(SIZE - 4096).unwrap(), None, "a look at a hole does not fill it");

    let parent = Some(Parent { id: SnapshotId([1; 16]), path: "../base".into() });
    let layers = [
        LayerSpec { manifest: manifest_of(&diff, parent), files: SLOTS },
        LayerSpec { manifest: base, files: parents(3) },
    ];
    let mut fds = passed(shared(&memory, SIZE), &files);
    let mut chain = restore::open(&layers, &mut fds).unwrap();
    let own: Vec<_> = (0..SIZE / 4096)
        .filter(|page| chain.layers_mut()[0].data_kind(*page).unwrap() != DataKind::Inherited)
        .collect();
    assert_eq!(own, [3, 10, 255]);

    let restored = memfd(SIZE);
    let (control, _other) = Channel::pair().unwrap();
    let mut fds = passed(shared(&restored, SIZE), &files);
    restore::restore(FdSlot(0), &layers, &mut fds, &control).unwrap();
    assert!(contents(&memory) == contents(&restored));
}

#[test]
fn a_parent_of_other_memory_is_refused_before_anything_is_written() {
    let (memory, raw, pages) = (filled(), memfd(0), memfd(0));
    let base = manifest(&save(&memory, &[&raw, &pages]));
    let (diff_raw, diff_pages) = (memfd(0), memfd(0));
    let files = FileSlots { memory: FdSlot(3), pages: FdSlot(4), tags: None };
    let larger = memfd(SIZE * 2);
    let mut fds = passed(shared(&larger, SIZE * 2), &[&diff_raw, &diff_pages, &raw, &pages]);
    let (control, _other) = Channel::pair().unwrap();
    let job = job(vec![LayerSpec { manifest: base, files }], false);
    let failure = save::save(&job, &mut fds, &control).unwrap_err();
    assert!(failure.causes.join(": ").contains("a machine with other memory"), "{failure:?}");
    assert_eq!(diff_raw.metadata().unwrap().len(), 0);
}

#[test]
fn a_live_snapshot_is_what_memory_is_when_the_last_round_begins() {
    use std::os::unix::fs::FileExt;
    let (memory, raw, pages) = (filled(), memfd(0), memfd(0));
    let log = granule_devices::dirty::LogFile::create(BASE + SIZE).unwrap();
    let (machine, mover) = Channel::pair().unwrap();
    let regions = vec![SharedRegion { gpa: BASE, size: SIZE, offset: 0 }];
    let message = SharedMemory { regions, log: Some(log.size) };
    machine.send(&message, &[memory.as_fd(), log.file.as_fd()]).unwrap();
    let mut fds = passed(mover.into(), &[&raw, &pages]);
    let (control, theirs) = Channel::pair().unwrap();
    let mover = std::thread::spawn(move || save::save(&job(Vec::new(), true), &mut fds, &theirs));
    let copied = || match control.receive::<FromMover>().unwrap().message {
        FromMover::Copied { pages } => pages,
        other => panic!("{other:?}"),
    };
    assert_eq!(copied(), 3);
    let log = log.map().unwrap();
    let write = |offset: u64, byte: u8| {
        memory.write_all_at(&[byte; 4096], offset).unwrap();
        log.mark(BASE + offset, 4096);
    };
    write(8192, 1);
    write(0, 2);
    write(65_536, 0);
    control.send(&MoverOrder::Round, &[]).unwrap();
    assert_eq!(copied(), 3);
    write(0, 3);
    punch(&memory, 8192);
    log.mark(BASE + 8192, 1);
    control.send(&MoverOrder::Round, &[]).unwrap();
    assert_eq!(copied(), 2);
    let wanted = contents(&memory);
    control.send(&MoverOrder::Complete, &[]).unwrap();
    let saved = saved(mover.join().unwrap());

    let restored = memfd(SIZE);
    restore(manifest(&saved), &[&raw, &pages], &restored, SIZE).unwrap();
    assert!(contents(&restored) == wanted);
}

#[test]
fn a_live_snapshot_ends_with_who_ordered_it() {
    let (memory, raw, pages) = (filled(), memfd(0), memfd(0));
    let mut fds = passed(shared(&memory, SIZE), &[&raw, &pages]);
    let (control, theirs) = Channel::pair().unwrap();
    drop(control);
    assert!(save::save(&job(Vec::new(), true), &mut fds, &theirs).is_err());
}
