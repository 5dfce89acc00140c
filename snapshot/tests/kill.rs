//! A writer is killed at random moments: what is on disk verifies as the old snapshot or the new one.
//!
//! The writer is this test's own binary, started again to run one "test" that writes for ever.

#![allow(clippy::unwrap_used, reason = "a test that fails may panic")]

mod common;

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use common::{Guest, Numbers, TestDir, description, save, write};
use granule_snapshot::directory::{Chain, OsDisk, Staging};
use granule_snapshot::inspect::verify_chain;
use granule_snapshot::layout::PageSize;

const TARGET: &str = "GRANULE_TEST_KILLED_WRITER";

fn guest(id: u8) -> Guest {
    Guest::example(PageSize::K4, 200, u64::from(id) + 1)
}

/// Only in the process that is to be killed: says a line after every snapshot.
#[test]
fn writer() {
    let Ok(target) = std::env::var(TARGET) else { return };
    for id in (0..=255).cycle() {
        let staging = Staging::create(OsDisk, Path::new(&target), true).unwrap();
        write(staging, guest(id).whole(), description(&guest(id), id, None)).unwrap();
        println!("\nwritten");
    }
}

struct Writer {
    process: Child,
    said: BufReader<ChildStdout>,
}

impl Writer {
    fn start(target: &Path) -> Self {
        let mut process = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "writer", "--nocapture", "--test-threads", "1"])
            .env(TARGET, target)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let said = BufReader::new(process.stdout.take().unwrap());
        Self { process, said }
    }

    fn wait_for_a_snapshot(&mut self) {
        let mut line = String::new();
        while line != "written\n" {
            line.clear();
            assert_ne!(self.said.read_line(&mut line).unwrap(), 0, "the writer has ended");
        }
    }

    fn kill(mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

/// How long one snapshot takes here: the machine may be emulated, or busy.
fn one_snapshot(target: &Path) -> Duration {
    let mut writer = Writer::start(target);
    writer.wait_for_a_snapshot();
    let start = Instant::now();
    for _ in 0..8 {
        writer.wait_for_a_snapshot();
    }
    let took = start.elapsed() / 8;
    writer.kill();
    took
}

#[test]
fn a_writer_killed_at_any_moment_leaves_the_old_snapshot_or_the_new_one() {
    let dir = TestDir::new();
    let target = dir.join("snap");
    save(&target, &guest(200), 200);
    let longest = u64::try_from(one_snapshot(&target).as_micros()).unwrap();
    let mut numbers = Numbers(2026);
    let mut ids = BTreeSet::new();
    let mut leftovers = 0;
    for _ in 0..200 {
        let mut writer = Writer::start(&target);
        for _ in 0..=numbers.below(3) {
            writer.wait_for_a_snapshot();
        }
        // The moment is what is random here; nothing waits for anything to have happened.
        let end = Instant::now() + Duration::from_micros(numbers.below(longest.max(1)));
        while Instant::now() < end {
            std::thread::yield_now();
        }
        writer.kill();
        let chain = Chain::open(&target).unwrap();
        verify_chain(&chain).unwrap();
        let id = chain.newest().manifest().id.0[0];
        let mut restored = Guest::new(PageSize::K4, 200);
        chain.memory().unwrap().restore(&mut restored).unwrap();
        assert_eq!(restored, guest(id));
        ids.insert(id);
        leftovers += usize::from(dir.join(".snap.granule-partial").exists());
    }
    assert!(leftovers > 0, "never killed in the middle");
    assert!(ids.len() > 1, "never replaced: {ids:?}");
}
