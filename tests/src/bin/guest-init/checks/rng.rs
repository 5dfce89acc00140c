//! The entropy device: is virtio-rng the kernel's source, and does it give bytes.

use std::fs::File;
use std::io::Read;

use serde_json::json;

use super::{Seen, read};

/// Reads two blocks of 4 KiB through `/dev/hwrng`.
pub fn look() -> Seen {
    let current = read("/sys/class/misc/hw_random/rng_current")?;
    let mut source = File::open("/dev/hwrng").map_err(|e| format!("/dev/hwrng: {e}"))?;
    let mut blocks = [[0_u8; 4096]; 2];
    for block in &mut blocks {
        source.read_exact(block).map_err(|e| format!("read of /dev/hwrng ({current}): {e}"))?;
    }
    let mut seen = [false; 256];
    blocks.iter().flatten().for_each(|&b| seen[usize::from(b)] = true);
    Ok(json!({
        "current": current,
        "bytes": blocks.iter().map(|b| b.len()).sum::<usize>(),
        "distinct": seen.iter().filter(|&&s| s).count(),
        "repeats": blocks[0] == blocks[1],
    }))
}
