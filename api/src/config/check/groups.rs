//! Limits that several disks share.

use super::error::{ConfigError, Fault};
use crate::config::{DiskConfig, RateLimitGroupConfig, RateLimiterConfig};

/// Checks the groups: each has a name of its own and limits something.
pub(super) fn check(groups: &[RateLimitGroupConfig]) -> Result<(), ConfigError> {
    for (index, RateLimitGroupConfig { id, rate_limiter_config: limits }) in groups.iter().enumerate() {
        let at_fault =
            |key: &str, fault| Err(ConfigError::new(format!("rate_limit_groups[{index}].{key}"), fault));
        if id.is_empty() {
            return at_fault("id", Fault::Empty);
        }
        if let Some(other) = groups[..index].iter().position(|other| other.id == *id) {
            let other = format!("rate_limit_groups[{other}].id");
            return at_fault("id", Fault::Duplicate { name: id.clone(), other });
        }
        if limits.bandwidth.is_none() && limits.ops.is_none() {
            return at_fault("rate_limiter_config", Fault::Missing("a group limits bandwidth or ops"));
        }
    }
    Ok(())
}

/// The limits of a disk: its own, or those of its group.
pub(super) fn limits(
    name: &str,
    raw: &DiskConfig,
    groups: &[RateLimitGroupConfig],
) -> Result<RateLimiterConfig, ConfigError> {
    let Some(wanted) = &raw.rate_limit_group else { return Ok(raw.rate_limiter_config.unwrap_or_default()) };
    let reason = if raw.rate_limiter_config.is_some() {
        "it has limits of its own; give it one of the two".to_owned()
    } else if raw.vhost_user {
        "the program at vhost_socket knows no groups".to_owned()
    } else {
        match groups.iter().find(|group| group.id == *wanted) {
            Some(group) => return Ok(group.rate_limiter_config),
            None => format!("there is no group `{wanted}` in rate_limit_groups"),
        }
    };
    Err(ConfigError::new(format!("{name}.rate_limit_group"), Fault::Contradiction(reason)))
}
