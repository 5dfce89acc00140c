//! `serial`, `console` and `debug_console`: where the guest's text goes.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::defaults::{self, debug_console_port};

/// Where a line's text goes and comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[cfg_attr(test, schemars(rename = "ConsoleMode"))]
pub enum Mode {
    /// The device is not there.
    Off,
    /// A pseudo-terminal; `vm.info` tells its path in `file`.
    Pty,
    /// Standard output and input of the process.
    Tty,
    /// A file, written only.
    File,
    /// A Unix socket that one client at a time connects to.
    Socket,
    /// The device is there, the text is thrown away.
    Null,
}

/// The PL011 UART, `ttyAMA0` in the guest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct SerialConfig {
    /// The file of mode File; the pseudo-terminal of mode Pty.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<PathBuf>,
    /// Where the text goes.
    pub mode: Mode,
    /// Accepted and echoed: a UART is behind no IOMMU.
    #[serde(default, deserialize_with = "defaults::or_default")]
    pub iommu: bool,
    /// The socket of mode Socket.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub socket: Option<PathBuf>,
}

impl SerialConfig {
    /// A line of that mode and nothing else.
    pub fn with_mode(mode: Mode) -> Self {
        Self { file: None, mode, iommu: false, socket: None }
    }
}

/// The virtio console, `hvc0` in the guest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct ConsoleConfig {
    /// The file of mode File; the pseudo-terminal of mode Pty.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<PathBuf>,
    /// Where the text goes.
    pub mode: Mode,
    /// Whether the device is behind a virtual IOMMU.
    #[serde(default, deserialize_with = "defaults::or_default")]
    pub iommu: bool,
    /// The socket of mode Socket.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub socket: Option<PathBuf>,
    /// Name, unique in the VM.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// PCI segment.
    #[serde(default, deserialize_with = "defaults::or_default")]
    pub pci_segment: u16,
    /// Slot on that segment's bus.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pci_device_id: Option<u8>,
}

impl ConsoleConfig {
    /// A console of that mode and nothing else.
    pub fn with_mode(mode: Mode) -> Self {
        Self { file: None, mode, iommu: false, socket: None, id: None, pci_segment: 0, pci_device_id: None }
    }
}

/// x86 only: text written to an I/O port. Accepted and echoed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct DebugConsoleConfig {
    /// The file of mode File.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<PathBuf>,
    /// Where the text goes.
    pub mode: Mode,
    /// The I/O port.
    #[serde(default = "debug_console_port::value", deserialize_with = "debug_console_port::deserialize")]
    pub iobase: u16,
}
