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

use granule_api::call::Call;
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
    /// vm.nmi
    Nmi,
    /// vm.coredump
    Coredump,
    /// vm.resize-zone
    ResizeZone,
    /// vm.add-device, vm.add-vdpa, vm.add-user-device
    AddForeign,
    /// vm.send-migration
    Send,
}

impl Verb {
    /// Which row of the table a call belongs to.
    pub fn of(call: &Call) -> Self {
        match call {
            Call::VmmPing => Self::Ping,
            Call::VmmShutdown => Self::ShutdownMonitor,
            Call::Metrics => Self::Metrics,
            Call::VmInfo => Self::Info,
            Call::VmCounters => Self::Counters,
            Call::VmCreate(_) => Self::Create,
            Call::VmBoot => Self::Boot,
            Call::VmPause => Self::Pause,
            Call::VmResume => Self::Resume,
            Call::VmShutdown => Self::Shutdown,
            Call::VmReboot => Self::Reboot,
            Call::VmPowerButton => Self::PowerButton,
            Call::VmDelete => Self::Delete,
            Call::VmResize(_) => Self::Resize,
            Call::VmResizeDisk(_) => Self::ResizeDisk,
            Call::VmResizeZone(_) => Self::ResizeZone,
            Call::VmAddDisk(_)
            | Call::VmAddNet(_)
            | Call::VmAddPmem(_)
            | Call::VmAddFs(_)
            | Call::VmAddGenericVhostUser(_)
            | Call::VmAddVsock(_) => Self::AddDevice,
            Call::VmAddDevice(_) | Call::VmAddVdpa(_) | Call::VmAddUserDevice(_) => Self::AddForeign,
            Call::VmRemoveDevice(_) => Self::RemoveDevice,
            Call::VmSnapshot(body) if body.live => Self::LiveSnapshot,
            Call::VmSnapshot(_) => Self::Snapshot,
            Call::VmRestore(_) => Self::Restore,
            Call::VmNmi => Self::Nmi,
            Call::VmCoredump(_) => Self::Coredump,
            Call::VmReceiveMigration(_) => Self::Receive,
            Call::VmSendMigration(_) => Self::Send,
        }
    }
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

// What does not exist in this version is no fault of the host: a client may know from the documents.
const NO_MIGRATION: Verdict = Verdict::Deny(
    ErrorKind::BadRequest,
    "migration is not supported by this version; vm.snapshot and vm.restore are",
);
const NO_FOREIGN: Verdict = Verdict::Deny(
    ErrorKind::BadRequest,
    "VFIO, vDPA and vfio-user devices are not supported by this version",
);
const NO_ZONES: Verdict =
    Verdict::Deny(ErrorKind::BadRequest, "memory zones cannot be resized by this version");
const NO_NMI: Verdict = Verdict::Deny(
    ErrorKind::BadRequest,
    "the guest's interrupt controller has no NMI: KVM's GICv3 offers none; vm.power-button asks the guest, vm.reboot does not",
);
const NO_COREDUMP: Verdict = Verdict::Deny(
    ErrorKind::BadRequest,
    "core files are not supported by this version: they have no place for memory tags; vm.snapshot keeps all of memory",
);
const NOT_CREATED: Verdict = Verdict::Deny(ErrorKind::NotFound, "VM is not created");
const NOT_BOOTED: Verdict = Verdict::Deny(ErrorKind::WrongState, "VM is not booted");

/// Looks one cell up.
pub fn admit(state: Lifecycle, verb: Verb) -> Verdict {
    use Lifecycle::{Absent, Created, Paused, Running};
    use Verdict::{Deny, Run};
    match (verb, state) {
        (Verb::Ping | Verb::Metrics | Verb::ShutdownMonitor | Verb::Delete, _) => Run,
        (Verb::Create | Verb::Restore, Absent) => Run,
        (Verb::Receive, Absent) => NO_MIGRATION,
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
        (Verb::Nmi | Verb::Coredump, Created) => NOT_BOOTED,
        (Verb::Nmi, Running | Paused) => NO_NMI,
        (Verb::Coredump, Running) => Deny(ErrorKind::WrongState, "VM is not paused"),
        (Verb::Coredump, Paused) => NO_COREDUMP,
        (Verb::ResizeZone, _) => NO_ZONES,
        (Verb::AddForeign, _) => NO_FOREIGN,
        (Verb::Send, _) => NO_MIGRATION,
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Write;
    use std::path::Path;

    use granule_api::call::ENDPOINTS;

    use super::*;

    /// The whole table, as a client sees it: a row for each endpoint, the code for each state, `ok` where it runs.
    fn table() -> String {
        let mut table =
            String::from("| request | no VM | Created | Running | Paused |\n|---|---|---|---|---|\n");
        let mut row = |name: &str, body: &str| {
            let endpoint = ENDPOINTS.iter().find(|endpoint| name.split(',').next() == Some(endpoint.name));
            let call = endpoint.unwrap().call(body.as_bytes()).unwrap();
            let cells = Lifecycle::ALL.map(|state| match admit(state, Verb::of(&call)) {
                Verdict::Run => "ok".to_owned(),
                Verdict::Deny(kind, why) => {
                    assert!(!why.is_empty());
                    kind.status().to_string()
                }
            });
            writeln!(table, "| {name} | {} |", cells.join(" | ")).unwrap();
        };
        for endpoint in ENDPOINTS {
            row(endpoint.name, endpoint.least_body());
            if endpoint.name == "vm.snapshot" {
                row("vm.snapshot, live", r#"{"destination_url":"file:///d","live":true}"#);
            }
        }
        table
    }

    /// An end-to-end test tries each cell of the document's table (`tests/tests/e2e/states.rs`).
    #[test]
    fn the_table_in_the_document_is_this_one() {
        const MARKS: [&str; 2] = ["<!-- the admission table -->\n", "<!-- end -->"];
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/api.md");
        let document = std::fs::read_to_string(&path).unwrap();
        let (before, rest) = document.split_once(MARKS[0]).unwrap();
        let (kept, after) = rest.split_once(MARKS[1]).unwrap();
        let made = table();
        if std::env::var_os("GRANULE_WRITE_DOCS").is_some() {
            std::fs::write(&path, [before, MARKS[0], &made, MARKS[1], after].concat()).unwrap();
            return;
        }
        assert_eq!(
            kept, made,
            "if the change is meant: GRANULE_WRITE_DOCS=1 cargo test -p granule-vmm admission"
        );
    }
}
