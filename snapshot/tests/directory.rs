//! Snapshots on a real file system: what is saved is restored, through chains and merges, and targets are respected.

#![allow(clippy::unwrap_used, reason = "a test that fails may panic")]

mod common;

use std::fs;
use std::path::Path;

use common::{CONFIG, Guest, TestDir, description, save, save_diff, write};
use granule_snapshot::directory::{
    Chain, MergeError, OpenError, OsDisk, Snapshot, Staging, StagingError, Stamp, merge,
};
use granule_snapshot::inspect::{Statistics, verify_chain};
use granule_snapshot::layout::PageSize;
use granule_snapshot::manifest::SnapshotId;
use granule_snapshot::memory::{MemoryError, MemoryFiles, MemoryWriter};
use proptest::prelude::*;

fn restored(directory: &Path, like: &Guest) -> Guest {
    let chain = Chain::open(directory).unwrap();
    let mut guest = Guest { data: Default::default(), tags: Default::default(), layout: like.layout.clone() };
    chain.memory().unwrap().restore(&mut guest).unwrap();
    guest
}

fn names(directory: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

const ALL: [&str; 6] = ["config.json", "manifest.json", "memory", "pages", "state.json", "tags"];

#[test]
fn a_snapshot_is_six_files_from_which_the_guest_comes_back() {
    let dir = TestDir::new();
    let guest = Guest::example(PageSize::K4, 300, 1);
    let manifest = save(&dir.join("snap"), &guest, 1);
    assert_eq!(names(dir.path()), ["snap"]);
    assert_eq!(names(&dir.join("snap")), ALL);
    assert_eq!(restored(&dir.join("snap"), &guest), guest);
    let snapshot = Snapshot::open(&dir.join("snap")).unwrap();
    assert_eq!(*snapshot.manifest(), manifest);
    assert_eq!(snapshot.config().unwrap(), (CONFIG.to_vec(), true));
    let mut state = snapshot.state().unwrap();
    assert_eq!(state.take::<String>("gic", "", 1).unwrap(), (1, "tables".to_owned()));
    assert_eq!(state.take::<Vec<u8>>("vcpu", "0", 1).unwrap(), (1, vec![1, 2, 3]));
    state.finish().unwrap();
}

#[test]
fn a_chain_of_diffs_restores_and_merges_to_the_last_state() {
    let dir = TestDir::new();
    let mut guests = vec![Guest::example(PageSize::K4, 200, 7)];
    save(&dir.join("0"), &guests[0], 0);
    for generation in 1..8u8 {
        let before = &guests[usize::from(generation) - 1];
        let mut guest = before.clone();
        guest.run(40, u64::from(generation) * 77);
        let parent = format!("../{}", generation - 1);
        save_diff(&dir.join(&generation.to_string()), &guest, before, generation, (generation - 1, &parent));
        guests.push(guest);
    }
    for (generation, guest) in guests.iter().enumerate() {
        assert_eq!(restored(&dir.join(&generation.to_string()), guest), *guest, "generation {generation}");
    }
    let chain = Chain::open(&dir.join("7")).unwrap();
    assert_eq!(chain.snapshots().len(), 8);
    assert_eq!(verify_chain(&chain).unwrap(), [true; 8]);

    // All of it: a full snapshot. The newest three: a diff of generation 4, wherever the result lies.
    let stamp = |id| Stamp { id: SnapshotId([id; 16]), creator: "test".into(), created: 0 };
    fs::create_dir(dir.join("sub")).unwrap();
    for (name, count) in [("all", 8), ("sub/some", 3)] {
        let staging = Staging::create(OsDisk, &dir.join(name), false).unwrap();
        let merged = merge(&chain, count, staging, stamp(100)).unwrap();
        assert_eq!(merged.parent.map(|parent| parent.id), (count == 3).then_some(SnapshotId([4; 16])));
        assert_eq!(restored(&dir.join(name), &guests[7]), guests[7], "{name}");
    }
    fs::remove_dir_all(dir.join("3")).unwrap();
    assert_eq!(restored(&dir.join("all"), &guests[7]), guests[7], "needs no parent");
    let staging = Staging::create(OsDisk, &dir.join("none"), false).unwrap();
    assert!(matches!(merge(&chain, 9, staging, stamp(1)), Err(MergeError::TooFew { asked: 9, found: 8 })));
    assert!(!names(dir.path()).iter().any(|name| name.contains("none")));
}

#[test]
fn a_diff_holds_only_what_changed_data_and_tags_each_for_itself() {
    let dir = TestDir::new();
    let mut before = Guest::new(PageSize::K4, 130);
    for page in 0..130 {
        before.store(page, 3);
        before.tag(page, 1, page + 1);
    }
    save(&dir.join("base"), &before, 1);
    let mut guest = before.clone();
    guest.store(5, 0);
    guest.store(6, 1);
    guest.tag(70, 0, 0);
    guest.tag(71, 4, 99);
    save_diff(&dir.join("diff"), &guest, &before, 2, (1, "../base"));
    assert_eq!(restored(&dir.join("diff"), &guest), guest);
    let mut layer = Snapshot::open(&dir.join("diff")).unwrap().memory().unwrap();
    let found = Statistics::of(&mut layer).unwrap();
    assert_eq!((found.raw, found.zero, found.inherited), (1, 1, 128));
    assert_eq!((found.untagged.pages, found.packed.pages, found.tags_inherited.pages), (1, 1, 128));
    assert!(found.tags_file < 64 + 24 + 140, "{found:?}");
}

#[test]
fn existing_snapshots_are_kept_unless_replaced_and_other_files_always() {
    let dir = TestDir::new();
    let (old, new) = (Guest::example(PageSize::K4, 64, 3), Guest::example(PageSize::K4, 64, 4));
    let target = dir.join("snap");
    save(&target, &old, 1);
    assert!(matches!(Staging::create(OsDisk, &target, false), Err(StagingError::IsSnapshot(_))));

    let staging = Staging::create(OsDisk, &target, true).unwrap();
    assert!(matches!(Staging::create(OsDisk, &target, true), Err(StagingError::Busy(_))));
    write(staging, new.whole(), description(&new, 2, None)).unwrap();
    assert_eq!(restored(&target, &new), new);
    assert_eq!(names(dir.path()), ["snap"]);

    fs::write(target.join("notes"), "mine").unwrap();
    let refused = Staging::create(OsDisk, &target, true).unwrap_err();
    assert!(matches!(refused, StagingError::Occupied { name, .. } if name == "notes"));
    let other = dir.join("other");
    fs::create_dir(&other).unwrap();
    fs::write(other.join("memory"), "a template").unwrap();
    let refused = Staging::create(OsDisk, &other, false).unwrap_err();
    assert!(matches!(refused, StagingError::Occupied { name, .. } if name == "memory"));
    assert_eq!(fs::read(other.join("memory")).unwrap(), b"a template");
}

#[test]
fn a_directory_that_a_runtime_made_is_filled_in_place() {
    let dir = TestDir::new();
    let target = dir.join("snap");
    fs::create_dir(&target).unwrap();
    fs::write(target.join("of-the-runtime"), "x").unwrap();
    let guest = Guest::example(PageSize::K16, 70, 5);
    // What dead writers left, here and beside.
    fs::write(target.join(".granule-partial.manifest.json"), "x").unwrap();
    fs::write(target.join(".granule-partial.tags"), "x").unwrap();
    fs::write(target.join("memory"), "x").unwrap();
    fs::create_dir(dir.join(".snap.granule-partial")).unwrap();
    fs::write(dir.join(".snap.granule-partial/memory"), "x").unwrap();
    save(&target, &guest, 1);
    assert_eq!(restored(&target, &guest), guest);
    assert_eq!(names(dir.path()), ["snap"]);
    let mut expected = ALL.to_vec();
    expected.push("of-the-runtime");
    expected.sort_unstable();
    assert_eq!(names(&target), expected);
}

#[test]
fn a_relative_path_and_a_missing_parent_are_what_they_are() {
    let dir = TestDir::new();
    let guest = Guest::example(PageSize::K4, 10, 3);
    let name = format!("target-of-test-{}", std::process::id());
    save(Path::new(&name), &guest, 1);
    assert_eq!(restored(Path::new(&name), &guest), guest);
    fs::remove_dir_all(name).unwrap();
    assert!(matches!(Staging::create(OsDisk, &dir.join("no/where"), false), Err(StagingError::Io { .. })));
    assert!(names(dir.path()).is_empty());
}

#[test]
fn a_cancelled_snapshot_leaves_nothing() {
    let dir = TestDir::new();
    let old = Guest::example(PageSize::K4, 64, 3);
    save(&dir.join("old"), &old, 1);
    fs::create_dir(dir.join("made")).unwrap();
    for (name, replace) in [("new", false), ("made", false), ("old", true)] {
        let staging = Staging::create(OsDisk, &dir.join(name), replace).unwrap();
        let MemoryFiles { memory, .. } = staging.create_memory_files(true).unwrap();
        drop((staging, memory));
    }
    assert_eq!(names(dir.path()), ["made", "old"]);
    assert!(names(&dir.join("made")).is_empty());
    assert_eq!(restored(&dir.join("old"), &old), old);
}

#[test]
fn an_edited_configuration_is_told_and_accepted() {
    let dir = TestDir::new();
    save(&dir.join("snap"), &Guest::example(PageSize::K4, 10, 3), 1);
    fs::write(dir.join("snap/config.json"), "{\"edited\":true}").unwrap();
    let chain = Chain::open(&dir.join("snap")).unwrap();
    assert_eq!(chain.newest().config().unwrap(), (b"{\"edited\":true}".to_vec(), false));
    assert_eq!(verify_chain(&chain).unwrap(), [false]);
}

#[test]
fn chains_that_do_not_fit_are_refused() {
    let dir = TestDir::new();
    let guest = Guest::example(PageSize::K4, 64, 3);
    let open = |name: &str| Chain::open(&dir.join(name)).unwrap_err();
    save(&dir.join("base"), &guest, 1);
    save_diff(&dir.join("orphan"), &guest, &guest, 2, (1, "../gone"));
    assert!(matches!(open("orphan"), OpenError::MissingParent { .. }));
    save_diff(&dir.join("stranger"), &guest, &guest, 3, (9, "../base"));
    assert!(matches!(open("stranger"), OpenError::OtherParent { .. }));
    save_diff(&dir.join("self"), &guest, &guest, 4, (4, "."));
    assert!(matches!(open("self"), OpenError::Cycle(_)));
    save_diff(&dir.join("a"), &guest, &guest, 5, (6, "../b"));
    save_diff(&dir.join("b"), &guest, &guest, 6, (5, "../a"));
    assert!(matches!(open("a"), OpenError::Cycle(_)));
    let bigger = Guest::example(PageSize::K4, 66, 3);
    save_diff(&dir.join("bigger"), &bigger, &bigger, 7, (1, "../base"));
    assert!(matches!(open("bigger"), OpenError::Differ { what: "memory regions", .. }));
    let wider = Guest::example(PageSize::K64, 4, 3);
    save_diff(&dir.join("wider"), &wider, &wider, 8, (1, "../base"));
    assert!(matches!(open("wider"), OpenError::Differ { what: "page size", .. }));
    assert!(matches!(open("nowhere"), OpenError::NotASnapshot(_)));
    assert!(matches!(open("base/memory"), OpenError::NotASnapshot(_)));
}

#[test]
fn tags_do_not_get_lost_in_a_snapshot_that_keeps_none() {
    let dir = TestDir::new();
    let mut guest = Guest::new(PageSize::K4, 4);
    guest.store(2, 1);
    let staging = Staging::create(OsDisk, &dir.join("snap"), false).unwrap();
    let files = staging.create_memory_files(false).unwrap();
    let mut writer = MemoryWriter::new(files, guest.layout.clone(), false).unwrap();
    writer.put_all(&mut guest.whole()).unwrap();
    writer.put_tags(1, &[0; 128]).unwrap();
    assert!(matches!(writer.put_tags(1, &[1; 128]), Err(MemoryError::NoTags { page: 1 })));
    assert!(matches!(writer.put_data(4, &[1; 4096]), Err(MemoryError::NoSuchPage { page: 4, pages: 4 })));
    let summary = writer.finish().unwrap();
    let untagged = granule_snapshot::directory::Description { mte: None, ..description(&guest, 1, None) };
    staging.commit(untagged, CONFIG, &common::state(), &summary).unwrap();
    assert_eq!(names(&dir.join("snap")), ALL[..5]);
    assert_eq!(restored(&dir.join("snap"), &guest), guest);
}

#[test]
fn pages_may_be_written_again_as_a_live_snapshot_does() {
    let dir = TestDir::new();
    let mut guest = Guest::example(PageSize::K4, 200, 11);
    let staging = Staging::create(OsDisk, &dir.join("snap"), false).unwrap();
    let files = staging.create_memory_files(true).unwrap();
    let mut writer = MemoryWriter::new(files, guest.layout.clone(), false).unwrap();
    writer.put_all(&mut guest.whole()).unwrap();
    for round in 0..5 {
        let before = guest.clone();
        guest.run(60, 1000 + round);
        writer.put_all(&mut guest.since(&before)).unwrap();
    }
    let summary = writer.finish().unwrap();
    staging.commit(description(&guest, 1, None), CONFIG, &common::state(), &summary).unwrap();
    assert_eq!(restored(&dir.join("snap"), &guest), guest);
    verify_chain(&Chain::open(&dir.join("snap")).unwrap()).unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn any_guest_comes_back_through_any_chain(
        size in prop::sample::select(&PageSize::ALL[..]),
        pages in 1u64..150,
        seeds in prop::collection::vec(any::<u64>(), 1..5),
    ) {
        let dir = TestDir::new();
        let mut guest = Guest::example(size, pages, seeds[0]);
        save(&dir.join("0"), &guest, 0);
        for (generation, seed) in (1u8..).zip(&seeds[1..]) {
            let before = guest.clone();
            guest.run(1 + pages / 4, *seed);
            let parent = dir.join(&(generation - 1).to_string());
            let parent = (generation - 1, parent.to_str().unwrap());
            save_diff(&dir.join(&generation.to_string()), &guest, &before, generation, parent);
        }
        let last = dir.join(&(seeds.len() - 1).to_string());
        prop_assert_eq!(restored(&last, &guest), guest);
        verify_chain(&Chain::open(&last).unwrap()).unwrap();
    }
}
