//! A vCPU thread: runs the guest and answers its accesses to PCI, virtio transport and interrupt controller.

use crate::call::{
    DUP, EPOLL_CTL, EVENTFD2, FCNTL, IOCTL, PPOLL, READ, RECVFROM, RECVMSG, SENDMSG, SHUTDOWN, WRITEV,
};
use crate::ioctl::{
    KVM_GET_ONE_REG, KVM_IOEVENTFD, KVM_IRQ_LINE, KVM_IRQFD, KVM_RUN, KVM_SET_GSI_ROUTING, KVM_SET_ONE_REG,
    KVM_SET_VCPU_EVENTS, KVM_SIGNAL_MSI,
};
use crate::rule::{Rule, Test::Is};

const F_DUPFD_CLOEXEC: u32 = 1030;

pub(super) const VCPU: &[Rule] = &[
    Rule::when(IOCTL, &[Is(1, KVM_RUN)], "runs the guest"),
    Rule::when(IOCTL, &[Is(1, KVM_GET_ONE_REG)], "registers, at reset and for reports"),
    Rule::when(IOCTL, &[Is(1, KVM_SET_ONE_REG)], "registers, at reset"),
    Rule::when(
        IOCTL,
        &[Is(1, KVM_SET_VCPU_EVENTS)],
        "an abort for the guest: a store to read-only memory, an access that cannot be decoded",
    ),
    Rule::when(IOCTL, &[Is(1, KVM_IRQ_LINE)], "wired interrupts of PL011, RTC and power button"),
    Rule::when(IOCTL, &[Is(1, KVM_SIGNAL_MSI)], "the machine's own message interrupts"),
    Rule::when(IOCTL, &[Is(1, KVM_IRQFD)], "the guest enables or masks an MSI-X vector"),
    Rule::when(IOCTL, &[Is(1, KVM_SET_GSI_ROUTING)], "the guest writes an MSI-X entry"),
    Rule::when(IOCTL, &[Is(1, KVM_IOEVENTFD)], "the guest moves a BAR or sets DRIVER_OK"),
    Rule::any(EVENTFD2, "notification descriptors at device activation"),
    Rule::any(EPOLL_CTL, "an activated device is added to the machine's loop"),
    Rule::when(FCNTL, &[Is(1, F_DUPFD_CLOEXEC)], "copies descriptors at device activation"),
    Rule::any(DUP, "copies descriptors at device activation"),
    Rule::any(SENDMSG, "vhost-user messages at device activation"),
    Rule::any(RECVMSG, "vhost-user replies"),
    Rule::any(RECVFROM, "vhost-user replies"),
    Rule::any(SHUTDOWN, "ends a connection whose device process broke the protocol"),
    Rule::any(PPOLL, "is an eventfd ready, without taking its count?"),
    Rule::any(READ, "eventfds"),
    Rule::any(WRITEV, "log lines"),
];
