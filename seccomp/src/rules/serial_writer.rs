//! The thread that writes serial output to a sink that may block, and reads what is typed.

use crate::call::{IOCTL, PPOLL, READ};
use crate::ioctl::KVM_IRQ_LINE;
use crate::rule::{Rule, Test::Is};

pub(super) const SERIAL_WRITER: &[Rule] = &[
    Rule::any(READ, "eventfds; input"),
    Rule::when(IOCTL, &[Is(1, KVM_IRQ_LINE)], "input raises the port's interrupt"),
    Rule::any(PPOLL, "waits for a full sink"),
];
