//! The socket device: streams that are accepted from a listener or come from the broker.

use crate::call::{ACCEPT4, READV, RECVFROM, SETSOCKOPT, SHUTDOWN, WRITEV};
use crate::rule::{Rule, Test::Is};

const SOL_SOCKET: u32 = 1;
const SO_SNDBUF: u32 = 7;

/// What the device does beyond serving vhost-user; `sendmsg` and `recvmsg` it shares with that.
pub(super) const VSOCK: &[Rule] = &[
    Rule::any(ACCEPT4, "a program of the host connects"),
    Rule::any(RECVFROM, "looks at the line that names a port, without taking what follows it"),
    Rule::any(READV, "from a stream straight into the guest's buffers"),
    Rule::any(WRITEV, "from the guest's buffers straight into a stream"),
    Rule::when(SETSOCKOPT, &[Is(1, SOL_SOCKET), Is(2, SO_SNDBUF)], "a stream holds what a guest may send"),
    Rule::any(SHUTDOWN, "the guest has closed one direction"),
];
