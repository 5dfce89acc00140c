//! Rate limits of disks and network interfaces.

use serde::{Deserialize, Serialize};

/// A bucket of tokens that is refilled at a constant rate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct TokenBucket {
    /// Tokens that the bucket holds: bytes or operations.
    pub size: u64,
    /// Tokens on top, given once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub one_time_burst: Option<u64>,
    /// Milliseconds in which an empty bucket is full again.
    pub refill_time: u64,
}

/// Limits of bytes and of operations per time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct RateLimiterConfig {
    /// Bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bandwidth: Option<TokenBucket>,
    /// Operations.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ops: Option<TokenBucket>,
}

/// A limit that several disks share.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct RateLimitGroupConfig {
    /// Name that disks refer to.
    pub id: String,
    /// The limit.
    pub rate_limiter_config: RateLimiterConfig,
}
