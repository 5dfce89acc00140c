//! `granule device rng`.

use std::fs::File;
use std::os::fd::RawFd;
use std::path::PathBuf;
use std::process::ExitCode;

use granule_devices::rng::{self, Source};
use granule_jail::DeviceKind;

use super::{Common, DeviceError, take};

/// What an entropy source is made of.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    common: Common,
    /// Where the entropy comes from
    #[arg(long, value_name = "PATH", default_value = "/dev/urandom", conflicts_with = "source_fd")]
    source: PathBuf,
    /// Read entropy from this descriptor
    #[arg(long, value_name = "N", hide = true)]
    source_fd: Option<RawFd>,
}

pub(super) fn run(args: Args) -> Result<ExitCode, DeviceError> {
    let Args { common, source: path, source_fd } = args;
    let source = match source_fd {
        Some(number) => File::from(take(number)?),
        None => File::open(&path).map_err(|source| DeviceError::Open { flag: "--source", path, source })?,
    };
    common.serve(DeviceKind::Rng, |entry| rng::run(entry, Source::File(source)))
}
