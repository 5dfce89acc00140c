//! vm.counters: what each device process has counted.
//!
//! Processes are asked all at once, beside the driver, and each has a second: one that hangs is left out and delays
//! nothing else. What it tells is an allegation.

use std::time::Duration;

use granule_api::types::VmCounters;
use granule_devices::serve::COUNTERS;
use tokio::task::JoinSet;

use super::orders::Orders;

/// How long a process may take.
pub const LIMIT: Duration = Duration::from_secs(1);

/// The most counters that are believed to be one device's.
const MOST: usize = 64;

/// Asks the processes of these devices.
pub async fn collect(devices: Vec<(String, Orders)>) -> VmCounters {
    let mut asked = JoinSet::new();
    for (id, orders) in devices {
        asked.spawn(async move {
            let told = tokio::time::timeout(LIMIT, orders.give(COUNTERS, None)).await;
            (id, told.ok().and_then(Result::ok).unwrap_or_default())
        });
    }
    let mut counters = VmCounters::new();
    while let Some(told) = asked.join_next().await {
        // A task that panicked ends the process; there is no other reason for it not to join.
        let Ok((id, told)) = told else { continue };
        counters.insert(id, read(&told).collect());
    }
    counters
}

/// What is well-formed of a process's answer.
fn read(told: &[u8]) -> impl Iterator<Item = (String, u64)> {
    let lines = std::str::from_utf8(told).unwrap_or_default().lines().take(MOST);
    let is_name = |name: &str| !name.is_empty() && name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_');
    let counter = move |line: &str| {
        let (name, value) = line.split_once(' ')?;
        // Clients read them as signed.
        let value = value.parse::<u64>().ok()?.min(i64::MAX as u64);
        is_name(name).then(|| (name.to_owned(), value))
    };
    lines.filter_map(counter)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_well_formed_is_believed() {
        let told = b"read_ops 3\nevil\"} 1\nbytes -1\nbytes 99999999999999999999\n 1\nwrite_ops 18446744073709551615\n";
        let counters: Vec<_> = read(told).collect();
        assert_eq!(counters, [("read_ops".to_owned(), 3), ("write_ops".to_owned(), i64::MAX as u64)]);
        let many: String = (0..1000).map(|_| "a 1\n").collect();
        assert_eq!(read(many.as_bytes()).count(), MOST);
        assert_eq!(read(&[0xff; 4096]).count(), 0);
    }
}
