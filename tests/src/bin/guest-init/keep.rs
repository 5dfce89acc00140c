//! `guest-init keep N`: threads that fill memory with tags and data, change both for ever, and look at all of it before each
//! change. What a snapshot loses or mixes up, they find.
//!
//! ```text
//!  each thread, each round:  vector registers hold a value through a long loop
//!                            for each page: tags and data as the last round left them? ─► new ones
//!  GRANULE keep {"round":7,"wrong":0,"gap_ms":12,…}   once all have finished a round
//! ```
//! Pages are of five kinds: tags and no data, data and no tags, both, one odd granule, neither.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Barrier, Mutex, PoisonError};
use std::time::Instant;

use serde_json::json;

use crate::say;
use crate::tags::{Backing, GRANULE, TaggedMemory, check_synchronously, random_tag, with_tag};

const PAGE: usize = 4096;
const PAGES: usize = 320;
const GRANULES: usize = PAGE / GRANULE;

/// Never returns but for an error.
pub fn run(threads: usize) -> Result<(), String> {
    let threads = threads.clamp(1, 32);
    let barrier = Barrier::new(threads);
    let wrong = AtomicU64::new(0);
    let gap = AtomicU64::new(0);
    let first_wrong = Mutex::new(String::new());
    std::thread::scope(|scope| {
        let keepers: Vec<_> = (0..threads)
            .map(|number| {
                let (barrier, wrong, gap, first_wrong) = (&barrier, &wrong, &gap, &first_wrong);
                scope.spawn(move || -> Result<(), String> {
                    let mut keeper = Keeper::new(number as u64)?;
                    for round in 1.. {
                        for fault in keeper.round(round, gap) {
                            wrong.fetch_add(1, Ordering::Relaxed);
                            let mut first = first_wrong.lock().unwrap_or_else(PoisonError::into_inner);
                            if first.is_empty() {
                                *first = fault;
                            }
                        }
                        if barrier.wait().is_leader() {
                            let first = first_wrong.lock().unwrap_or_else(PoisonError::into_inner).clone();
                            let gap_ms = gap.swap(0, Ordering::Relaxed);
                            let wrong = wrong.load(Ordering::Relaxed);
                            let uptime = super::checks::boot()["uptime"].clone();
                            say(&format!(
                                "keep {}",
                                json!({"round": round, "wrong": wrong, "first": first, "gap_ms": gap_ms, "uptime": uptime})
                            ));
                        }
                    }
                    Ok(())
                })
            })
            .collect();
        for keeper in keepers {
            keeper.join().map_err(|_| "a keeper died".to_owned())??;
        }
        Ok(())
    })
}

struct Keeper {
    memory: TaggedMemory,
    number: u64,
    /// What the last round left: tag of each granule, and data if any.
    tags: Vec<u8>,
    data: Vec<u64>,
    last: Instant,
}

impl Keeper {
    fn new(number: u64) -> Result<Self, String> {
        check_synchronously(0xfffe).map_err(|e| format!("PR_SET_TAGGED_ADDR_CTRL: {e}"))?;
        let memory = TaggedMemory::map(Backing::Anonymous, PAGES * PAGE).map_err(|e| e.to_string())?;
        let granules = memory.granules();
        Ok(Self { memory, number, tags: vec![0; granules], data: vec![0; granules], last: Instant::now() })
    }

    fn round(&mut self, round: u64, gap: &AtomicU64) -> Vec<String> {
        let mut faults = Vec::new();
        let value = self.number << 32 | round;
        let held = hold_in_vectors(value);
        if held != value {
            faults.push(format!("vectors hold {held:#x} and not {value:#x}"));
        }
        for page in 0..PAGES {
            let passed = self.last.elapsed();
            self.last = Instant::now();
            gap.fetch_max(u64::try_from(passed.as_millis()).unwrap_or(u64::MAX), Ordering::Relaxed);
            self.look(page, &mut faults);
            self.change(page, round);
        }
        faults
    }

    fn look(&self, page: usize, faults: &mut Vec<String>) {
        for granule in page * GRANULES..(page + 1) * GRANULES {
            let (tag, wanted) = (self.memory.tag(granule), self.tags[granule]);
            if tag != wanted {
                faults.push(format!("granule {granule} has tag {tag:#x} and not {wanted:#x}"));
                continue;
            }
            let data = self.memory.load(with_tag(self.memory.pointer(granule), wanted));
            if data != self.data[granule] {
                faults.push(format!("granule {granule} holds {data:#x} and not {:#x}", self.data[granule]));
            }
        }
    }

    fn change(&mut self, page: usize, round: u64) {
        let kind = (page as u64 + round) % 5;
        let odd = (round as usize * 7 + page) % GRANULES;
        for place in 0..GRANULES {
            let granule = page * GRANULES + place;
            let tag = match kind {
                0 | 2 => random_tag(),
                3 if place == odd => random_tag(),
                _ => 0,
            };
            let data = match kind {
                1 | 2 => self.number << 48 | round << 20 | granule as u64,
                3 if place == odd => round,
                _ => 0,
            };
            let pointer = self.memory.set_tag(granule, tag);
            self.memory.store(pointer, data);
            (self.tags[granule], self.data[granule]) = (tag, data);
        }
    }
}

/// Puts a value into every lane of a scalable vector, counts for a while, and takes it out of the last one.
#[cfg(target_arch = "aarch64")]
fn hold_in_vectors(value: u64) -> u64 {
    let held: u64;
    // SAFETY: works on registers alone; the guests of these tests have SVE.
    unsafe {
        std::arch::asm!(
            ".arch_extension sve",
            "ptrue p0.d",
            "dup z31.d, {value}",
            "2: subs {count}, {count}, #1",
            "b.ne 2b",
            "lastb {held}, p0, z31.d",
            value = in(reg) value,
            count = inout(reg) 2_000_000_u64 => _,
            held = out(reg) held,
            out("v31") _,
            out("p0") _,
            options(nomem, nostack),
        );
    }
    held
}

#[cfg(not(target_arch = "aarch64"))]
fn hold_in_vectors(value: u64) -> u64 {
    value
}
