//! `granule device KIND`: the process that serves one virtio device over vhost-user.
//!
//! Started by `control` with connected descriptors, or by a person with `--socket PATH`, for any other monitor:
//!
//! ```text
//!  parse ─► open or take descriptors ─► jail ─► serve until the front end hangs up
//! ```
//!
//! Nothing that reads what a guest wrote exists before the jail.

use std::fs::File;
use std::io;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::process::ExitCode;

use granule_devices::rng::{self, Source};
use granule_devices::serve::{Endpoint, ServeError};
use granule_jail::{JailKind, SeccompMode};

/// What to serve, and where.
#[derive(Debug, clap::Args)]
pub struct DeviceArgs {
    /// What to serve
    #[arg(value_enum)]
    pub kind: Kind,
    /// Listen on this Unix socket for one vhost-user front end
    #[arg(long, value_name = "PATH", conflicts_with = "fd", required_unless_present = "fd")]
    pub socket: Option<PathBuf>,
    /// Serve the vhost-user front end connected to this descriptor
    #[arg(long, value_name = "N")]
    pub fd: Option<RawFd>,
    /// rng: where the entropy comes from
    #[arg(long, value_name = "PATH", default_value = "/dev/urandom", conflicts_with = "source_fd")]
    pub source: PathBuf,
    /// rng: read entropy from this descriptor
    #[arg(long, value_name = "N", hide = true)]
    pub source_fd: Option<RawFd>,
    /// What seccomp does with a call that is not on the list: true (kill), log, false (no filter)
    #[arg(long, value_name = "MODE", default_value = "true")]
    pub seccomp: SeccompMode,
}

/// Devices that have a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Kind {
    /// virtio-rng
    Rng,
}

/// Why a device process ended badly.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// The socket.
    #[error("--socket: cannot listen on {path:?}")]
    Listen {
        /// Path as given.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// The entropy source.
    #[error("--source: cannot open {path:?}")]
    Source {
        /// Path as given.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// A descriptor that is not open.
    #[error("descriptor {0} is not open")]
    Descriptor(RawFd),
    /// Serving.
    #[error("the device stopped")]
    Serve(#[source] ServeError),
}

/// Runs the device to its end.
pub fn run(args: &DeviceArgs) -> Result<ExitCode, DeviceError> {
    let source = match args.source_fd {
        Some(number) => File::from(take(number)?),
        None => File::open(&args.source)
            .map_err(|source| DeviceError::Source { path: args.source.clone(), source })?,
    };
    let endpoint = match (args.fd, &args.socket) {
        (Some(number), _) => Endpoint::Connected(UnixStream::from(take(number)?)),
        (None, path) => Endpoint::Listening(listen(path.clone().unwrap_or_default())?),
    };
    let jail =
        || Ok(granule_jail::enter(JailKind::Device(granule_jail::DeviceKind::Rng), args.seccomp).map(drop)?);
    let served = rng::run(endpoint, Source::File(source), jail);
    if let Some(path) = &args.socket {
        // In the jail no path can be removed; outside of one (a failure before it) this cleans up.
        let _ = std::fs::remove_file(path);
    }
    served.map(|()| ExitCode::SUCCESS).map_err(DeviceError::Serve)
}

fn listen(path: PathBuf) -> Result<UnixListener, DeviceError> {
    UnixListener::bind(&path).map_err(|source| DeviceError::Listen { path, source })
}

fn take(number: RawFd) -> Result<OwnedFd, DeviceError> {
    // SAFETY: F_GETFD reads a flag and is harmless on any number.
    if number < 3 || unsafe { libc::fcntl(number, libc::F_GETFD) } < 0 {
        return Err(DeviceError::Descriptor(number));
    }
    // SAFETY: the number is open and was inherited for us by whoever started this process; nothing here made it.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}
