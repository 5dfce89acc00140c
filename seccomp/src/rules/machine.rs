//! The machine's own calls; those of its threads are added, because threads inherit the filter of their process.

use crate::call::{
    EPOLL_CREATE1, EPOLL_CTL, EPOLL_PWAIT, EPOLL_WAIT, EVENTFD2, FCNTL, FTRUNCATE, IOCTL, LSEEK,
    MEMFD_CREATE, PRCTL, PREAD64, PWRITE64, READ, RECVMSG, SECCOMP, SENDFILE, SENDMSG, SHUTDOWN, STATX,
    WAITID,
};
use crate::ioctl::{
    KVM_ARM_PREFERRED_TARGET, KVM_ARM_SET_COUNTER_OFFSET, KVM_ARM_VCPU_FINALIZE, KVM_ARM_VCPU_INIT,
    KVM_CHECK_EXTENSION, KVM_CREATE_DEVICE, KVM_CREATE_VCPU, KVM_CREATE_VM, KVM_ENABLE_CAP,
    KVM_GET_API_VERSION, KVM_GET_DEVICE_ATTR, KVM_GET_DIRTY_LOG, KVM_GET_MP_STATE, KVM_GET_ONE_REG,
    KVM_GET_REG_LIST, KVM_GET_VCPU_EVENTS, KVM_GET_VCPU_MMAP_SIZE, KVM_SET_DEVICE_ATTR, KVM_SET_MP_STATE,
    KVM_SET_ONE_REG, KVM_SET_USER_MEMORY_REGION, KVM_SET_VCPU_EVENTS, TCGETS, TCGETS2, TCSETS2,
};
use crate::rule::{
    Rule,
    Test::{Is, OneOf, With},
};

use super::runtime::PR_SET_NO_NEW_PRIVS;

const PR_SET_THP_DISABLE: u32 = 41;
const F_DUPFD_CLOEXEC: u32 = 1030;
const AT_EMPTY_PATH: u32 = 0x1000;
const P_PIDFD: u32 = 3;
const SECCOMP_SET_MODE_FILTER: u32 = 1;

pub(super) const MACHINE: &[Rule] = &[
    // The virtual machine.
    Rule::when(IOCTL, &[Is(1, KVM_GET_API_VERSION)], "kvm-ioctls checks the interface"),
    Rule::when(IOCTL, &[Is(1, KVM_CHECK_EXTENSION)], "probes what the host can do"),
    Rule::when(IOCTL, &[Is(1, KVM_GET_VCPU_MMAP_SIZE)], "size of the run structure"),
    Rule::when(IOCTL, &[Is(1, KVM_CREATE_VM)], "the VM, at every boot; the scratch VM of the MTE probe"),
    Rule::when(IOCTL, &[Is(1, KVM_ENABLE_CAP)], "MTE, before the first memslot"),
    Rule::when(IOCTL, &[Is(1, KVM_SET_USER_MEMORY_REGION)], "memslots"),
    Rule::when(IOCTL, &[Is(1, KVM_CREATE_VCPU)], "vCPUs"),
    Rule::when(IOCTL, &[Is(1, KVM_ARM_PREFERRED_TARGET)], "vCPU features"),
    Rule::when(IOCTL, &[Is(1, KVM_ARM_VCPU_INIT)], "vCPU features, at boot and at reset"),
    Rule::when(IOCTL, &[Is(1, KVM_ARM_VCPU_FINALIZE)], "SVE registers"),
    Rule::when(IOCTL, &[Is(1, KVM_GET_REG_LIST)], "which registers a vCPU has"),
    Rule::when(IOCTL, &[Is(1, KVM_GET_ONE_REG)], "registers: what the host has, guest time, saved ones"),
    Rule::when(IOCTL, &[Is(1, KVM_SET_ONE_REG)], "registers, at boot, reset and restore"),
    Rule::when(IOCTL, &[Is(1, KVM_GET_MP_STATE)], "power state of a vCPU"),
    Rule::when(IOCTL, &[Is(1, KVM_SET_MP_STATE)], "power state of a vCPU"),
    Rule::when(IOCTL, &[Is(1, KVM_GET_VCPU_EVENTS)], "pending SError of a vCPU"),
    Rule::when(IOCTL, &[Is(1, KVM_SET_VCPU_EVENTS)], "pending SError of a vCPU"),
    Rule::when(IOCTL, &[Is(1, KVM_ARM_SET_COUNTER_OFFSET)], "guest time stands still while paused"),
    Rule::when(IOCTL, &[Is(1, KVM_CREATE_DEVICE)], "GIC and ITS"),
    Rule::when(IOCTL, &[Is(1, KVM_SET_DEVICE_ATTR)], "GIC, ITS, PMU set-up"),
    Rule::when(IOCTL, &[Is(1, KVM_GET_DEVICE_ATTR)], "GIC state"),
    Rule::when(IOCTL, &[Is(1, KVM_GET_DIRTY_LOG)], "harvest of dirty pages"),
    // Guest memory and the kernel image.
    Rule::any(MEMFD_CREATE, "guest memory"),
    Rule::any(FTRUNCATE, "size of guest memory"),
    Rule::any(LSEEK, "size of the kernel image; sparse guest memory"),
    Rule::when(
        STATX,
        &[With(2, AT_EMPTY_PATH)],
        "size and kind of a passed descriptor (std); who names a path all the same learns its metadata, no more",
    ),
    Rule::any(READ, "kernel image, eventfds, terminal"),
    Rule::any(PREAD64, "kernel image into guest memory"),
    Rule::any(SENDFILE, "kernel image into the file of guest memory"),
    Rule::any(PWRITE64, "state files that control opened"),
    // The event loop.
    Rule::any(EPOLL_CREATE1, "event loop"),
    Rule::any(EPOLL_CTL, "event loop"),
    Rule::any(EPOLL_WAIT, "event loop"),
    Rule::any(EPOLL_PWAIT, "event loop"),
    Rule::any(EVENTFD2, "kicks, interrupts and wake-ups"),
    // Descriptors: every one was there at the start or came over the socket of control.
    Rule::when(
        FCNTL,
        // SETFD, GETFL, SETFL, ADD_SEALS, GET_SEALS
        &[OneOf(1, &[2, 3, 4, 1033, 1034])],
        "flags and seals of descriptors; no locks, no signal ownership",
    ),
    Rule::when(FCNTL, &[Is(1, F_DUPFD_CLOEXEC)], "copies descriptors at device activation"),
    Rule::any(SENDMSG, "answers to control; vhost-user"),
    Rule::any(RECVMSG, "commands from control; vhost-user"),
    Rule::when(IOCTL, &[Is(1, TCGETS)], "no terminal, as rustix finds out"),
    Rule::when(IOCTL, &[Is(1, TCGETS2)], "terminal mode, as rustix asks for it"),
    Rule::when(IOCTL, &[Is(1, TCSETS2)], "terminal mode, raw and back, as rustix sets it; no TIOCSTI"),
    // Its child and its threads.
    Rule::when(WAITID, &[Is(0, P_PIDFD)], "reaps control, by the descriptor that names it"),
    Rule::when(PRCTL, &[Is(0, PR_SET_NO_NEW_PRIVS)], "a thread enters a narrower jail"),
    Rule::when(
        SECCOMP,
        &[Is(0, SECCOMP_SET_MODE_FILTER), Is(1, 0)],
        "a thread enters a narrower jail; can only tighten",
    ),
    Rule::when(PRCTL, &[Is(0, PR_SET_THP_DISABLE)], "huge pages are used where the guest has no tags"),
];

/// The thread that ends what device processes do not answer in time.
pub(super) const DEADLINE: &[Rule] = &[Rule::any(SHUTDOWN, "ends a connection, and the wait in it with it")];

/// The thread that waits for the mover while guest memory is not all there.
pub(super) const MEMORY_WATCH: &[Rule] =
    &[Rule::any(RECVMSG, "word from the mover that all memory is there")];
