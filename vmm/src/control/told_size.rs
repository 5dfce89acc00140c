//! The balloon and pluggable memory from the API's side: how much the guest has given back, or plugged.

use std::time::Duration;

use super::orders::Orders;

/// How long vm.info waits for a process.
const PATIENCE: Duration = Duration::from_millis(500);

/// Bytes, as the process tells them; none if there is none or it cannot say so.
pub async fn told_size(orders: Option<&Orders>) -> u64 {
    let Some(orders) = orders else { return 0 };
    let answer = tokio::time::timeout(PATIENCE, orders.give(b"", None)).await;
    let text = answer.ok().and_then(Result::ok).and_then(|answer| String::from_utf8(answer).ok());
    text.and_then(|text| text.parse().ok()).unwrap_or_default()
}
