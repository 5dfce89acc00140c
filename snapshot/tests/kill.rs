//! A writer is killed at random moments: what is on disk verifies as the old snapshot or the new one.
//!
//! The writer is this test's own binary, started again to run one "test" that writes for ever.

#![allow(clippy::unwrap_used, reason = "a test that fails may panic")]

mod common;

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use common::{Guest, Numbers, TestDir, description, save, write};
use granule_snapshot::directory::{Chain, OsDisk, Staging};
use granule_snapshot::inspect::verify_chain;
use granule_snapshot::layout::PageSize;

const TARGET: &str = "GRANULE_TEST_KILLED_WRITER";

fn guest(id: u8) -> Guest {
    Guest::example(PageSize::K4, 200, u64::from(id) + 1)
}

/// Only in the process that is to be killed.
#[test]
fn writer() {
    let Ok(target) = std::env::var(TARGET) else { return };
    println!("ready");
    for id in (0..=255).cycle() {
        let staging = Staging::create(OsDisk, Path::new(&target), true).unwrap();
        write(staging, guest(id).whole(), description(&guest(id), id, None)).unwrap();
    }
}

fn killed_after(target: &PathBuf, wait: Duration) {
    let mut writer = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "writer", "--nocapture", "--test-threads", "1"])
        .env(TARGET, target)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut said = Vec::new();
    let mut byte = [0];
    let output = writer.stdout.as_mut().unwrap();
    while !said.ends_with(b"ready") && output.read(&mut byte).unwrap() == 1 {
        said.push(byte[0]);
    }
    assert!(said.ends_with(b"ready"), "the writer did not start");
    // The moment is what is random here; nothing waits for anything to have happened.
    let end = Instant::now() + wait;
    while Instant::now() < end {
        std::thread::yield_now();
    }
    writer.kill().unwrap();
    writer.wait().unwrap();
}

#[test]
fn a_writer_killed_at_any_moment_leaves_the_old_snapshot_or_the_new_one() {
    let dir = TestDir::new();
    let target = dir.join("snap");
    save(&target, &guest(200), 200);
    let mut numbers = Numbers(2026);
    let mut ids = std::collections::BTreeSet::new();
    let mut leftovers = 0;
    for _ in 0..200 {
        killed_after(&target, Duration::from_micros(numbers.below(12_000)));
        let chain = Chain::open(&target).unwrap();
        verify_chain(&chain).unwrap();
        let id = chain.newest().manifest().id.0[0];
        let mut restored = Guest::new(PageSize::K4, 200);
        chain.memory().unwrap().restore(&mut restored).unwrap();
        assert_eq!(restored, guest(id));
        ids.insert(id);
        leftovers += usize::from(dir.join(".snap.granule-partial").exists());
    }
    assert!(leftovers > 20, "killed in the middle only {leftovers} times");
    assert!(ids.len() > 1, "replaced now and then");
}
