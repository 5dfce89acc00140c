//! What the guest's kernel says of its memory, before and after a driver has changed it.

use std::time::{Duration, Instant};

use serde_json::json;

use super::{Seen, names, read};
use granule_tests::modules;

/// Loads the modules of a folder where the driver is not there yet.
pub fn load(driver: &str, folder: &str) -> Result<(), String> {
    if names(&format!("/sys/bus/virtio/drivers/{driver}")).is_empty()
        && let Some((module, error)) = modules::load_all(folder).into_iter().next()
    {
        return Err(format!("{module}: {error}"));
    }
    Ok(())
}

/// Waits until `line` tells less or more than so many KiB: `less:KIB`, `more:KIB`.
pub fn wait(line: &str, words: &str) -> Seen {
    let (less, kib) = words.split_once(':').ok_or("less:KIB or more:KIB")?;
    let wanted: u64 = kib.parse().map_err(|e| format!("{kib}: {e}"))?;
    let until = Instant::now() + Duration::from_secs(60);
    loop {
        let is = self::kib(line)?;
        if (less == "less") == (is < wanted) {
            return Ok(json!({"kib": is}));
        }
        if Instant::now() > until {
            return Err(format!("{line} is {is} KiB, not {less} than {wanted}"));
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// What a line of /proc/meminfo tells.
pub fn kib(line: &str) -> Result<u64, String> {
    let text = read("/proc/meminfo")?;
    let value = text.lines().find_map(|each| each.strip_prefix(line)?.strip_prefix(':'));
    let value = value.ok_or_else(|| format!("no {line}"))?;
    value.trim().trim_end_matches(" kB").parse().map_err(|e| format!("{line}: {e}"))
}
