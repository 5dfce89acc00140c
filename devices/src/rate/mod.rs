//! Limits of bytes and operations per time, for devices that move a guest's data.
//!
//! ```text
//!   take(bytes, now) ─┬─ Ok: paid for; go on
//!                     └─ Err(when): put the request back, come again then (`Device::deadline`, `Device::elapsed`)
//! ```
//! There is no clock in here: whoever asks says what time it is, so a test can live through a year at once. A device has
//! buckets of its own, or shares those of a [`Group`] with devices in other processes.

mod bucket;
mod shared;

use std::time::{Duration, Instant};

use bucket::Bucket;
use shared::Shared;
pub use shared::{Group, group_memory};

/// A bucket of tokens, as a client describes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BucketSettings {
    /// Tokens that it holds; 0 for no limit.
    pub size: u64,
    /// Tokens on top, given once.
    pub one_time_burst: u64,
    /// The time in which an empty bucket is full again; 0 for no limit.
    pub refill_time: Duration,
}

/// The limits of one device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LimiterSettings {
    /// Bytes.
    pub bandwidth: Option<BucketSettings>,
    /// Operations.
    pub operations: Option<BucketSettings>,
}

/// What a device may still move.
#[derive(Clone, Debug, Default)]
pub struct Limiter {
    bandwidth: Option<Bucket>,
    operations: Option<Bucket>,
    shared: Option<Shared>,
}

impl Limiter {
    /// Full buckets at the time `now`.
    pub fn new(settings: LimiterSettings, now: Instant) -> Self {
        let bucket = |settings: Option<BucketSettings>| settings.and_then(|one| Bucket::new(one, now));
        Self { bandwidth: bucket(settings.bandwidth), operations: bucket(settings.operations), shared: None }
    }

    /// The buckets of `group`, which all its members take from; no operation has more bytes than `largest`.
    pub fn shared(settings: LimiterSettings, group: Group, largest: u64) -> Self {
        Self { shared: Some(Shared::new(settings, group, largest)), ..Self::default() }
    }

    /// Pays for one operation on so many bytes, or says when there will be enough to pay with. Nothing is taken then.
    ///
    /// # Errors
    /// The time to ask again.
    pub fn take(&mut self, bytes: u64, now: Instant) -> Result<(), Instant> {
        if let Some(shared) = &self.shared {
            return shared.take(bytes, now);
        }
        let waits = |bucket: &mut Option<Bucket>, tokens| match bucket {
            Some(bucket) => bucket.wait(tokens, now),
            None => Duration::ZERO,
        };
        let wait = waits(&mut self.bandwidth, bytes).max(waits(&mut self.operations, 1));
        if wait > Duration::ZERO {
            return Err(now + wait);
        }
        if let Some(bucket) = &mut self.bandwidth {
            bucket.take(bytes);
        }
        if let Some(bucket) = &mut self.operations {
            bucket.take(1);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
