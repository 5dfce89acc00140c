//! The network device: packets between queues and taps.

use crate::call::{IOCTL, READV, WRITEV};
use crate::ioctl::TUNSETOFFLOAD;
use crate::rule::{Rule, Test::Is};

/// What the device does beyond serving vhost-user; `read` it shares with that.
pub(super) const NET: &[Rule] = &[
    Rule::any(READV, "from a tap straight into the guest's buffers"),
    Rule::any(WRITEV, "from the guest's buffers straight into a tap"),
    Rule::when(IOCTL, &[Is(1, TUNSETOFFLOAD)], "the guest says which packets it takes"),
];
