//! After a crash at any moment the target is as it was, or is the new snapshot; after an error it is as it was.

#![allow(clippy::unwrap_used, reason = "a test that fails may panic")]

mod common;

use std::path::Path;

use common::fake_disk::FakeDisk;
use common::{Guest, Numbers, TestDir, description, save, write};
use granule_snapshot::directory::{Chain, Disk, OpenError, OsDisk, Staging};
use granule_snapshot::inspect::verify_chain;
use granule_snapshot::layout::PageSize;

/// What is at the target before.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Before {
    Nothing,
    EmptyDirectory,
    Snapshot,
}

fn guest(seed: u64) -> Guest {
    Guest::example(PageSize::K4, 9, seed)
}

/// A disk with what was there, all of it safe.
fn disk(before: Before) -> FakeDisk {
    let disk = FakeDisk::default();
    let (root, target) = (Path::new("/"), Path::new("/snap"));
    if before == Before::EmptyDirectory {
        disk.create_directory(target).unwrap();
        disk.sync_directory(root).unwrap();
    }
    if before == Before::Snapshot {
        let staging = Staging::create(disk.clone(), target, false).unwrap();
        write(staging, guest(1).whole(), description(&guest(1), 1, None)).unwrap();
    }
    disk
}

fn write_new(disk: &FakeDisk, before: Before) -> Result<(), Box<dyn std::error::Error>> {
    let staging = Staging::create(disk.clone(), Path::new("/snap"), before == Before::Snapshot)?;
    write(staging, guest(2).whole(), description(&guest(2), 2, None))?;
    Ok(())
}

/// The id of the snapshot at `target`, which must be whole; `None` if there is none.
fn found(target: &Path) -> Option<u8> {
    let chain = match Chain::open(target) {
        Err(OpenError::NotASnapshot(_)) => return None,
        chain => chain.unwrap(),
    };
    verify_chain(&chain).unwrap();
    let mut restored = Guest::new(PageSize::K4, 9);
    chain.memory().unwrap().restore(&mut restored).unwrap();
    let id = chain.newest().manifest().id.0[0];
    assert_eq!(restored, guest(u64::from(id)));
    Some(id)
}

fn crash_everywhere(before: Before) {
    let disk = disk(before);
    let start = disk.operations();
    write_new(&disk, before).unwrap();
    let old = (before == Before::Snapshot).then_some(1);
    let mut numbers = Numbers(42);
    let mut seen = [0; 2];
    for count in start..=disk.operations() {
        for chance in [0, 8, 1, 4, 7, 2, 4, 6] {
            let dir = TestDir::new();
            disk.crash(count, chance, &mut numbers, dir.path());
            let id = found(&dir.join("snap"));
            assert!(id == old || id == Some(2), "{before:?}, {count} operations, {chance}/8: {id:?}");
            seen[usize::from(id == Some(2))] += 1;
            if count == disk.operations() && chance == 8 {
                assert_eq!(id, Some(2));
            }
            // Whatever is left, the next writer gets through, and leaves nothing else behind.
            if chance == 4 && count % 3 == 0 {
                next_writer_succeeds(&dir, id.is_some());
            }
        }
    }
    assert!(seen[0] > 50 && seen[1] > 5, "saw the old one {} times and the new one {}", seen[0], seen[1]);
}

fn next_writer_succeeds(dir: &TestDir, replace: bool) {
    let staging = Staging::create(OsDisk, &dir.join("snap"), replace).unwrap();
    write(staging, guest(3).whole(), description(&guest(3), 3, None)).unwrap();
    assert_eq!(found(&dir.join("snap")), Some(3));
    let names: Vec<_> =
        std::fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, ["snap"]);
}

#[test]
fn a_crash_leaves_nothing_or_a_whole_new_snapshot() {
    crash_everywhere(Before::Nothing);
}

#[test]
fn a_crash_in_a_directory_that_was_there_leaves_no_snapshot_or_a_whole_one() {
    crash_everywhere(Before::EmptyDirectory);
}

#[test]
fn a_crash_while_replacing_leaves_the_old_snapshot_or_the_new_one() {
    crash_everywhere(Before::Snapshot);
}

#[test]
fn a_full_disk_at_any_moment_leaves_all_as_it_was() {
    for before in [Before::Nothing, Before::EmptyDirectory, Before::Snapshot] {
        let names = disk(before).paths();
        let mut failures = 0;
        for left in 0.. {
            let disk = disk(before);
            disk.fail_after(left);
            let written = write_new(&disk, before);
            if written.is_ok() {
                // Not even the last failure matters: removing what was replaced.
                disk.fail_after(usize::MAX);
                break;
            }
            failures += 1;
            assert_eq!(disk.paths(), names, "{before:?} after {left} operations: {}", written.unwrap_err());
            let dir = TestDir::new();
            disk.crash(disk.operations(), 8, &mut Numbers(1), dir.path());
            assert_eq!(found(&dir.join("snap")), (before == Before::Snapshot).then_some(1));
        }
        assert!(failures > 15, "{failures}");
    }
}

#[test]
fn the_fake_disk_and_the_real_one_agree() {
    let dir = TestDir::new();
    save(&dir.join("snap"), &guest(2), 2);
    let disk = disk(Before::Nothing);
    write_new(&disk, Before::Nothing).unwrap();
    let other = TestDir::new();
    disk.crash(disk.operations(), 8, &mut Numbers(1), other.path());
    for name in ["config.json", "state.json", "memory", "pages", "tags", "manifest.json"] {
        let read = |dir: &TestDir| std::fs::read(dir.join("snap").join(name)).unwrap();
        assert_eq!(read(&dir), read(&other), "{name}");
    }
}
