//! Device processes: what every vhost-user back end needs; each kind adds what its own work takes.
//!
//! The loop has one thread, one connection that is accepted before the jail is entered, and guest memory mapped from
//! memfds that the front end sends.

use crate::call::{
    ACCEPT4, FALLOCATE, FCNTL, FDATASYNC, FSTAT, FSYNC, FTRUNCATE, LSEEK, MEMFD_CREATE, PPOLL, PREAD64,
    PREADV, PWRITE64, PWRITEV, READ, RECVMSG, SENDMSG, SENDTO,
};
use crate::rule::{Rule, Test::Is};

const F_GETFL: u32 = 3;
const PUNCH_HOLE_KEEP_SIZE: u32 = 3;
const F_ADD_SEALS: u32 = 1033;

/// What `granule_devices::serve` does. The entropy device adds nothing: it reads its source, or asks the kernel.
pub(super) const BACK_END: &[Rule] = &[
    Rule::any(RECVMSG, "vhost-user requests and their descriptors"),
    Rule::any(SENDMSG, "vhost-user replies"),
    Rule::any(FSTAT, "length of a passed memfd, checked before it is mapped"),
    Rule::any(PPOLL, "waits for requests and kicks"),
    Rule::any(READ, "kicks; the source of entropy"),
    Rule::when(FCNTL, &[Is(1, F_GETFL)], "may a passed memory file be written to?"),
];

/// The balloon: holes in the memory that it was given, and no other change of a file.
pub(super) const BALLOON: &[Rule] =
    &[Rule::when(FALLOCATE, &[Is(1, PUNCH_HOLE_KEEP_SIZE)], "pages that the guest gives back are freed")];

/// Memory that is plugged: holes where it no longer is, and notes of what is, by descriptor.
pub(super) const MEM: &[Rule] = &[
    Rule::when(FALLOCATE, &[Is(1, PUNCH_HOLE_KEEP_SIZE)], "blocks that are unplugged are freed"),
    Rule::any(PREAD64, "what a predecessor has noted"),
    Rule::any(PWRITE64, "what is plugged is noted"),
];

/// Persistent memory: the image and the memory that is a copy of it, both by descriptor.
pub(super) const PMEM: &[Rule] = &[
    Rule::any(FDATASYNC, "a flush: what was stored reaches the disk"),
    Rule::any(LSEEK, "which parts of the memory are no holes"),
    Rule::any(PREAD64, "memory and image are compared"),
    Rule::any(PWRITE64, "pages that differ are written to the image"),
];

/// What `granule_devices::serve::inflight` does, for devices that use chains in order.
pub(super) const IN_FLIGHT: &[Rule] = &[
    Rule::any(MEMFD_CREATE, "a region for what is in flight"),
    Rule::any(FTRUNCATE, "its size; a live disk is resized"),
    Rule::when(FCNTL, &[Is(1, F_ADD_SEALS)], "its size stays"),
];

/// What `granule_devices::blk` does with its image.
pub(super) const DISK: &[Rule] = &[
    Rule::any(PREADV, "reads of the guest"),
    Rule::any(PWRITEV, "writes of the guest"),
    Rule::any(FDATASYNC, "flushes of the guest"),
    Rule::any(FALLOCATE, "discards of the guest, and zeros"),
    Rule::any(LSEEK, "the size of a resized disk"),
    Rule::any(FSYNC, "flushes of a qcow2 image"),
];

/// What `granule_devices::console` does with its ends.
pub(super) const CONSOLE: &[Rule] = &[
    Rule::any(ACCEPT4, "clients of the socket that control bound"),
    Rule::any(SENDTO, "output to a client, without waiting for it"),
];
