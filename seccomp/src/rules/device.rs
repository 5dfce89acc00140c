//! Device processes: what every vhost-user back end needs, then what each kind adds.

use crate::call::{
    ACCEPT4, DUP, EPOLL_CREATE1, EPOLL_CTL, EPOLL_PWAIT, EPOLL_WAIT, EVENTFD2, FCNTL, FSTAT, GETSOCKOPT,
    IOCTL, LSEEK, PPOLL, READ, READV, RECVFROM, RECVMSG, SENDMSG, SENDTO, SHUTDOWN, WRITEV,
};
use crate::ioctl::FIONBIO;
use crate::rule::{
    Rule,
    Test::{Is, OneOf},
};

/// What `vhost-user-backend` does: one connection, one epoll loop per queue thread, guest memory mapped from passed memfds.
pub(super) const BACK_END: &[Rule] = &[
    Rule::any(RECVMSG, "vhost-user requests and their descriptors"),
    Rule::any(SENDMSG, "vhost-user replies"),
    Rule::any(RECVFROM, "vhost-user request headers"),
    Rule::any(SENDTO, "vhost-user replies"),
    Rule::any(ACCEPT4, "the front end, on a listener that is there at the start"),
    Rule::any(SHUTDOWN, "end of the connection"),
    Rule::any(GETSOCKOPT, "kind of a passed socket"),
    Rule::when(IOCTL, &[Is(1, FIONBIO)], "non-blocking descriptors"),
    Rule::any(EPOLL_CREATE1, "queue threads"),
    Rule::any(EPOLL_CTL, "queue threads"),
    Rule::any(EPOLL_WAIT, "queue threads"),
    Rule::any(EPOLL_PWAIT, "queue threads"),
    Rule::any(EVENTFD2, "exit events"),
    Rule::any(PPOLL, "waits for requests and kicks"),
    Rule::any(READ, "kicks"),
    Rule::any(WRITEV, "log lines"),
    // SETFD, GETFL, SETFL, DUPFD_CLOEXEC
    Rule::when(FCNTL, &[OneOf(1, &[2, 3, 4, 1030])], "flags and copies of descriptors"),
    Rule::any(DUP, "copies of descriptors"),
    Rule::any(LSEEK, "size of a passed memfd, checked before it is mapped"),
    Rule::any(FSTAT, "size of a passed memfd, checked before it is mapped"),
];

pub(super) const RNG: &[Rule] = &[Rule::any(READV, "the source's bytes, into the buffer of the request")];
