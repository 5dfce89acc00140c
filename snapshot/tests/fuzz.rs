//! A short run of every fuzz target: good inputs, and a few thousand mutations of each that are the same every time.
//!
//! `GRANULE_CORPUS=fuzz/corpus cargo test -p granule-snapshot --test fuzz` writes the good inputs for the fuzzers to start from.

#![allow(clippy::unwrap_used, reason = "a test that fails may panic")]

mod common;
#[path = "../../fuzz/targets/snapshot.rs"]
mod targets;

use std::fs;
use std::path::PathBuf;

use common::{Guest, Numbers, TestDir, save, save_diff, state};
use granule_snapshot::chunk::Chunk;
use granule_snapshot::data::{DataBlock, DataKind, page_sum};
use granule_snapshot::layout::PageSize;
use granule_snapshot::tags::TagBlock;
use targets::TARGETS;

/// Good inputs of a target.
fn seeds(target: &str) -> Vec<Vec<u8>> {
    let dir = TestDir::new();
    let mut guest = Guest::example(PageSize::K4, 130, 12);
    guest.layout = targets::layout();
    save(&dir.join("full"), &guest, 1);
    let before = guest.clone();
    guest.run(30, 5);
    save_diff(&dir.join("diff"), &guest, &before, 2, (1, "../full"));
    let read = |name: &str| fs::read(dir.join(name)).unwrap();
    let files = |name: &str| {
        let pages = read(&format!("{name}/pages"));
        let length = u16::try_from(pages.len()).unwrap().to_le_bytes();
        [&length[..], &pages, &read(&format!("{name}/tags"))].concat()
    };
    match target {
        "manifest" => vec![read("full/manifest.json"), read("diff/manifest.json")],
        "state" => vec![state(), b"{\"components\": []}".to_vec()],
        "tags" => tag_seeds(&guest),
        "data" => {
            let mut block = DataBlock::new(true);
            block.set(3, DataKind::Raw(7));
            block.set(9, DataKind::Zero);
            let (mut full, mut diff) = (vec![0x3f], vec![0x7f]);
            block.encode(64, false, &mut full);
            block.encode(64, true, &mut diff);
            vec![full, diff]
        }
        "block_file" => vec![read("full/tags")],
        "chunk" => vec![chunk_seed()],
        "memory" => vec![files("full"), files("diff")],
        other => panic!("no seeds for {other}"),
    }
}

fn tag_seeds(guest: &Guest) -> Vec<Vec<u8>> {
    let block = |tags: &[&Vec<u8>]| {
        let mut block = TagBlock::new(PageSize::K4, tags.len(), false);
        tags.iter().enumerate().for_each(|(index, tags)| block.set(index, tags));
        let mut bytes = vec![(tags.len() - 1) as u8];
        block.encode(&mut bytes);
        bytes
    };
    let all: Vec<&Vec<u8>> = guest.tags.values().collect();
    all.chunks(1).take(20).chain(all.chunks(7)).map(block).collect()
}

fn chunk_seed() -> Vec<u8> {
    let raw = [5; 2 * 4096];
    let mut data = DataBlock::new(true);
    data.set(1, DataKind::Raw(page_sum(65, &raw[..4096])));
    data.set(2, DataKind::Raw(page_sum(66, &raw[4096..])));
    let mut tags = TagBlock::new(PageSize::K4, 64, true);
    tags.set(1, &[0x21; 128]);
    let mut bytes = Vec::new();
    Chunk { block: 1, data, tags, raw: &raw }.encode(&targets::layout(), true, &mut bytes);
    bytes
}

/// Changes bytes, cuts, repeats and inserts.
fn mutate(seed: &[u8], numbers: &mut Numbers) -> Vec<u8> {
    let mut bytes = seed.to_vec();
    for _ in 0..=numbers.below(4) {
        let at = numbers.below(bytes.len() as u64 + 1) as usize;
        let some = numbers.below(9) as usize;
        match numbers.below(6) {
            0 => bytes.truncate(at),
            1 => bytes.insert(at, numbers.next() as u8),
            2 => bytes.extend_from_within(at..(at + some).min(bytes.len())),
            3 => drop(bytes.drain(at..(at + some).min(bytes.len()))),
            4 if at < bytes.len() => bytes[at] ^= 1 << numbers.below(8),
            _ if at < bytes.len() => bytes[at] = [0, 1, 0x7f, 0x80, 0xff, numbers.next() as u8][some.min(5)],
            _ => {}
        }
    }
    bytes
}

#[test]
fn every_target_survives_good_and_bad_input() {
    for (name, target) in TARGETS {
        let mut numbers = Numbers(0x5eed);
        let rounds = if name == "memory" || name == "chunk" { 600 } else { 4000 };
        for (index, seed) in seeds(name).iter().enumerate() {
            if let Some(corpus) = std::env::var_os("GRANULE_CORPUS") {
                let directory = PathBuf::from(corpus).join(name);
                fs::create_dir_all(&directory).unwrap();
                fs::write(directory.join(format!("seed-{index}")), seed).unwrap();
            }
            target(seed);
            for _ in 0..rounds {
                target(&mutate(seed, &mut numbers));
            }
        }
    }
}
