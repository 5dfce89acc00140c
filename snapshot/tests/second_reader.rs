//! A reader that was written in another language from the format's document alone reads the same.

#![allow(clippy::unwrap_used, reason = "a test that fails may panic")]

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Output};

use common::{Guest, Numbers, TestDir, save, save_diff};
use granule_snapshot::layout::PageSize;
use serde::Deserialize;

#[derive(Deserialize)]
struct Read {
    id: String,
    components: usize,
    pages: BTreeMap<u64, (u32, String)>,
}

fn run(directory: &Path) -> Output {
    let reader = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/reader/reader.py");
    let output = Command::new("python3").arg(reader).arg(directory).output();
    output.expect("python3 runs: it is one of the packages that scripts/setup installs")
}

/// Whether the reader can run here: the emulated Arm host has no Python. Says so past the harness, which would take the
/// test for passed; `scripts/test` counts it as skipped.
fn can_run(test: &str) -> bool {
    let here = Command::new("python3").arg("--version").output().is_ok();
    if !here {
        let text = format!("SKIPPED: {test}: there is no python3 on this host\n");
        std::io::stderr().write_all(text.as_bytes()).unwrap();
    }
    here
}

/// What a reader should say of a guest.
fn expected(guest: &Guest) -> BTreeMap<u64, (u32, String)> {
    let size = guest.layout.page_size();
    let pages = guest.data.keys().chain(guest.tags.keys());
    let page = |page: &u64| {
        let data = guest.data.get(page).cloned().unwrap_or_else(|| vec![0; size.bytes()]);
        let tags = guest.tags.get(page).cloned().unwrap_or_else(|| vec![0; size.packed_tags()]);
        let hex: String = tags.iter().map(|byte| format!("{byte:02x}")).collect();
        (*page, (crc32fast::hash(&data), hex))
    };
    pages.map(page).collect()
}

#[test]
fn reads_chains_of_every_page_size_as_we_do() {
    if !can_run("reads_chains_of_every_page_size_as_we_do") {
        return;
    }
    let dir = TestDir::new();
    for (size, pages) in [(PageSize::K4, 150), (PageSize::K16, 40), (PageSize::K64, 10)] {
        let mut guest = Guest::example(size, pages, 21);
        let name = |generation: u8| format!("{}-{generation}", size.bytes());
        save(&dir.join(&name(0)), &guest, 0);
        for generation in 1..4 {
            let before = guest.clone();
            guest.run(pages / 3, u64::from(generation) * 31);
            let parent = dir.join(&name(generation - 1));
            let parent = (generation - 1, parent.to_str().unwrap());
            save_diff(&dir.join(&name(generation)), &guest, &before, generation, parent);
        }
        let output = run(&dir.join(&name(3)));
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let read: Read = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!((read.id, read.components), ("03".repeat(16), 2));
        assert!(read.pages == expected(&guest), "{size:?}");
    }
}

#[test]
fn refuses_damage_as_we_do() {
    if !can_run("refuses_damage_as_we_do") {
        return;
    }
    let dir = TestDir::new();
    save(&dir.join("snap"), &Guest::example(PageSize::K4, 70, 3), 1);
    assert!(run(&dir.join("snap")).status.success());
    let mut numbers = Numbers(8);
    for name in ["manifest.json", "state.json", "memory", "pages", "tags"] {
        let path = dir.join("snap").join(name);
        let good = fs::read(&path).unwrap();
        let mut bad = good.clone();
        bad[numbers.below(good.len() as u64) as usize] ^= 4;
        fs::write(&path, bad).unwrap();
        assert!(!run(&dir.join("snap")).status.success(), "{name}");
        fs::write(&path, good).unwrap();
    }
}
