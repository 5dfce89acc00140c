//! Snapshots that were written by version 1 of the format and that every later version must read.
//!
//! `GRANULE_BLESS=1 cargo test -p granule-snapshot --test golden` writes them again: only ever with a new format version.

#![allow(clippy::unwrap_used, reason = "a test that fails may panic")]

mod common;

use std::fs;
use std::path::{Path, PathBuf};

use common::{Guest, TestDir, save, save_diff};
use granule_snapshot::directory::Chain;
use granule_snapshot::inspect::{Statistics, verify_chain};
use granule_snapshot::layout::PageSize;

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/v1")
}

/// A page of every kind; and what changed after.
fn guests() -> (Guest, Guest) {
    let mut full = Guest::new(PageSize::K4, 9);
    for page in [0, 2, 3, 6, 8] {
        full.store(page, 3);
    }
    // Pages 1 and 4 have tags and no data, 0 and 6 data and no tags, 5 and 7 nothing.
    for (page, pattern) in [(1, 1), (2, 3), (3, 4), (4, 2), (8, 3)] {
        full.tag(page, pattern, 1000 + page);
    }
    let mut diff = full.clone();
    diff.store(0, 0); // data becomes zero
    diff.tag(2, 0, 0); // tags become zero, data stays
    diff.tag(6, 1, 7); // tags come, data stays
    diff.store(5, 2); // data comes
    (full, diff)
}

fn write(directory: &Path) {
    let (full, diff) = guests();
    save(&directory.join("full"), &full, 1);
    save_diff(&directory.join("diff"), &diff, &full, 2, (1, "../full"));
}

const FILES: [&str; 6] = ["config.json", "manifest.json", "memory", "pages", "state.json", "tags"];

#[test]
fn golden_snapshots_are_read() {
    if std::env::var_os("GRANULE_BLESS").is_some() {
        let _ = fs::remove_dir_all(golden());
        fs::create_dir_all(golden()).unwrap();
        write(&golden());
    }
    let (full, diff) = guests();
    for (name, guest) in [("full", &full), ("diff", &diff)] {
        let chain = Chain::open(&golden().join(name)).unwrap();
        assert!(verify_chain(&chain).unwrap().iter().all(|config_as_written| *config_as_written));
        let mut restored = Guest::new(PageSize::K4, 9);
        chain.memory().unwrap().restore(&mut restored).unwrap();
        assert_eq!(restored, *guest, "{name}");
        let mut state = chain.newest().state().unwrap();
        assert_eq!(state.take::<String>("gic", "", 1).unwrap(), (1, "tables".to_owned()));
    }
}

#[test]
fn what_is_written_now_is_what_was_written_then() {
    let dir = TestDir::new();
    write(dir.path());
    for (snapshot, file) in ["full", "diff"].iter().flat_map(|snapshot| FILES.map(|file| (snapshot, file))) {
        let read = |directory: &Path| fs::read(directory.join(snapshot).join(file)).unwrap();
        assert!(read(dir.path()) == read(&golden()), "{snapshot}/{file} differs from the golden one");
    }
}

#[test]
fn statistics_of_the_golden_snapshots_are_known() {
    let of = |name: &str| {
        let mut layer = Chain::open(&golden().join(name)).unwrap().newest().memory().unwrap();
        Statistics::of(&mut layer).unwrap()
    };
    let full = of("full");
    assert_eq!((full.pages, full.raw, full.zero, full.inherited), (9, 5, 4, 0));
    let pages = |found: &Statistics| {
        [found.untagged, found.uniform, found.runs, found.packed, found.tags_inherited]
            .map(|count| count.pages)
    };
    assert_eq!(pages(&full), [4, 1, 3, 1, 0]);
    assert_eq!(full.histogram.iter().sum::<u64>(), 9 * 256);
    let diff = of("diff");
    assert_eq!((diff.pages, diff.raw, diff.zero, diff.inherited), (9, 1, 1, 7));
    assert_eq!(pages(&diff), [1, 1, 0, 0, 7]);
}
