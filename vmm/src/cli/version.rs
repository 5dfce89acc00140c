//! What `--version` prints.

use std::ffi::OsStr;
use std::path::Path;

/// The version, under the name that the program was called by: libvirt and others call it `cloud-hypervisor` and read
/// the API's version from the first line.
pub(super) fn text(called: Option<&OsStr>) -> String {
    let name = called.map(Path::new).and_then(Path::file_name);
    if name == Some(OsStr::new("cloud-hypervisor")) {
        format!("cloud-hypervisor v{}\n{}\n", granule_api::COMPAT_VERSION, granule_api::BUILD_VERSION)
    } else {
        format!("granule v{}\n", env!("CARGO_PKG_VERSION"))
    }
}
