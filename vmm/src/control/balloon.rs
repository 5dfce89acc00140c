//! The balloon from the API's side: what the guest says it has given back.

use std::time::Duration;

use super::orders::Orders;

/// How long vm.info waits for the balloon's process.
const PATIENCE: Duration = Duration::from_millis(500);

/// Bytes that the guest says it has given back; none if nobody can say so.
pub async fn given(orders: &Orders) -> u64 {
    let answer = tokio::time::timeout(PATIENCE, orders.give(b"", None)).await;
    let text = answer.ok().and_then(Result::ok).and_then(|answer| String::from_utf8(answer).ok());
    text.and_then(|text| text.parse().ok()).unwrap_or_default()
}
