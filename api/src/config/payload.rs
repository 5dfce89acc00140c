//! `payload`: what the guest boots.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// `payload` of a VM.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct PayloadConfig {
    /// Firmware to start in place of a kernel.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub firmware: Option<PathBuf>,
    /// An arm64 `Image`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kernel: Option<PathBuf>,
    /// The kernel's command line.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cmdline: Option<String>,
    /// An initial RAM disk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub initramfs: Option<PathBuf>,
    /// x86 only: a confidential guest's image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub igvm: Option<PathBuf>,
    /// x86 only: a confidential guest's host data.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_data: Option<String>,
}
