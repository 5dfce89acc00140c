//! Time: the RTC and the clock that the kernel set from it.

use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::json;

use super::{Seen, read};

/// Seconds since 1970 by the RTC and by the system clock.
pub fn look() -> Seen {
    let rtc: u64 = read("/sys/class/rtc/rtc0/since_epoch")?.parse().map_err(|e| format!("rtc0: {e}"))?;
    let system = SystemTime::now().duration_since(UNIX_EPOCH).map_err(|e| format!("system clock: {e}"))?;
    Ok(json!({"name": read("/sys/class/rtc/rtc0/name")?, "rtc": rtc, "system": system.as_secs()}))
}
