//! The process that moves guest memory: the only one that may map it with its tags. It opens nothing, speaks to control
//! and to the machine over sockets that it was given, and makes no call of KVM's.

use crate::call::{
    FALLOCATE, FSYNC, FTRUNCATE, IOCTL, LSEEK, MADVISE, MMAP, PPOLL, PREAD64, PWRITE64, READ, RECVMSG,
    SENDMSG, STATX,
};
use crate::ioctl::{UFFDIO_API, UFFDIO_CONTINUE, UFFDIO_REGISTER, UFFDIO_UNREGISTER, UFFDIO_WAKE};
use crate::rule::{
    Rule,
    Test::{Is, With, Without},
};

use super::runtime::{PROT_EXEC, PROT_MTE};

const MADV_NOHUGEPAGE: u32 = 15;
const AT_EMPTY_PATH: u32 = 0x1000;

pub(super) const MOVER: &[Rule] = &[
    Rule::when(MMAP, &[With(2, PROT_MTE), Without(2, PROT_EXEC)], "a window on the tags of guest memory"),
    Rule::when(MADVISE, &[Is(2, MADV_NOHUGEPAGE)], "splitting a huge page would lose tags"),
    Rule::any(RECVMSG, "orders of control; guest memory from the machine"),
    Rule::any(SENDMSG, "progress and result, to control"),
    Rule::when(STATX, &[With(2, AT_EMPTY_PATH)], "length of a passed file (std)"),
    Rule::any(LSEEK, "what of guest memory is there, what of a snapshot is holes"),
    Rule::any(PREAD64, "reads a snapshot"),
    Rule::any(PWRITE64, "writes a snapshot"),
    Rule::any(FTRUNCATE, "length of a snapshot's file"),
    Rule::any(FALLOCATE, "a page of a snapshot that became zero is a hole"),
    Rule::any(FSYNC, "a snapshot outlives a power cut"),
    // Placing pages under a guest that runs.
    Rule::any(PPOLL, "waits for faults and for those who announce what they map"),
    Rule::any(READ, "faults"),
    Rule::when(IOCTL, &[Is(1, UFFDIO_API)], "what is passed is a userfaultfd"),
    Rule::when(IOCTL, &[Is(1, UFFDIO_REGISTER)], "memory of the process that made it, before its first page"),
    Rule::when(IOCTL, &[Is(1, UFFDIO_UNREGISTER)], "that memory, once all of it is there"),
    Rule::when(IOCTL, &[Is(1, UFFDIO_CONTINUE)], "a page is there"),
    Rule::when(IOCTL, &[Is(1, UFFDIO_WAKE)], "a page was there"),
];
