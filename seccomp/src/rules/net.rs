//! The network device: packets between queues and taps.

use crate::call::{IOCTL, READV};
use crate::ioctl::TUNSETOFFLOAD;
use crate::rule::{Rule, Test::Is};

/// What the device does beyond serving vhost-user; `writev` and `read` it shares with that.
pub(super) const NET: &[Rule] = &[
    Rule::any(READV, "from a tap straight into the guest's buffers"),
    Rule::when(IOCTL, &[Is(1, TUNSETOFFLOAD)], "the guest says which packets it takes"),
];
