//! The balloon: its driver is loaded, and memory of known tags and contents is left for it to take.

use std::time::{Duration, Instant};

use serde_json::json;

use super::{Seen, names, read};
use granule_tests::modules;

const MODULES: &str = "/balloon-modules";

/// Loads the driver and tells its features, and how much memory is free.
pub fn look() -> Seen {
    if names("/sys/bus/virtio/drivers/virtio_balloon").is_empty()
        && let Some((module, error)) = modules::load_all(MODULES).into_iter().next()
    {
        return Err(format!("{module}: {error}"));
    }
    Ok(json!({"free_kib": free()?}))
}

/// Waits until less or more than so much memory is left to the guest.
pub fn wait(words: &str) -> Seen {
    let (less, kib) = words.split_once(':').ok_or("balloon:less:KIB or balloon:more:KIB")?;
    let kib: u64 = kib.parse().map_err(|e| format!("{kib}: {e}"))?;
    let until = Instant::now() + Duration::from_secs(60);
    loop {
        let free = free()?;
        if (less == "less") == (free < kib) {
            return Ok(json!({"free_kib": free}));
        }
        if Instant::now() > until {
            return Err(format!("{free} KiB are free, not {less} than {kib}"));
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

fn free() -> Result<u64, String> {
    let text = read("/proc/meminfo")?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemFree:")).ok_or("no MemFree")?;
    line.trim().trim_end_matches(" kB").parse().map_err(|e| format!("MemFree: {e}"))
}
