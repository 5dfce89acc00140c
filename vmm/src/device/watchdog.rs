//! `granule device watchdog`.

use std::os::fd::RawFd;
use std::process::ExitCode;
use std::time::Duration;

use granule_devices::watchdog::{self, TIMEOUT};
use granule_jail::DeviceKind;
use rustix::event::{EventfdFlags, eventfd};

use super::{Common, DeviceError, take};

/// What a watchdog is made of.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    common: Common,
    /// Signal this eventfd when the guest falls silent; without one there is a line in the log
    #[arg(long, value_name = "N", hide = true)]
    bite_fd: Option<RawFd>,
    /// Seconds without a word of the guest
    #[arg(long, value_name = "SECONDS", default_value_t = TIMEOUT.as_secs())]
    timeout: u64,
}

pub(super) fn run(args: Args) -> Result<ExitCode, DeviceError> {
    let bite = match args.bite_fd {
        Some(number) => take(number)?,
        None => eventfd(0, EventfdFlags::CLOEXEC).map_err(|error| DeviceError::Standard(error.into()))?,
    };
    let limit = Duration::from_secs(args.timeout);
    args.common.serve(DeviceKind::Watchdog, |entry| watchdog::run(entry, bite, limit))
}
