//! Waiting for what another process does, with a limit and a reason.

use std::thread::sleep;
use std::time::{Duration, Instant};

/// Enough for a guest's boot, or anything else, on an emulated machine whose own host is busy.
pub const LONG: Duration = Duration::from_secs(240);
/// Enough for an answer that takes milliseconds on an idle machine.
pub const SHORT: Duration = Duration::from_secs(60);

/// How often the condition is looked at. Processes, sockets and files of strangers offer nothing to block on together.
const PACE: Duration = Duration::from_millis(10);

/// Looks until `look` finds something; after `limit` it returns `None`.
pub fn until<T>(limit: Duration, mut look: impl FnMut() -> Option<T>) -> Option<T> {
    let end = Instant::now() + limit;
    loop {
        if let Some(found) = look() {
            return Some(found);
        }
        if Instant::now() >= end {
            return None;
        }
        sleep(PACE);
    }
}
