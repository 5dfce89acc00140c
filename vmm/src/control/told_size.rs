//! The balloon and pluggable memory from the API's side: how much the guest has given back, or plugged.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use super::orders::Orders;

/// How long vm.info waits for a process: it is to be answered within 50 ms, whatever processes do.
const PROMPT: Duration = Duration::from_millis(20);
/// How long an answer may take to be heard at all.
const PATIENCE: Duration = Duration::from_secs(5);

/// What a process has told last, in bytes; nothing at first.
#[derive(Debug, Default)]
pub struct ToldSize {
    bytes: AtomicU64,
    /// Somebody waits for an answer.
    asked: AtomicBool,
}

impl ToldSize {
    /// What the process tells, or told last where it takes longer; none if there is none.
    pub async fn now(self: Arc<Self>, orders: Option<Orders>) -> u64 {
        let Some(orders) = orders else { return 0 };
        if !self.asked.swap(true, Relaxed) {
            // Goes on when nobody waits any more: an answer that is late is the next question's.
            let asking = tokio::spawn(self.clone().ask(orders));
            let _ = tokio::time::timeout(PROMPT, asking).await;
        }
        self.bytes.load(Relaxed)
    }

    async fn ask(self: Arc<Self>, orders: Orders) {
        let answer = tokio::time::timeout(PATIENCE, orders.give(b"", None)).await;
        let text = answer.ok().and_then(Result::ok).and_then(|answer| String::from_utf8(answer).ok());
        if let Some(bytes) = text.and_then(|text| text.parse().ok()) {
            self.bytes.store(bytes, Relaxed);
        }
        self.asked.store(false, Relaxed);
    }
}
