//! Writes and reads that never stop, each block remembered: what a lost, torn or repeated request leaves is seen.
//!
//! Each thread has blocks of its own. A write gives a block its next generation; a read must find the last one that was
//! written, whole. At the end every block is read once more.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::thread;

use granule_tests::pattern;
use serde_json::json;

use super::super::Seen;

const BLOCK: usize = 4096;
/// Blocks of one thread.
pub const BLOCKS: u64 = 64;

/// A block as direct I/O wants it.
#[repr(C, align(4096))]
struct Page([u8; BLOCK]);

#[derive(Default)]
struct Tally {
    writes: u64,
    reads: u64,
    flushes: u64,
    wrong: u64,
}

/// Runs `threads` threads until each has done `operations`; the content that is left is that of the host's to verify.
pub fn run(device: &str, seed: u64, operations: u64, threads: u64) -> Seen {
    let failed = |error: io::Error| format!("{device}: {error}");
    let workers: Vec<_> = (0..threads)
        .map(|number| {
            let mut options = OpenOptions::new();
            options.read(true).write(true).custom_flags(libc::O_DIRECT);
            let file = options.open(device).map_err(failed)?;
            Ok(thread::spawn(move || work(&file, seed, number, operations)))
        })
        .collect::<Result<_, String>>()?;
    let mut all = Tally::default();
    for worker in workers {
        let tally = worker.join().map_err(|_| "a thread panicked".to_owned())?.map_err(failed)?;
        all.writes += tally.writes;
        all.reads += tally.reads;
        all.flushes += tally.flushes;
        all.wrong += tally.wrong;
    }
    Ok(json!({"writes": all.writes, "reads": all.reads, "flushes": all.flushes, "wrong": all.wrong}))
}

fn work(file: &File, seed: u64, number: u64, operations: u64) -> io::Result<Tally> {
    let mut generations = [0; BLOCKS as usize];
    let mut page = Box::new(Page([0; BLOCK]));
    let mut tally = Tally::default();
    for block in 0..BLOCKS {
        write(file, &mut page, seed, number, block, 0)?;
    }
    let mut random = seed ^ (number + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    for _ in 0..operations {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        let block = (random >> 8) % BLOCKS;
        let generation = &mut generations[block as usize];
        match random % 16 {
            0 => {
                file.sync_data()?;
                tally.flushes += 1;
            }
            1..=8 => {
                *generation += 1;
                write(file, &mut page, seed, number, block, *generation)?;
                tally.writes += 1;
            }
            _ => {
                tally.wrong += u64::from(!matches(file, &mut page, seed, number, block, *generation)?);
                tally.reads += 1;
            }
        }
    }
    for (block, generation) in (0..).zip(generations) {
        tally.wrong += u64::from(!matches(file, &mut page, seed, number, block, generation)?);
    }
    // What the host looks at afterwards.
    for block in 0..BLOCKS {
        write(file, &mut page, seed, number, block, 0)?;
    }
    file.sync_data()?;
    Ok(tally)
}

fn offset(number: u64, block: u64) -> u64 {
    (number * BLOCKS + block) * BLOCK as u64
}

fn write(
    file: &File,
    page: &mut Page,
    seed: u64,
    number: u64,
    block: u64,
    generation: u64,
) -> io::Result<()> {
    let at = offset(number, block);
    pattern::fill(&mut page.0, seed ^ generation << 32, at);
    file.write_all_at(&page.0, at)
}

fn matches(
    file: &File,
    page: &mut Page,
    seed: u64,
    number: u64,
    block: u64,
    generation: u64,
) -> io::Result<bool> {
    let at = offset(number, block);
    file.read_exact_at(&mut page.0, at)?;
    Ok(pattern::wrong(&page.0, seed ^ generation << 32, at) == 0)
}
