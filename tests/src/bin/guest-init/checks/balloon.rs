//! The balloon: its driver is loaded, and memory of known tags and contents is left for it to take.

use serde_json::json;

use super::{Seen, meminfo};

/// Loads the driver and tells how much memory is free.
pub fn look() -> Seen {
    meminfo::load("virtio_balloon", "/balloon-modules")?;
    Ok(json!({"free_kib": meminfo::kib("MemFree")?}))
}
