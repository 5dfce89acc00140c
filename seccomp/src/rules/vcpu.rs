//! A vCPU thread: runs the guest and answers its accesses to PCI, virtio transport and interrupt controller.

use crate::call::{IOCTL, PPOLL, READ, RECVMSG, SENDMSG, SHUTDOWN};
use crate::ioctl::{
    KVM_IOEVENTFD, KVM_IRQ_LINE, KVM_IRQFD, KVM_RUN, KVM_SET_GSI_ROUTING, KVM_SET_VCPU_EVENTS,
};
use crate::rule::{Rule, Test::Is};

pub(super) const VCPU: &[Rule] = &[
    Rule::when(IOCTL, &[Is(1, KVM_RUN)], "runs the guest"),
    Rule::when(
        IOCTL,
        &[Is(1, KVM_SET_VCPU_EVENTS)],
        "an abort for the guest: a store to read-only memory, an access that cannot be decoded",
    ),
    Rule::when(IOCTL, &[Is(1, KVM_IRQ_LINE)], "wired interrupts of PL011, RTC and power button"),
    Rule::when(IOCTL, &[Is(1, KVM_IRQFD)], "the guest enables or masks an MSI-X vector"),
    Rule::when(IOCTL, &[Is(1, KVM_SET_GSI_ROUTING)], "the guest writes an MSI-X entry"),
    Rule::when(IOCTL, &[Is(1, KVM_IOEVENTFD)], "the guest moves a BAR or sets DRIVER_OK"),
    Rule::any(SENDMSG, "vhost-user messages at device activation"),
    Rule::any(RECVMSG, "vhost-user replies"),
    Rule::any(SHUTDOWN, "ends a connection whose device process broke the protocol"),
    Rule::any(PPOLL, "is an eventfd ready, without taking its count?"),
    Rule::any(READ, "an interrupt that waits is forgotten with the reset of its function"),
];
