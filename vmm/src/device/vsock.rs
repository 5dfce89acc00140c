//! `granule device vsock`.

use std::os::fd::RawFd;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::process::ExitCode;

use granule_devices::vsock::{self, GuestCid, HostSide};
use granule_jail::DeviceKind;

use super::{Common, DeviceError, listen, take};

/// What a socket device is made of.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    common: Common,
    /// The guest's context id, 3 or more
    #[arg(long, value_name = "N", value_parser = cid)]
    cid: GuestCid,
    /// Listen here for programs of the host; what the guest connects to is refused
    #[arg(
        long,
        value_name = "PATH",
        conflicts_with = "listener_fd",
        required_unless_present = "listener_fd"
    )]
    host_socket: Option<PathBuf>,
    /// Accept programs of the host from this listening descriptor
    #[arg(long, value_name = "N", hide = true)]
    listener_fd: Option<RawFd>,
    /// Ask for connections to the host here
    #[arg(long, value_name = "N", hide = true)]
    broker_fd: Option<RawFd>,
}

fn cid(text: &str) -> Result<GuestCid, String> {
    let number: u64 = text.parse().map_err(|_| format!("{text:?} is not a number"))?;
    GuestCid::try_from(number).map_err(|error| error.to_string())
}

pub(super) fn run(args: Args) -> Result<ExitCode, DeviceError> {
    let Args { common, cid, host_socket, listener_fd, broker_fd } = args;
    let listener = match listener_fd {
        Some(number) => UnixListener::from(take(number)?),
        None => listen("--host-socket", host_socket.unwrap_or_default())?,
    };
    listener.set_nonblocking(true).map_err(DeviceError::Prepare)?;
    let broker = broker_fd.map(take).transpose()?;
    common.serve(DeviceKind::Vsock, |entry| vsock::run(entry, cid, HostSide { listener, broker }))
}
