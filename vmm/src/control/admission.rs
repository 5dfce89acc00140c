//! The admission table: which request runs in which state, and what a client hears otherwise.
//!
//! ```text
//!            create             boot
//!  Absent ──────────► Created ────────► Running ⇄ Paused
//!    ▲                 │  ▲               │ pause/resume │
//!    └──── delete ─────┘  └── shutdown ───┴──────────────┘
//! ```
//!
//! Codes follow the reference document where it names one (404 while there is no machine, 405 in the wrong state);
//! where it is silent, the wrong state is 405 and a second machine is 409.

use granule_api::error::ErrorKind;

/// Where a machine is in its life, as `vm.info` tells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Lifecycle {
    /// No configuration.
    Absent,
    /// A configuration, no vCPUs.
    Created,
    /// vCPUs run.
    Running,
    /// vCPUs exist and stand still.
    Paused,
}

/// A request, without its body.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Verb {
    /// vmm.ping
    Ping,
    /// vmm.shutdown
    ShutdownMonitor,
    /// GET /metrics
    Metrics,
    /// vm.info
    Info,
    /// vm.counters
    Counters,
    /// vm.create
    Create,
    /// vm.boot
    Boot,
    /// vm.pause
    Pause,
    /// vm.resume
    Resume,
    /// vm.shutdown
    Shutdown,
    /// vm.reboot
    Reboot,
    /// vm.power-button
    PowerButton,
    /// vm.delete
    Delete,
    /// vm.resize
    Resize,
    /// vm.resize-disk
    ResizeDisk,
    /// vm.add-disk and its kin
    AddDevice,
    /// vm.remove-device
    RemoveDevice,
    /// vm.snapshot
    Snapshot,
    /// vm.snapshot with `live`
    LiveSnapshot,
    /// vm.restore
    Restore,
    /// vm.receive-migration
    Receive,
    /// vm.send-migration, …: they need a machine and are not built yet.
    Unbuilt,
}

/// What the table says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Go ahead.
    Run,
    /// No: what kind of refusal, and the reason.
    Deny(ErrorKind, &'static str),
}

#[cfg(test)]
impl Lifecycle {
    /// Every state, in the table's order.
    pub const ALL: [Self; 4] = [Self::Absent, Self::Created, Self::Running, Self::Paused];
}

#[cfg(test)]
impl Verb {
    /// Every verb, in the table's order.
    pub const ALL: [Self; 22] = [
        Self::Ping,
        Self::ShutdownMonitor,
        Self::Metrics,
        Self::Info,
        Self::Counters,
        Self::Create,
        Self::Boot,
        Self::Pause,
        Self::Resume,
        Self::Shutdown,
        Self::Reboot,
        Self::PowerButton,
        Self::Delete,
        Self::Resize,
        Self::ResizeDisk,
        Self::AddDevice,
        Self::RemoveDevice,
        Self::Snapshot,
        Self::LiveSnapshot,
        Self::Restore,
        Self::Receive,
        Self::Unbuilt,
    ];
}

/// What does not exist in this version is no fault of the host: a client may know from the documents.
const UNBUILT: Verdict =
    Verdict::Deny(ErrorKind::BadRequest, "this request is not supported by this version");
const NOT_CREATED: Verdict = Verdict::Deny(ErrorKind::NotFound, "VM is not created");
const NOT_BOOTED: Verdict = Verdict::Deny(ErrorKind::WrongState, "VM is not booted");

/// Looks one cell up.
pub fn admit(state: Lifecycle, verb: Verb) -> Verdict {
    use Lifecycle::{Absent, Created, Paused, Running};
    use Verdict::{Deny, Run};
    match (verb, state) {
        (Verb::Ping | Verb::Metrics | Verb::ShutdownMonitor | Verb::Delete, _) => Run,
        (Verb::Create | Verb::Restore, Absent) => Run,
        (Verb::Receive, Absent) => UNBUILT,
        (Verb::Create | Verb::Restore | Verb::Receive, _) => {
            Deny(ErrorKind::Conflict, "VM is already created")
        }
        (_, Absent) => NOT_CREATED,
        (Verb::Info, _) => Run,
        (Verb::Boot, Created) => Run,
        (Verb::Boot, _) => Deny(ErrorKind::WrongState, "VM is already booted"),
        (Verb::AddDevice | Verb::RemoveDevice | Verb::Resize, Created | Running | Paused) => Run,
        (Verb::Pause, Running) => Run,
        (Verb::Pause, Paused) => Deny(ErrorKind::WrongState, "VM is already paused"),
        (Verb::Resume, Paused) => Run,
        (Verb::Resume, Running) => Deny(ErrorKind::WrongState, "VM is not paused"),
        // The reference document has 404 here and 405 for its siblings.
        (Verb::Resume, Created) => Deny(ErrorKind::NotFound, "VM is not booted"),
        (
            Verb::Counters | Verb::Shutdown | Verb::Reboot | Verb::PowerButton | Verb::ResizeDisk,
            Running | Paused,
        ) => Run,
        (
            Verb::Counters
            | Verb::Pause
            | Verb::Shutdown
            | Verb::Reboot
            | Verb::PowerButton
            | Verb::ResizeDisk,
            Created,
        ) => NOT_BOOTED,
        (Verb::Snapshot, Paused) | (Verb::LiveSnapshot, Running | Paused) => Run,
        (Verb::Snapshot, Running) => {
            Deny(ErrorKind::WrongState, "VM is not paused, and the snapshot is not live")
        }
        (Verb::Snapshot | Verb::LiveSnapshot, Created) => NOT_BOOTED,
        (Verb::Unbuilt, _) => UNBUILT,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The whole table, as a client sees it: 0 = runs. Columns: Absent, Created, Running, Paused.
    const TABLE: [(Verb, [u16; 4]); 22] = [
        (Verb::Ping, [0, 0, 0, 0]),
        (Verb::ShutdownMonitor, [0, 0, 0, 0]),
        (Verb::Metrics, [0, 0, 0, 0]),
        (Verb::Info, [404, 0, 0, 0]),
        (Verb::Counters, [404, 405, 0, 0]),
        (Verb::Create, [0, 409, 409, 409]),
        (Verb::Boot, [404, 0, 405, 405]),
        (Verb::Pause, [404, 405, 0, 405]),
        (Verb::Resume, [404, 404, 405, 0]),
        (Verb::Shutdown, [404, 405, 0, 0]),
        (Verb::Reboot, [404, 405, 0, 0]),
        (Verb::PowerButton, [404, 405, 0, 0]),
        (Verb::Delete, [0, 0, 0, 0]),
        (Verb::Resize, [404, 0, 0, 0]),
        (Verb::ResizeDisk, [404, 405, 0, 0]),
        (Verb::AddDevice, [404, 0, 0, 0]),
        (Verb::RemoveDevice, [404, 0, 0, 0]),
        (Verb::Snapshot, [404, 405, 405, 0]),
        (Verb::LiveSnapshot, [404, 405, 0, 0]),
        (Verb::Restore, [0, 409, 409, 409]),
        (Verb::Receive, [400, 409, 409, 409]),
        (Verb::Unbuilt, [404, 400, 400, 400]),
    ];

    #[test]
    fn every_cell_of_the_table_is_as_documented() {
        assert_eq!(TABLE.map(|(verb, _)| verb), Verb::ALL);
        for (verb, row) in TABLE {
            for (state, code) in Lifecycle::ALL.into_iter().zip(row) {
                let expected = code != 0;
                match admit(state, verb) {
                    Verdict::Run => assert!(!expected, "{verb:?} in {state:?} runs"),
                    Verdict::Deny(got, why) => {
                        assert_eq!(got.status(), code, "{verb:?} in {state:?}: {why}");
                        assert!(!why.is_empty());
                    }
                }
            }
        }
    }
}
