//! `vmm.ping`.

use serde::{Deserialize, Serialize};

/// Who answers here, and what it can do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[cfg_attr(test, schemars(rename = "VmmPingResponse"))]
pub struct Ping {
    /// Name and version of the build.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub build_version: Option<String>,
    /// Version of the API's reference implementation that is spoken.
    pub version: String,
    /// The process that the runtime started, whose threads run the vCPUs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pid: Option<i64>,
    /// What this build and host have: `kvm`, `mte`, `process-isolation`, ….
    #[serde(default)]
    pub features: Vec<String>,
    /// What this host can do about memory tagging.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mte: Option<HostMte>,
}

impl Ping {
    /// The answer of this build; the process and the host's features are the caller's to know.
    pub fn new(pid: u32, features: Vec<String>, mte: HostMte) -> Self {
        Self {
            build_version: Some(crate::BUILD_VERSION.into()),
            version: crate::COMPAT_VERSION.into(),
            pid: Some(pid.into()),
            features,
            mte: Some(mte),
        }
    }
}

/// Whether guests can have tags on this host.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct HostMte {
    /// Whether they can.
    pub available: bool,
    /// Why not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}
