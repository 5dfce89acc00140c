//! `granule device KIND`: the process that serves one virtio device over vhost-user.
//!
//! Started by `control` with connected descriptors, or by a person with `--socket PATH`, for any other monitor:
//!
//! ```text
//!  parse ─► open or take descriptors ─► jail ─► serve until the front end hangs up
//! ```
//!
//! Nothing that reads what a guest wrote exists before the jail. Each kind has a file here, with its own arguments.

mod balloon;
mod blk;
mod console;
mod mem;
mod net;
mod pmem;
mod rate;
mod rng;
mod vsock;
mod watchdog;

use std::error::Error;
use std::io;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::process::ExitCode;

use granule_devices::serve::{Endpoint, Entry, MAX_ORDER, ServeError, UNASKED};
use granule_devices::userfault::Late;
use granule_jail::{DeviceKind, JailKind, SeccompMode};
use rustix::net::SendFlags;

/// What to serve, and where.
#[derive(Debug, clap::Args)]
pub struct DeviceArgs {
    /// What to serve
    #[command(subcommand)]
    kind: Kind,
}

/// Devices that have a process.
#[derive(Debug, clap::Subcommand)]
enum Kind {
    /// virtio-blk: a disk
    Blk(blk::Args),
    /// virtio-console: text in and out
    Console(console::Args),
    /// virtio-net: a network interface
    Net(net::Args),
    /// virtio-rng: an entropy source
    Rng(rng::Args),
    /// virtio-balloon: memory that the guest gives back
    Balloon(balloon::Args),
    /// virtio-mem: memory that is plugged and unplugged
    Mem(mem::Args),
    /// virtio-pmem: an image as memory
    Pmem(pmem::Args),
    /// virtio-vsock: sockets between guest and host
    Vsock(vsock::Args),
    /// A watchdog, as Cloud Hypervisor's guests drive it
    Watchdog(watchdog::Args),
}

/// What every kind has.
#[derive(Debug, clap::Args)]
struct Common {
    /// Listen on this Unix socket for one vhost-user front end
    #[arg(long, value_name = "PATH", conflicts_with = "fd", required_unless_present = "fd")]
    socket: Option<PathBuf>,
    /// Serve the vhost-user front end connected to this descriptor
    #[arg(long, value_name = "N")]
    fd: Option<RawFd>,
    /// Take orders from this descriptor, a SEQPACKET socket
    #[arg(long, value_name = "N", hide = true)]
    orders_fd: Option<RawFd>,
    /// Guest memory may not be there yet: /dev/userfaultfd
    #[arg(long, value_name = "N", hide = true, requires = "mover_fd")]
    userfault_fd: Option<RawFd>,
    /// Announce what is mapped of it over this descriptor, a SEQPACKET socket
    #[arg(long, value_name = "N", hide = true, requires = "userfault_fd")]
    mover_fd: Option<RawFd>,
    /// What seccomp does with a call that is not on the list: true (kill), log, false (no filter)
    #[arg(long, value_name = "MODE", default_value = "true")]
    seccomp: SeccompMode,
}

/// Why a device process ended badly.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// The socket.
    #[error("{flag}: cannot listen on {path:?}")]
    Listen {
        /// The flag that names it.
        flag: &'static str,
        /// Path as given.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// A file of the command line.
    #[error("{flag}: cannot open {path:?}")]
    Open {
        /// The flag that names it.
        flag: &'static str,
        /// Path as given.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// A disk's image.
    #[error("--image: {path:?} cannot be used")]
    Image {
        /// Path as given.
        path: PathBuf,
        /// Why not.
        #[source]
        source: crate::image::ImageError,
    },
    /// A file that is open, but tells nothing of itself.
    #[error("{flag}: the file cannot be looked at")]
    Inspect {
        /// The flag that names it.
        flag: &'static str,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// A descriptor of our own.
    #[error("cannot prepare the device's own descriptors")]
    Standard(#[source] io::Error),
    /// A descriptor that is not open.
    #[error("descriptor {0} is not open")]
    Descriptor(RawFd),
    /// Getting memory ready.
    #[error("the memory of the device could not be filled")]
    Load(#[source] granule_devices::pmem::LoadError),
    /// The tap.
    #[error("--tap")]
    Tap(#[source] crate::tap::TapError),
    /// What it works on.
    #[error("cannot prepare what the device works on")]
    Prepare(#[source] io::Error),
    /// Serving.
    #[error("the device stopped")]
    Serve(#[source] ServeError),
}

/// Runs the device to its end.
pub fn run(args: DeviceArgs) -> Result<ExitCode, DeviceError> {
    match args.kind {
        Kind::Blk(args) => blk::run(args),
        Kind::Console(args) => console::run(args),
        Kind::Net(args) => net::run(args),
        Kind::Rng(args) => rng::run(args),
        Kind::Pmem(args) => pmem::run(args),
        Kind::Vsock(args) => vsock::run(args),
        Kind::Watchdog(args) => watchdog::run(args),
        Kind::Balloon(args) => balloon::run(args),
        Kind::Mem(args) => mem::run(args),
    }
}

type JailError = Box<dyn Error + Send + Sync>;

impl Common {
    /// Tells whoever started us why there will be no device, before any order is given.
    fn tell(&self, error: &DeviceError) {
        let Some(orders) = self.orders_fd.and_then(|number| take(number).ok()) else { return };
        let mut text = Vec::new();
        let mut next: Option<&dyn Error> = Some(error);
        while let Some(cause) = next {
            text.extend(format!("{cause}\n").into_bytes());
            next = cause.source();
        }
        text.truncate(MAX_ORDER);
        let message = [&UNASKED[..], &[1], &text].concat();
        // Nobody may be there to hear; the log has it, too.
        let _ = rustix::net::send(&orders, &message, SendFlags::NOSIGNAL);
    }

    /// Serves by `serve`, which is handed the way in.
    fn serve(
        self,
        kind: DeviceKind,
        serve: impl FnOnce(Entry<Box<dyn FnOnce() -> Result<(), JailError>>>) -> Result<(), ServeError>,
    ) -> Result<ExitCode, DeviceError> {
        let endpoint = match (self.fd, &self.socket) {
            (Some(number), _) => Endpoint::Connected(UnixStream::from(take(number)?)),
            (None, path) => Endpoint::Listening(listen("--socket", path.clone().unwrap_or_default())?),
        };
        let orders = self.orders_fd.map(take).transpose()?;
        let late = match (self.userfault_fd, self.mover_fd) {
            (Some(device), Some(mover)) => Some(Late::new(take(device)?, take(mover)?)),
            _ => None,
        };
        let mode = self.seccomp;
        let enter_jail = Box::new(move || Ok(granule_jail::enter(JailKind::Device(kind), mode).map(drop)?));
        let served = serve(Entry { endpoint, orders, late, enter_jail });
        if let Some(path) = &self.socket {
            // In the jail no path can be removed; outside of one (a failure before it) this cleans up.
            let _ = std::fs::remove_file(path);
        }
        served.map(|()| ExitCode::SUCCESS).map_err(DeviceError::Serve)
    }
}

fn listen(flag: &'static str, path: PathBuf) -> Result<UnixListener, DeviceError> {
    UnixListener::bind(&path).map_err(|source| DeviceError::Listen { flag, path, source })
}

/// The descriptor of this number, which was inherited for us.
fn take(number: RawFd) -> Result<OwnedFd, DeviceError> {
    // SAFETY: F_GETFD reads a flag and is harmless on any number.
    if number < 3 || unsafe { libc::fcntl(number, libc::F_GETFD) } < 0 {
        return Err(DeviceError::Descriptor(number));
    }
    // SAFETY: the number is open and was inherited for us by whoever started this process; nothing here made it.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}
