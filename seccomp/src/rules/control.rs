//! What control may not do: it opens files and starts processes, so its table lists refusals.
//!
//! Its children inherit the refusals, so nothing is here that a child needs while it starts (a dynamically linked build
//! maps code; with root, a device process leaves its namespaces) or works (a block device may use io_uring). This is a
//! net under a process that parses clients' input, not the wall: clients are trusted, guests never reach it.
//!
//! PROT_MTE is not refused to mmap, because the process that moves guest memory inherits the table and needs the bit. What
//! keeps control from the tags is that it never has guest memory: the machine passes that to the mover over a socket of
//! theirs, and control can neither take a descriptor out of another process nor read one's memory. A mover that were
//! started before control's jail instead would be one more process for the VM's whole life, could not be started again
//! after its death, and would take files of many snapshots; this one has those of its own and ends with it. Device
//! processes refuse the bit by their own tables, before they have any memory of the guest.

use crate::call::{
    ACCT, ADD_KEY, ADJTIMEX, BPF, CLOCK_ADJTIME, CLOCK_SETTIME, DELETE_MODULE, FANOTIFY_INIT, FINIT_MODULE,
    FSCONFIG, FSMOUNT, FSOPEN, FSPICK, INIT_MODULE, IOCTL, IOPERM, IOPL, KCMP, KEXEC_FILE_LOAD, KEXEC_LOAD,
    KEYCTL, MODIFY_LDT, MOUNT_SETATTR, MOVE_MOUNT, MPROTECT, OPEN_BY_HANDLE_AT, OPEN_TREE, PERF_EVENT_OPEN,
    PERSONALITY, PIDFD_GETFD, PKEY_MPROTECT, PROCESS_MADVISE, PROCESS_VM_READV, PROCESS_VM_WRITEV, PTRACE,
    QUOTACTL, REBOOT, REQUEST_KEY, SETDOMAINNAME, SETHOSTNAME, SETNS, SETTIMEOFDAY, SWAPOFF, SWAPON, SYSLOG,
    USERFAULTFD, VHANGUP,
};
use crate::ioctl::{TIOCLINUX, TIOCSETD, TIOCSTI};
use crate::rule::{
    Rule,
    Test::{Is, With, Without},
};

use super::runtime::PROT_MTE;

const READ_IMPLIES_EXEC: u32 = 0x0040_0000;

pub(super) const CONTROL: &[Rule] = &[
    Rule::when(MPROTECT, &[With(2, PROT_MTE)], "tags of guest memory; the mover maps them with mmap"),
    Rule::any(PKEY_MPROTECT, "tags of guest memory, by a call that nobody needs"),
    Rule::any(PTRACE, "takes over another process"),
    Rule::any(PROCESS_VM_READV, "reads another process, guest memory included"),
    Rule::any(PROCESS_VM_WRITEV, "writes another process, guest memory included"),
    Rule::any(PROCESS_MADVISE, "acts on another process's memory"),
    Rule::any(PIDFD_GETFD, "takes guest memory's descriptor out of machine"),
    Rule::any(KCMP, "compares kernel objects of other processes"),
    Rule::any(USERFAULTFD, "stalls the kernel at will; machine gets its own from /dev/userfaultfd"),
    Rule::any(PERF_EVENT_OPEN, "large kernel interface, no use here"),
    Rule::any(BPF, "large kernel interface, no use here"),
    Rule::any(KEYCTL, "large kernel interface, no use here"),
    Rule::any(ADD_KEY, "large kernel interface, no use here"),
    Rule::any(REQUEST_KEY, "large kernel interface, no use here"),
    Rule::any(FANOTIFY_INIT, "watches other processes' files"),
    Rule::any(OPEN_BY_HANDLE_AT, "opens past every directory's permissions"),
    Rule::any(SETNS, "enters other namespaces"),
    Rule::any(FSOPEN, "mounts"),
    Rule::any(FSCONFIG, "mounts"),
    Rule::any(FSMOUNT, "mounts"),
    Rule::any(FSPICK, "mounts"),
    Rule::any(OPEN_TREE, "mounts"),
    Rule::any(MOVE_MOUNT, "mounts"),
    Rule::any(MOUNT_SETATTR, "mounts"),
    Rule::any(INIT_MODULE, "loads code into the kernel"),
    Rule::any(FINIT_MODULE, "loads code into the kernel"),
    Rule::any(DELETE_MODULE, "removes code from the kernel"),
    Rule::any(KEXEC_LOAD, "replaces the kernel"),
    Rule::any(KEXEC_FILE_LOAD, "replaces the kernel"),
    Rule::any(REBOOT, "the host's power"),
    Rule::any(SWAPON, "the host's memory"),
    Rule::any(SWAPOFF, "the host's memory"),
    Rule::any(SETTIMEOFDAY, "the host's clock"),
    Rule::any(CLOCK_SETTIME, "the host's clock"),
    Rule::any(ADJTIMEX, "the host's clock"),
    Rule::any(CLOCK_ADJTIME, "the host's clock"),
    Rule::any(SETHOSTNAME, "the host's name"),
    Rule::any(SETDOMAINNAME, "the host's name"),
    Rule::any(ACCT, "the host's accounting"),
    Rule::any(QUOTACTL, "the host's quotas"),
    Rule::any(SYSLOG, "the kernel's log"),
    Rule::any(VHANGUP, "hangs up terminals"),
    Rule::when(
        PERSONALITY,
        // All bits set only asks, which every process of ours does when it starts.
        &[With(0, READ_IMPLIES_EXEC), Without(0, 1 << 31)],
        "READ_IMPLIES_EXEC, which would undo the refusal of PROT_EXEC in a child",
    ),
    Rule::any(IOPL, "x86 I/O ports"),
    Rule::any(IOPERM, "x86 I/O ports"),
    Rule::any(MODIFY_LDT, "x86 segments"),
    Rule::when(IOCTL, &[Is(1, TIOCSTI)], "types into the terminal of whoever started us"),
    Rule::when(IOCTL, &[Is(1, TIOCSETD)], "loads line disciplines"),
    Rule::when(IOCTL, &[Is(1, TIOCLINUX)], "types into the console of whoever started us"),
];
