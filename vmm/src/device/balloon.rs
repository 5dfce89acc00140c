//! `granule device balloon`.

use std::process::ExitCode;

use granule_devices::balloon::{self, Settings};
use granule_jail::DeviceKind;

use super::{Common, DeviceError};

/// How a balloon is to be.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    common: Common,
    /// Bytes that the guest is asked to give back
    #[arg(long, value_name = "BYTES", default_value_t = 0)]
    size: u64,
    /// Let the guest take memory back rather than kill a process
    #[arg(long)]
    deflate_on_oom: bool,
    /// Have the guest report pages that are free
    #[arg(long)]
    free_page_reporting: bool,
}

pub(super) fn run(args: Args) -> Result<ExitCode, DeviceError> {
    let Args { common, size, deflate_on_oom, free_page_reporting } = args;
    let settings = Settings { size, deflate_on_oom, free_page_reporting };
    common.serve(DeviceKind::Balloon, |entry| balloon::run(entry, settings))
}
