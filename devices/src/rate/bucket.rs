//! One bucket of tokens.
//!
//! ```text
//!   size / refill_time ──► ( level ≤ size ) ──► take(cost), once level + burst ≥ min(cost, size)
//! ```
//! An operation that costs more than the bucket holds goes when the bucket is full, and leaves a debt: the rate holds
//! over time, and nothing is refused for ever.

use std::time::{Duration, Instant};

use super::BucketSettings;

/// No wait is longer: a clock that is set to the end of time would overflow.
const LONGEST_WAIT: Duration = Duration::from_secs(24 * 60 * 60);

/// Tokens, counted in parts of one `refill`th so that no refill is ever rounded.
#[derive(Clone, Debug)]
pub(super) struct Bucket {
    size: i128,
    refill: i128,
    level: i128,
    burst: i128,
    seen: Instant,
}

impl Bucket {
    /// A full bucket, or none where there is no limit.
    pub fn new(settings: BucketSettings, now: Instant) -> Option<Self> {
        let BucketSettings { size, one_time_burst, refill_time } = settings;
        // 60 bits of nanoseconds are 36 years; with 64 bits of size the product, and twice the product, fits.
        let refill = i128::try_from(refill_time.as_nanos()).unwrap_or(i128::MAX).min(1 << 60);
        if size == 0 || refill == 0 {
            return None;
        }
        let size = i128::from(size);
        Some(Self { size, refill, level: size * refill, burst: one_time_burst.into(), seen: now })
    }

    /// How long until `tokens` can be taken.
    pub fn wait(&mut self, tokens: u64, now: Instant) -> Duration {
        self.refill(now);
        let needed = (i128::from(tokens) - self.burst).clamp(0, self.size) * self.refill;
        let missing = needed - self.level;
        if missing <= 0 {
            return Duration::ZERO;
        }
        // One nanosecond brings `size` parts; the last one may bring more than is missing.
        let nanoseconds = (missing + self.size - 1) / self.size;
        u64::try_from(nanoseconds).map_or(LONGEST_WAIT, Duration::from_nanos).min(LONGEST_WAIT)
    }

    /// Takes `tokens`, the burst first. Right after a [`Self::wait`] of zero the level is not below zero, so that no debt
    /// is larger than one operation.
    pub fn take(&mut self, tokens: u64) {
        let tokens = i128::from(tokens);
        let from_burst = tokens.min(self.burst);
        self.burst -= from_burst;
        self.level -= (tokens - from_burst) * self.refill;
    }

    fn refill(&mut self, now: Instant) {
        let elapsed = now.saturating_duration_since(self.seen);
        self.seen = self.seen.max(now);
        let elapsed = i128::try_from(elapsed.as_nanos()).unwrap_or(i128::MAX);
        let full = self.size * self.refill;
        let until_full = (full - self.level + self.size - 1) / self.size;
        self.level = if elapsed < until_full { self.level + elapsed * self.size } else { full };
    }
}
