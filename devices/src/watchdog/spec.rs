//! Numbers of the watchdog. No specification has this device: its number is taken in virtio's list of types, its driver
//! and its ways are Cloud Hypervisor's.
//!
//! The driver makes a writable buffer available every 15 seconds; the device writes a 1 to it and uses it. Twenty seconds
//! after the last of them the machine is reset.

use std::time::Duration;

/// Its one queue, of which a driver uses one descriptor at a time.
pub(super) const QUEUE_SIZES: [u16; 1] = [16];
/// What is written to each buffer.
pub(super) const PONG: u8 = 1;
/// How long after the last ping the machine is reset: a ping's interval, and 5 seconds of patience.
pub const TIMEOUT: Duration = Duration::from_secs(15 + 5);
/// The most chains that are served before the socket is looked at again.
pub(super) const MAX_CHAINS: usize = 8;
