//! The calls of the API: one table of paths, and a closed type of what each carries.

use serde::de::DeserializeOwned;

use crate::config::{
    DeviceConfig, DiskConfig, FsConfig, GenericVhostUserConfig, NetConfig, PmemConfig, ReceiveMigrationData,
    RestoreConfig, SendMigrationData, UserDeviceConfig, VdpaConfig, VmConfig, VmCoredumpData, VmRemoveDevice,
    VmResize, VmResizeDisk, VmResizeZone, VmSnapshotConfig, VsockConfig,
};
use crate::error::{ApiError, ErrorKind};
use crate::json;

/// What all paths begin with.
pub const ROOT: &str = "/api/v1/";

/// One request of a client's, its body read. Descriptors that came along are beside it, not in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Call {
    /// `GET vmm.ping` → 200 [`Ping`](crate::types::Ping).
    VmmPing,
    /// `GET /metrics` → 200, the exposition format of Prometheus. Not below [`ROOT`], where scrapers look.
    Metrics,
    /// `PUT vmm.shutdown` → 200 without a body.
    VmmShutdown,
    /// `GET vm.info` → 200 [`VmInfo`](crate::types::VmInfo).
    VmInfo,
    /// `GET vm.counters` → 200 [`VmCounters`](crate::types::VmCounters).
    VmCounters,
    /// `PUT vm.create` → 204.
    VmCreate(Box<VmConfig>),
    /// `PUT vm.delete` → 204.
    VmDelete,
    /// `PUT vm.boot` → 204.
    VmBoot,
    /// `PUT vm.pause` → 204.
    VmPause,
    /// `PUT vm.resume` → 204.
    VmResume,
    /// `PUT vm.shutdown` → 204.
    VmShutdown,
    /// `PUT vm.reboot` → 204.
    VmReboot,
    /// `PUT vm.power-button` → 204.
    VmPowerButton,
    /// `PUT vm.nmi` → 204.
    VmNmi,
    /// `PUT vm.resize` → 204.
    VmResize(VmResize),
    /// `PUT vm.resize-disk` → 204.
    VmResizeDisk(VmResizeDisk),
    /// `PUT vm.resize-zone` → 204.
    VmResizeZone(VmResizeZone),
    /// `PUT vm.add-device` → 200 [`PciDeviceInfo`](crate::types::PciDeviceInfo), or 204 before boot. Takes a descriptor.
    VmAddDevice(DeviceConfig),
    /// `PUT vm.remove-device` → 204.
    VmRemoveDevice(VmRemoveDevice),
    /// `PUT vm.add-disk` → as [`Call::VmAddDevice`].
    VmAddDisk(Box<DiskConfig>),
    /// `PUT vm.add-fs` → as [`Call::VmAddDevice`].
    VmAddFs(FsConfig),
    /// `PUT vm.add-generic-vhost-user` → as [`Call::VmAddDevice`].
    VmAddGenericVhostUser(GenericVhostUserConfig),
    /// `PUT vm.add-pmem` → as [`Call::VmAddDevice`].
    VmAddPmem(PmemConfig),
    /// `PUT vm.add-net` → as [`Call::VmAddDevice`]. Takes a descriptor for each queue pair.
    VmAddNet(Box<NetConfig>),
    /// `PUT vm.add-vsock` → as [`Call::VmAddDevice`].
    VmAddVsock(VsockConfig),
    /// `PUT vm.add-vdpa` → as [`Call::VmAddDevice`].
    VmAddVdpa(VdpaConfig),
    /// `PUT vm.add-user-device` → as [`Call::VmAddDevice`].
    VmAddUserDevice(UserDeviceConfig),
    /// `PUT vm.snapshot` → 204.
    VmSnapshot(VmSnapshotConfig),
    /// `PUT vm.coredump` → 204.
    VmCoredump(VmCoredumpData),
    /// `PUT vm.restore` → 204. Takes the descriptors of its `net_fds`.
    VmRestore(RestoreConfig),
    /// `PUT vm.receive-migration` → 204. Takes the descriptors of its `net_fds`.
    VmReceiveMigration(ReceiveMigrationData),
    /// `PUT vm.send-migration` → 204.
    VmSendMigration(SendMigrationData),
}

/// The method of an endpoint; each has one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// Reads.
    Get,
    /// Changes.
    Put,
}

impl Method {
    /// As it stands in a request line.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Put => "PUT",
        }
    }
}

/// What an endpoint does with the body of a request.
#[derive(Clone, Copy, Debug)]
enum Body {
    /// There is none.
    None(Call0),
    /// There must be one, of the type that this reads.
    Json(fn(&[u8]) -> Result<Call, json::JsonError>),
}

/// What scrapers read, at the path `/metrics`.
const METRICS: Endpoint = get("metrics", || Call::Metrics);

/// Makes a call that carries nothing.
type Call0 = fn() -> Call;

/// One path of the API.
#[derive(Clone, Copy, Debug)]
pub struct Endpoint {
    /// What follows [`ROOT`].
    pub name: &'static str,
    /// The method.
    pub method: Method,
    body: Body,
}

const fn get(name: &'static str, call: Call0) -> Endpoint {
    Endpoint { name, method: Method::Get, body: Body::None(call) }
}

const fn put(name: &'static str, call: Call0) -> Endpoint {
    Endpoint { name, method: Method::Put, body: Body::None(call) }
}

const fn send(name: &'static str, read: fn(&[u8]) -> Result<Call, json::JsonError>) -> Endpoint {
    Endpoint { name, method: Method::Put, body: Body::Json(read) }
}

fn read<T: DeserializeOwned>(body: &[u8], call: fn(T) -> Call) -> Result<Call, json::JsonError> {
    json::parse(body).map(call)
}

/// Every path of the API.
pub const ENDPOINTS: &[Endpoint] = &[
    get("vmm.ping", || Call::VmmPing),
    put("vmm.shutdown", || Call::VmmShutdown),
    get("vm.info", || Call::VmInfo),
    get("vm.counters", || Call::VmCounters),
    send("vm.create", |body| read(body, Call::VmCreate)),
    put("vm.delete", || Call::VmDelete),
    put("vm.boot", || Call::VmBoot),
    put("vm.pause", || Call::VmPause),
    put("vm.resume", || Call::VmResume),
    put("vm.shutdown", || Call::VmShutdown),
    put("vm.reboot", || Call::VmReboot),
    put("vm.power-button", || Call::VmPowerButton),
    put("vm.nmi", || Call::VmNmi),
    send("vm.resize", |body| read(body, Call::VmResize)),
    send("vm.resize-disk", |body| read(body, Call::VmResizeDisk)),
    send("vm.resize-zone", |body| read(body, Call::VmResizeZone)),
    send("vm.add-device", |body| read(body, Call::VmAddDevice)),
    send("vm.remove-device", |body| read(body, Call::VmRemoveDevice)),
    send("vm.add-disk", |body| read(body, Call::VmAddDisk)),
    send("vm.add-fs", |body| read(body, Call::VmAddFs)),
    send("vm.add-generic-vhost-user", |body| read(body, Call::VmAddGenericVhostUser)),
    send("vm.add-pmem", |body| read(body, Call::VmAddPmem)),
    send("vm.add-net", |body| read(body, Call::VmAddNet)),
    send("vm.add-vsock", |body| read(body, Call::VmAddVsock)),
    send("vm.add-vdpa", |body| read(body, Call::VmAddVdpa)),
    send("vm.add-user-device", |body| read(body, Call::VmAddUserDevice)),
    send("vm.snapshot", |body| read(body, Call::VmSnapshot)),
    send("vm.coredump", |body| read(body, Call::VmCoredump)),
    send("vm.restore", |body| read(body, Call::VmRestore)),
    send("vm.receive-migration", |body| read(body, Call::VmReceiveMigration)),
    send("vm.send-migration", |body| read(body, Call::VmSendMigration)),
];

impl Endpoint {
    /// The endpoint of a path, which must match to the letter: a query makes it another path.
    pub fn find(path: &str) -> Option<&'static Endpoint> {
        if path == "/metrics" {
            return Some(&METRICS);
        }
        let name = path.strip_prefix(ROOT)?;
        ENDPOINTS.iter().find(|endpoint| endpoint.name == name)
    }

    /// The least body that it reads; empty where it takes none. Whether the call then succeeds is another matter.
    #[must_use]
    pub fn least_body(&self) -> &'static str {
        match self.name {
            _ if matches!(self.body, Body::None(_)) => "",
            "vm.resize-disk" => r#"{"id":"d","desired_size":1}"#,
            "vm.resize-zone" => r#"{"id":"z","desired_ram":1}"#,
            "vm.remove-device" => r#"{"id":"d"}"#,
            "vm.add-fs" => r#"{"tag":"t","socket":"/s"}"#,
            "vm.add-generic-vhost-user" => r#"{"socket":"/s","queue_sizes":[1],"device_type":26}"#,
            "vm.add-pmem" => r#"{"file":"/f"}"#,
            "vm.add-vsock" => r#"{"cid":3,"socket":"/s"}"#,
            "vm.add-vdpa" => r#"{"path":"/p"}"#,
            "vm.add-user-device" => r#"{"socket":"/s"}"#,
            "vm.snapshot" | "vm.coredump" | "vm.send-migration" => r#"{"destination_url":"file:///d"}"#,
            "vm.restore" => r#"{"source_url":"file:///d"}"#,
            "vm.receive-migration" => r#"{"receiver_url":"unix:/s"}"#,
            _ => "{}",
        }
    }

    /// Makes a call of the body of a request.
    ///
    /// # Errors
    /// A body where there must be none (on GET it is ignored), none where there must be one, or not the JSON expected.
    pub fn call(&self, body: &[u8]) -> Result<Call, ApiError> {
        match self.body {
            Body::None(call) if body.is_empty() || self.method == Method::Get => Ok(call()),
            Body::None(_) => Err(ApiError::plain(ErrorKind::BadRequest, &["Bad Request"])
                .because(format!("{} takes no body", self.name))),
            Body::Json(_) if body.is_empty() => Err(ApiError::plain(ErrorKind::BadRequest, &["Bad Request"])
                .because(format!("{} needs a body", self.name))),
            Body::Json(read) => read(body).map_err(|error| {
                ApiError::plain(ErrorKind::BadRequest, &["Failed to deserialize JSON"])
                    .because(error.to_string())
            }),
        }
    }
}

impl Call {
    /// The name of the endpoint that it came by.
    pub fn name(&self) -> &'static str {
        match self {
            Self::VmmPing => "vmm.ping",
            Self::Metrics => "metrics",
            Self::VmmShutdown => "vmm.shutdown",
            Self::VmInfo => "vm.info",
            Self::VmCounters => "vm.counters",
            Self::VmCreate(_) => "vm.create",
            Self::VmDelete => "vm.delete",
            Self::VmBoot => "vm.boot",
            Self::VmPause => "vm.pause",
            Self::VmResume => "vm.resume",
            Self::VmShutdown => "vm.shutdown",
            Self::VmReboot => "vm.reboot",
            Self::VmPowerButton => "vm.power-button",
            Self::VmNmi => "vm.nmi",
            Self::VmResize(_) => "vm.resize",
            Self::VmResizeDisk(_) => "vm.resize-disk",
            Self::VmResizeZone(_) => "vm.resize-zone",
            Self::VmAddDevice(_) => "vm.add-device",
            Self::VmRemoveDevice(_) => "vm.remove-device",
            Self::VmAddDisk(_) => "vm.add-disk",
            Self::VmAddFs(_) => "vm.add-fs",
            Self::VmAddGenericVhostUser(_) => "vm.add-generic-vhost-user",
            Self::VmAddPmem(_) => "vm.add-pmem",
            Self::VmAddNet(_) => "vm.add-net",
            Self::VmAddVsock(_) => "vm.add-vsock",
            Self::VmAddVdpa(_) => "vm.add-vdpa",
            Self::VmAddUserDevice(_) => "vm.add-user-device",
            Self::VmSnapshot(_) => "vm.snapshot",
            Self::VmCoredump(_) => "vm.coredump",
            Self::VmRestore(_) => "vm.restore",
            Self::VmReceiveMigration(_) => "vm.receive-migration",
            Self::VmSendMigration(_) => "vm.send-migration",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_31_endpoints_and_each_makes_the_call_of_its_name() {
        assert_eq!(ENDPOINTS.len(), 31);
        for endpoint in ENDPOINTS {
            assert_eq!(endpoint.call(endpoint.least_body().as_bytes()).unwrap().name(), endpoint.name);
            assert_eq!(Endpoint::find(&format!("{ROOT}{}", endpoint.name)).unwrap().name, endpoint.name);
        }
    }

    #[test]
    fn a_path_matches_to_the_letter() {
        for path in ["/api/v1/vm.info?x=1", "/api/v1/vm.info/", "/api/v2/vm.info", "vm.info", "/api/v1/", ""]
        {
            assert!(Endpoint::find(path).is_none(), "{path}");
        }
    }

    #[test]
    fn bodies_are_there_where_they_must_be_and_only_there() {
        let call = |path: &str, body: &str| {
            Endpoint::find(&format!("{ROOT}{path}"))
                .unwrap()
                .call(body.as_bytes())
                .map_err(|error| error.body())
        };
        assert_eq!(call("vm.boot", "{}").unwrap_err(), br#"["Bad Request","vm.boot takes no body"]"#);
        assert_eq!(call("vm.create", "").unwrap_err(), br#"["Bad Request","vm.create needs a body"]"#);
        assert_eq!(call("vm.info", "{}"), Ok(Call::VmInfo));
        assert_eq!(
            call("vm.create", "{1}").unwrap_err(),
            br#"["Failed to deserialize JSON","key must be a string at line 1 column 2"]"#
        );
    }
}
