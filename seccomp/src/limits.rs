//! Resource limits per kind of process, hard and soft, never raised.
//!
//! | limit | why |
//! |---|---|
//! | NOFILE | a peer that sends descriptors without end fills its own table, not the host's |
//! | MEMLOCK | nobody here locks memory |
//! | MSGQUEUE, NICE, RTPRIO | nobody here needs any: 0 |
//!
//! Left alone on purpose: NPROC counts every process of the user, and threads with them, so that another VM of the same
//! user would decide whether a queue thread can start (seccomp refuses fork). FSIZE would kill a process whose stderr is
//! a file, and limits memfds. AS is unknown before the guest's memory is.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::kind::{DeviceKind, JailKind};

/// Why a limit was not set.
#[derive(Debug, thiserror::Error)]
#[error("limiting {resource:?} to {value}")]
pub struct Error {
    resource: Resource,
    value: u64,
    source: rustix::io::Errno,
}

/// The limits of one kind.
fn of(kind: JailKind) -> &'static [(Resource, u64)] {
    match kind {
        // Per device: 32 MSI-X vectors, as many ioeventfds, a connection; 4096 is crosvm's figure too.
        JailKind::Machine => &[
            (Resource::Nofile, 4096),
            (Resource::Memlock, 0),
            (Resource::Msgqueue, 0),
            (Resource::Nice, 0),
            (Resource::Rtprio, 0),
        ],
        // Its children inherit, and may need more than it does.
        JailKind::Control => &[],
        // Three files for each snapshot of a chain, and two sockets.
        JailKind::Mover => &[
            (Resource::Nofile, 512),
            (Resource::Memlock, 0),
            (Resource::Msgqueue, 0),
            (Resource::Nice, 0),
            (Resource::Rtprio, 0),
        ],
        // At most 16 queues of three eventfds each, one connection, at most 32 memory regions.
        JailKind::Device(
            DeviceKind::Balloon
            | DeviceKind::Blk
            | DeviceKind::Console
            | DeviceKind::Mem
            | DeviceKind::Rng
            | DeviceKind::Pmem
            | DeviceKind::Watchdog,
        ) => &[
            (Resource::Nofile, 128),
            (Resource::Memlock, 0),
            (Resource::Msgqueue, 0),
            (Resource::Nice, 0),
            (Resource::Rtprio, 0),
        ],
        // At most 33 queues of three eventfds each, and a tap for every second one.
        JailKind::Device(DeviceKind::Net) => &[
            (Resource::Nofile, 256),
            (Resource::Memlock, 0),
            (Resource::Msgqueue, 0),
            (Resource::Nice, 0),
            (Resource::Rtprio, 0),
        ],
        // As above, and the most connections, half-open clients and wishes that it has at once.
        JailKind::Device(DeviceKind::Vsock) => &[
            (Resource::Nofile, 1024),
            (Resource::Memlock, 0),
            (Resource::Msgqueue, 0),
            (Resource::Nice, 0),
            (Resource::Rtprio, 0),
        ],
    }
}

/// Lowers the limits of the calling process to those of its kind.
pub(crate) fn lower(kind: JailKind) -> Result<(), Error> {
    for &(resource, value) in of(kind) {
        // A limit that is lower already stays.
        let value = getrlimit(resource).maximum.map_or(value, |hard| hard.min(value));
        let limit = Rlimit { current: Some(value), maximum: Some(value) };
        setrlimit(resource, limit).map_err(|source| Error { resource, value, source })?;
    }
    Ok(())
}
