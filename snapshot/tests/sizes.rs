//! What tags take, by kind of page. `cargo test -p granule-snapshot --test sizes -- --nocapture` prints the table of the documentation.

#![allow(clippy::unwrap_used, reason = "a test that fails may panic")]

mod common;

use std::fs;
use std::path::Path;

use common::Numbers;
use granule_snapshot::layout::PageSize;
use granule_snapshot::tags::TagBlock;

/// Bytes of one page among others like it, in blocks of 64, with its share of the directory.
fn bytes_per_page(pages: &[Vec<u8>]) -> f64 {
    let mut bytes = Vec::new();
    for some in pages.chunks(64) {
        let mut block = TagBlock::new(PageSize::K4, some.len(), false);
        some.iter().enumerate().for_each(|(index, tags)| block.set(index, tags));
        if !block.is_default(false) {
            block.encode(&mut bytes);
        }
    }
    bytes.len() as f64 / pages.len() as f64
}

fn pack(tags: &[u8]) -> Vec<u8> {
    tags.chunks(2).map(|pair| pair[0] | pair[1] << 4).collect()
}

/// A page of objects of so many granules, `gap` untagged ones between, all in use.
fn slab(granules: usize, gap: usize, numbers: &mut Numbers) -> Vec<u8> {
    let mut tags = vec![0; 256];
    for object in tags.chunks_mut(granules + gap) {
        let start = gap.min(object.len());
        object[start..].fill((numbers.below(15) + 1) as u8);
    }
    pack(&tags)
}

/// A heap page: sizes by a geometric distribution with this mean in granules, a quarter of the objects free.
fn heap(mean: u64, numbers: &mut Numbers) -> Vec<u8> {
    let (mut tags, mut at) = (vec![0u8; 256], 0);
    while at < 256 {
        let mut length = 1;
        while numbers.below(mean) != 0 {
            length += 1;
        }
        let tag = if numbers.below(4) == 0 { 0 } else { (numbers.below(15) + 1) as u8 };
        let end = (at + 1 + length).min(256);
        tags[(at + 1).min(256)..end].fill(tag);
        at = end;
    }
    pack(&tags)
}

fn many(mut page: impl FnMut() -> Vec<u8>) -> f64 {
    bytes_per_page(&(0..640).map(|_| page()).collect::<Vec<_>>())
}

#[test]
fn pages_of_each_kind_take_what_the_documentation_says() {
    let mut numbers = Numbers(99);
    let n = &mut numbers;
    let rows = [
        ("no tags", many(|| vec![0; 128]), 0.0),
        ("uniform", many(|| vec![0x77; 128]), 1.0),
        ("one odd granule", many(|| slab(255, 1, n)), 4.0),
        ("objects of 32 bytes, header between (malloc)", many(|| slab(2, 1, n)), 57.0),
        ("objects of 64 bytes, header between (malloc)", many(|| slab(4, 1, n)), 36.0),
        ("objects of 128 bytes, header between (malloc)", many(|| slab(8, 1, n)), 22.0),
        ("objects of 64 bytes side by side (slab)", many(|| slab(4, 0, n)), 42.0),
        ("objects of 256 bytes side by side (slab)", many(|| slab(16, 0, n)), 14.0),
        ("heap, mean object of 64 bytes", many(|| heap(4, n)), 50.0),
        ("heap, mean object of 128 bytes", many(|| heap(8, n)), 32.0),
        ("heap, mean object of 512 bytes", many(|| heap(32, n)), 14.0),
        (
            "every granule random",
            many(|| pack(&(0..256).map(|_| n.below(16) as u8).collect::<Vec<_>>())),
            129.0,
        ),
    ];
    for (name, bytes, most) in rows {
        println!("| {name} | {bytes:.1} |");
        assert!(bytes <= most, "{name}: {bytes} bytes per page, should be at most {most}");
    }
}

#[test]
fn heap_pages_of_real_programs_take_30_bytes_on_average_at_most() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/heaps");
    let mut all = Vec::new();
    let mut files: Vec<_> = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    for path in files.iter().filter(|path| path.extension().is_some_and(|extension| extension == "tags")) {
        let pages: Vec<Vec<u8>> = fs::read(path).unwrap().chunks(128).map(<[u8]>::to_vec).collect();
        let bytes = bytes_per_page(&pages);
        println!("| {} | {bytes:.1} |", path.file_stem().unwrap().to_str().unwrap());
        assert!(bytes < 65.0, "{}: {bytes}", path.display());
        all.push(bytes);
    }
    let mean = all.iter().sum::<f64>() / all.len() as f64;
    println!("| mean of {} programs | {mean:.1} |", all.len());
    assert!(all.len() > 10 && mean <= 30.0);
    assert!(
        all.iter().filter(|bytes| **bytes <= 40.0).count() * 4 >= all.len() * 3,
        "three in four at least"
    );
}
