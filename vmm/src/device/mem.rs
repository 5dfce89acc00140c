//! `granule device mem`.

use std::fs::File;
use std::os::fd::RawFd;
use std::process::ExitCode;

use granule_devices::mem::{self, BLOCK, Settings};
use granule_jail::DeviceKind;

use super::{Common, DeviceError, take};

/// What may be plugged.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    common: Common,
    /// Guest physical address of the first block
    #[arg(long, value_name = "BYTES")]
    address: u64,
    /// Bytes that may be plugged
    #[arg(long, value_name = "BYTES")]
    size: u64,
    /// Bytes that the guest is asked to plug
    #[arg(long, value_name = "BYTES", default_value_t = 0)]
    requested: u64,
    /// Bytes that are plugged at once
    #[arg(long, value_name = "BYTES", default_value_t = BLOCK)]
    block: u64,
    /// Note what is plugged in this file, for a successor
    #[arg(long, value_name = "N", hide = true)]
    notes_fd: Option<RawFd>,
}

pub(super) fn run(args: Args) -> Result<ExitCode, DeviceError> {
    let Args { common, address, size, requested, block, notes_fd } = args;
    let notes = notes_fd.map(|number| take(number).map(File::from)).transpose()?;
    let settings = Settings { block, address, size, requested };
    common.serve(DeviceKind::Mem, |entry| mem::run(entry, settings, notes))
}
