//! A snapshot that is not as it was written is refused, whatever changed and wherever.

#![allow(clippy::unwrap_used, reason = "a test that fails may panic")]

mod common;

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;

use common::{Guest, Numbers, TestDir, save};
use granule_snapshot::directory::{Chain, OpenError};
use granule_snapshot::inspect::{VerifyError, verify_chain};
use granule_snapshot::layout::PageSize;
use granule_snapshot::memory::MemoryError;

fn verify(directory: &Path) -> Result<(), VerifyError> {
    verify_chain(&Chain::open(directory)?)?;
    Ok(())
}

const CHECKED: [&str; 5] = ["manifest.json", "state.json", "memory", "pages", "tags"];

fn example(dir: &TestDir) -> std::path::PathBuf {
    let target = dir.join("snap");
    save(&target, &Guest::example(PageSize::K4, 100, 9), 1);
    target
}

#[test]
fn flipped_bits_are_found_in_every_file() {
    let dir = TestDir::new();
    let target = example(&dir);
    let mut numbers = Numbers(5);
    for name in CHECKED {
        let path = target.join(name);
        let file = fs::File::options().read(true).write(true).open(&path).unwrap();
        let length = file.metadata().unwrap().len();
        for _ in 0..200 {
            let (at, bit) = (numbers.below(length), numbers.below(8));
            let mut byte = [0];
            file.read_exact_at(&mut byte, at).unwrap();
            file.write_all_at(&[byte[0] ^ 1 << bit], at).unwrap();
            assert!(verify(&target).is_err(), "{name}: bit {bit} of byte {at}");
            file.write_all_at(&byte, at).unwrap();
        }
    }
    verify(&target).unwrap();
}

#[test]
fn truncated_longer_and_missing_files_are_refused_at_opening() {
    let dir = TestDir::new();
    let target = example(&dir);
    for name in CHECKED {
        let path = target.join(name);
        let good = fs::read(&path).unwrap();
        for length in [0, 1, good.len() / 2, good.len() - 1] {
            fs::write(&path, &good[..length]).unwrap();
            assert!(Chain::open(&target).is_err(), "{name} of {length} bytes");
        }
        fs::write(&path, [&good[..], b"x"].concat()).unwrap();
        assert!(Chain::open(&target).is_err(), "{name} and a byte");
        fs::remove_file(&path).unwrap();
        assert!(Chain::open(&target).is_err(), "no {name}");
        fs::create_dir(&path).unwrap();
        assert!(
            matches!(Chain::open(&target), Err(OpenError::NotAFile(_) | OpenError::Io { .. })),
            "{name}/"
        );
        fs::remove_dir(&path).unwrap();
        fs::write(&path, good).unwrap();
    }
    verify(&target).unwrap();
}

#[test]
fn a_pipe_in_place_of_a_file_keeps_nobody_waiting() {
    let dir = TestDir::new();
    let target = example(&dir);
    fs::remove_file(target.join("state.json")).unwrap();
    let made = std::process::Command::new("mkfifo").arg(target.join("state.json")).status().unwrap();
    assert!(made.success());
    assert!(matches!(Chain::open(&target), Err(OpenError::NotAFile(_))));
}

#[test]
fn files_of_another_snapshot_are_refused_though_whole() {
    let dir = TestDir::new();
    let target = example(&dir);
    save(&dir.join("other"), &Guest::example(PageSize::K4, 100, 10), 2);
    // The two have the same state.
    for name in CHECKED.into_iter().filter(|name| *name != "state.json") {
        let good = fs::read(target.join(name)).unwrap();
        fs::copy(dir.join("other").join(name), target.join(name)).unwrap();
        // The manifest's own copy is a whole snapshot's only with all other files.
        assert!(verify(&target).is_err(), "{name}");
        fs::write(target.join(name), good).unwrap();
    }
}

#[test]
fn pages_in_each_others_place_are_found() {
    let dir = TestDir::new();
    let mut guest = Guest::new(PageSize::K4, 10);
    guest.store(1, 5);
    guest.store(2, 6);
    save(&dir.join("snap"), &guest, 1);
    let path = dir.join("snap/memory");
    let mut bytes = fs::read(&path).unwrap();
    let (first, second) = bytes[4096..3 * 4096].split_at_mut(4096);
    first.swap_with_slice(second);
    fs::write(&path, bytes).unwrap();
    let error = verify(&dir.join("snap")).unwrap_err();
    assert!(matches!(error, VerifyError::Memory { source: MemoryError::PageSum { page: 1 }, .. }));
}

#[test]
fn a_page_that_should_be_a_hole_must_be_zero() {
    let dir = TestDir::new();
    let mut guest = Guest::new(PageSize::K4, 100);
    guest.store(1, 5);
    save(&dir.join("snap"), &guest, 1);
    let file = fs::File::options().write(true).open(dir.join("snap/memory")).unwrap();
    file.write_all_at(&[0], 90 * 4096).unwrap();
    verify(&dir.join("snap")).unwrap();
    file.write_all_at(&[1], 90 * 4096 + 4095).unwrap();
    let error = verify(&dir.join("snap")).unwrap_err();
    assert!(matches!(error, VerifyError::Memory { source: MemoryError::NotZero { page: 90 }, .. }));
}

#[test]
fn opening_reads_no_memory_and_a_damaged_page_harms_only_itself() {
    let dir = TestDir::new();
    let mut guest = Guest::new(PageSize::K4, 200);
    (0..200).for_each(|page| guest.store(page, 7));
    save(&dir.join("snap"), &guest, 1);
    let file = fs::File::options().write(true).open(dir.join("snap/memory")).unwrap();
    file.write_all_at(b"?", 150 * 4096 + 17).unwrap();
    let mut memory = Chain::open(&dir.join("snap")).unwrap().memory().unwrap();
    let mut data = vec![0; 4096];
    for page in 0..200 {
        let read = memory.read_data(page, &mut data);
        assert_eq!(read.is_err(), page == 150, "page {page}");
    }
}
