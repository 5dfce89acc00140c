use std::path::Path;

use super::document::document;
use super::{facts, paths};
use crate::call::ENDPOINTS;

/// What Cloud Hypervisor's document says.
const THEIRS: &str = include_str!("cloud-hypervisor.txt");

/// Compares `made` with a file of this crate; or writes the file, if that is asked for.
fn hold(made: &str, file: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
    if std::env::var_os("GRANULE_WRITE_OPENAPI").is_some() {
        std::fs::write(&path, made).unwrap();
    }
    let kept = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        made == kept,
        "{file} is not what the code says; if the change is meant: GRANULE_WRITE_OPENAPI=1 cargo test -p granule-api openapi"
    );
}

#[test]
fn the_document_is_that_of_the_types() {
    hold(&serde_yaml_ng::to_string(&document()).unwrap(), "openapi.yaml");
}

/// Why a line of differences is as it is.
const REASONS: &[(&str, &str)] = &[
    ("PUT vmm.shutdown", "what Cloud Hypervisor answers, whatever its document says"),
    ("VmCounters", "an object of objects"),
    ("vm.counters", "an object of objects; states told apart"),
    ("VmAddUserDevice", "one type for a vfio-user device: UserDeviceConfig"),
    ("theirs alone", "written out where it is used"),
    ("ours alone", "an extension, or what they write out where it is used"),
    ("GET ", "errors told apart"),
    ("PUT ", "errors told apart: the request's fault, the VM's state, the host's fault"),
    ("mte:", "an extension"),
    ("PmemConfig.readonly", "an extension"),
    ("VmSnapshotConfig.live", "an extension"),
    ("VmSnapshotConfig.parent", "an extension"),
    ("VmInfo.jail", "an extension"),
    ("VmInfo.memory_restore", "an extension"),
    ("VmInfo.work", "an extension"),
    ("VmState.", "a guest is never left in a break point"),
    ("NetConfig.fds", "accepted there, and not in its document"),
    ("net_fds", "accepted there, and not in its document"),
    ("disable_", "accepted there, and not in its document"),
    ("SerialConfig.iommu", "accepted there, and not in its document"),
    ("PlatformConfig.system_", "another name of serial_number and uuid; accepted"),
    ("VmConfig.payload", "may be left out: vm.create says then what is missing"),
    ("required` -> ", "may be left out: it has a default"),
    ("required`", "Cloud Hypervisor's code needs it, too"),
    (" = ", "the default of Cloud Hypervisor's code, told"),
    ("`[object]` -> `[Resource]`", "its shape is told"),
];

#[test]
fn every_difference_from_cloud_hypervisors_document_is_meant() {
    let differences = facts::differences(&facts::read(THEIRS), &facts::of(&document()));
    let mut told = String::new();
    for line in differences.lines() {
        let (_, why) =
            REASONS.iter().find(|(part, _)| line.contains(part)).unwrap_or_else(|| panic!("why? {line}"));
        told += &format!("{line}  # {why}\n");
    }
    print!("{told}");
    hold(&told, "src/openapi/differences.txt");
}

#[test]
fn every_path_of_the_table_is_an_endpoint() {
    for path in paths::PATHS {
        assert!(ENDPOINTS.iter().any(|endpoint| endpoint.name == path.name), "{}", path.name);
    }
}
