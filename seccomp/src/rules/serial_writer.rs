//! The thread that writes serial output to a sink that may block, and reads what is typed.

use crate::call::{EPOLL_CTL, EPOLL_PWAIT, EPOLL_WAIT, IOCTL, POLL, PPOLL, READ, SENDTO, WRITEV};
use crate::ioctl::KVM_IRQ_LINE;
use crate::rule::{Rule, Test::Is};

pub(super) const SERIAL_WRITER: &[Rule] = &[
    Rule::any(READ, "eventfds; input"),
    Rule::when(IOCTL, &[Is(1, KVM_IRQ_LINE)], "input raises the port's interrupt"),
    Rule::any(WRITEV, "output in several pieces"),
    Rule::any(SENDTO, "output to a connected socket"),
    Rule::any(POLL, "waits for a full sink"),
    Rule::any(PPOLL, "waits for a full sink"),
    Rule::any(EPOLL_CTL, "waits for a full sink"),
    Rule::any(EPOLL_WAIT, "waits for a full sink"),
    Rule::any(EPOLL_PWAIT, "waits for a full sink"),
];
