//! Memory that is plugged: its driver is loaded, how much there is, and whether plugged pages have tags.

use std::fs::File;
use std::os::unix::fs::FileExt;

use serde_json::json;

use super::{Seen, meminfo};
use crate::tags::{Backing, TaggedMemory, check_synchronously, random_tag};

const PAGE: usize = 4096;
const GRANULE: usize = 16;

/// Loads the driver and tells how much memory there is.
pub fn look() -> Seen {
    meminfo::load("virtio_mem", "/mem-modules")?;
    Ok(json!({"total_kib": meminfo::kib("MemTotal")?}))
}

/// Takes memory until pages of it were plugged, and tells whether they hold tags and data: every granule its own.
pub fn tags() -> Seen {
    check_synchronously(0xfffe).map_err(|e| format!("PR_SET_TAGGED_ADDR_CTRL: {e}"))?;
    let plugged = plugged_from()?;
    let pagemap = File::open("/proc/self/pagemap").map_err(|e| format!("pagemap: {e}"))?;
    let memory = TaggedMemory::map(Backing::Anonymous, 8 << 20).map_err(|e| e.to_string())?;
    let tags: Vec<u8> = (0..memory.granules()).map(|_| random_tag()).collect();
    for (index, &tag) in tags.iter().enumerate() {
        let pointer = memory.set_tag(index, tag);
        memory.store(pointer, index as u64);
    }
    let (mut pages, mut wrong) = (0, 0);
    for page in 0..memory.granules() * GRANULE / PAGE {
        let first = page * PAGE / GRANULE;
        if physical(&pagemap, memory.pointer(first))? < plugged {
            continue;
        }
        pages += 1;
        let granules = first..first + PAGE / GRANULE;
        wrong += granules
            .filter(|&index| {
                memory.tag(index) != tags[index]
                    || memory.load(crate::tags::with_tag(memory.pointer(index), tags[index])) != index as u64
            })
            .count();
    }
    Ok(json!({"plugged_pages": pages, "wrong": wrong}))
}

/// The first physical address behind the memory of the boot, which is one range.
fn plugged_from() -> Result<u64, String> {
    let reg =
        std::fs::read("/proc/device-tree/memory@40000000/reg").map_err(|e| format!("memory node: {e}"))?;
    let number =
        |at: usize| reg.get(at..at + 8).and_then(|bytes| bytes.try_into().ok()).map(u64::from_be_bytes);
    number(0).zip(number(8)).map(|(base, size)| base + size).ok_or_else(|| "the memory node is short".into())
}

/// Where a page of this process is; page frames are shown to root alone.
fn physical(pagemap: &File, address: usize) -> Result<u64, String> {
    let mut entry = [0; 8];
    pagemap.read_exact_at(&mut entry, (address / PAGE * 8) as u64).map_err(|e| format!("pagemap: {e}"))?;
    let frame = u64::from_le_bytes(entry) & ((1 << 55) - 1);
    if frame == 0 { Err("the pagemap shows no frame".into()) } else { Ok(frame * PAGE as u64) }
}
