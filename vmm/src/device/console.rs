//! `granule device console`.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, RawFd};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::process::ExitCode;

use granule_devices::console::{self, Ends, Window};
use granule_jail::DeviceKind;

use super::{Common, DeviceError, listen, take};

/// Where a console leads: standard input and output, unless told otherwise.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    common: Common,
    /// Throw output away, and give no input
    #[arg(long, conflicts_with_all = ["listen", "listener_fd", "input_fd", "output_fd"])]
    null: bool,
    /// Lead to whoever connects to this Unix socket
    #[arg(long, value_name = "PATH", conflicts_with = "listener_fd")]
    listen: Option<PathBuf>,
    /// Lead to whoever connects to this listening socket
    #[arg(long, value_name = "N", hide = true)]
    listener_fd: Option<RawFd>,
    /// Read input from this descriptor
    #[arg(long, value_name = "N", hide = true)]
    input_fd: Option<RawFd>,
    /// Write output to this descriptor
    #[arg(long, value_name = "N", hide = true)]
    output_fd: Option<RawFd>,
    /// Characters in a line of the terminal; 0 where nobody knows
    #[arg(long, value_name = "N", default_value = "0")]
    columns: u16,
    /// Lines of the terminal
    #[arg(long, value_name = "N", default_value = "0")]
    rows: u16,
}

pub(super) fn run(args: Args) -> Result<ExitCode, DeviceError> {
    let ends = ends(&args)?;
    let window = Window { columns: args.columns, rows: args.rows };
    args.common.serve(DeviceKind::Console, |entry| console::run(entry, ends, window))
}

fn ends(args: &Args) -> Result<Ends, DeviceError> {
    if args.null {
        return Ok(Ends::Null);
    }
    let listener = match (args.listener_fd, &args.listen) {
        (Some(number), _) => Some(UnixListener::from(take(number)?)),
        (None, Some(path)) => Some(listen("--listen", path.clone())?),
        (None, None) => None,
    };
    if let Some(listener) = listener {
        listener.set_nonblocking(true).map_err(DeviceError::Standard)?;
        return Ok(Ends::Socket(listener));
    }
    if args.input_fd.is_none() && args.output_fd.is_none() {
        let input = io::stdin().as_fd().try_clone_to_owned().map_err(DeviceError::Standard)?;
        let output = io::stdout().as_fd().try_clone_to_owned().map_err(DeviceError::Standard)?;
        return Ok(Ends::Files { input: Some(input.into()), output: Some(output.into()) });
    }
    let file = |number: Option<RawFd>| number.map(take).transpose().map(|fd| fd.map(File::from));
    Ok(Ends::Files { input: file(args.input_fd)?, output: file(args.output_fd)? })
}
