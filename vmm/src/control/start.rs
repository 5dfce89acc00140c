//! From `main` to the driver's loop, and the way out.

use std::io;
use std::os::fd::{OwnedFd, RawFd};
use std::process::ExitCode;

use granule_api::config::{PASSED_FD, RestoreConfig, VmConfig};
use granule_api::server::{self, ListenError, Listener, ServerLimits};
use granule_jail::JailKind;
use tokio::sync::{mpsc, watch};

use super::children::Children;
use super::create::Defaults;
use super::driver::{Driver, End, Parts};
use super::events::EventMonitor;
use super::inherited::Inherited;
use super::link::MachineLink;
use super::vm::PassedFds;
use crate::cli::{ApiSocket, EventSink, RunOptions};
use crate::wire::Channel;

/// Requests that may wait for the driver before connections are made to wait.
const REQUEST_BACKLOG: usize = 64;

/// Why `control` could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The event monitor's file.
    #[error("--event-monitor: cannot write events")]
    Events(#[source] io::Error),
    /// The API's socket.
    #[error("--api-socket")]
    Api(#[source] ListenError),
    /// A descriptor that the command line names did not come with the process.
    #[error("descriptor {0} named on the command line is not open, or is named twice")]
    Descriptor(RawFd),
    /// The asynchronous runtime or a socket of our own.
    #[error("cannot prepare the control process")]
    Prepare(#[source] io::Error),
    /// The jail.
    #[error("cannot enter the control process's jail; --seccomp false leaves the filter out")]
    Jail(#[source] granule_jail::Error),
}

/// Runs the control role to its end. `channel` is the inherited socket to `machine`; `inherited` are the descriptors that
/// the command line names, under the numbers that it names them by.
pub fn run(options: RunOptions, channel: OwnedFd, mut inherited: Inherited) -> Result<ExitCode, StartError> {
    let _ = granule_jail::enter(JailKind::Control, options.seccomp).map_err(StartError::Jail)?;
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(StartError::Prepare)?;
    runtime.block_on(serve(options, Channel::from_fd(channel), &mut inherited))
}

async fn serve(
    options: RunOptions,
    channel: Channel,
    inherited: &mut Inherited,
) -> Result<ExitCode, StartError> {
    let link = MachineLink::new(channel).map_err(StartError::Prepare)?;
    let events = event_monitor(options.event_monitor, inherited)?;
    let (request_sender, requests) = mpsc::channel(REQUEST_BACKLOG);
    let (stop, stopped) = watch::channel(false);
    let server = match options.api_socket {
        None => None,
        Some(socket) => {
            let listener = listen(socket, inherited)?;
            Some(tokio::spawn(server::serve(listener, request_sender, ServerLimits::default(), stopped)))
        }
    };
    let (post, inbox) = mpsc::unbounded_channel();
    let children = Children::new(options.seccomp, post.clone()).map_err(StartError::Prepare)?;
    let mut driver = Driver::new(Parts {
        link,
        requests,
        inbox,
        post,
        events,
        children,
        defaults: Defaults::new(options.mte),
    });
    if let Some(mut config) = options.vm {
        let passed = taps(&mut config, inherited)?;
        driver.boot_from_command_line(config, passed);
    }
    if let Some(mut restore) = options.restore {
        let taps = restored_taps(&mut restore, inherited)?;
        driver.restore_from_command_line(&restore, taps);
    }
    let end = driver.run().await;
    drop(stop);
    if let Some(server) = server {
        // Removes the socket; answers already given are still written out. A panic in it has aborted the process.
        let _ = server.await;
    }
    Ok(match end {
        End::Orderly(code) => {
            driver.finish(code);
            ExitCode::from(code)
        }
        End::MachineLost => ExitCode::FAILURE,
    })
}

/// The taps that a restore names by number, in their order, as a client would pass them.
fn restored_taps(restore: &mut RestoreConfig, inherited: &mut Inherited) -> Result<Vec<OwnedFd>, StartError> {
    let mut taps = Vec::new();
    for net in &mut restore.net_fds {
        net.num_fds = net.fds.len();
        for number in net.fds.drain(..) {
            taps.push(inherited.take(number).ok_or(StartError::Descriptor(number))?);
        }
    }
    Ok(taps)
}

/// The taps that the command line names by number, under the names of their interfaces.
fn taps(config: &mut VmConfig, inherited: &mut Inherited) -> Result<PassedFds, StartError> {
    let mut passed = PassedFds::new();
    for (index, net) in config.net.iter_mut().enumerate().filter(|(_, net)| !net.fds.is_empty()) {
        let take = |number: &mut RawFd| {
            let number = std::mem::replace(number, PASSED_FD);
            inherited.take(number).ok_or(StartError::Descriptor(number))
        };
        let fds = net.fds.iter_mut().map(take).collect::<Result<_, _>>()?;
        passed.insert(net.id.get_or_insert_with(|| format!("_net{index}")).clone(), fds);
    }
    Ok(passed)
}

fn event_monitor(sink: Option<EventSink>, inherited: &mut Inherited) -> Result<EventMonitor, StartError> {
    match sink {
        None => Ok(EventMonitor::silent()),
        Some(EventSink::Path(path)) => EventMonitor::to_path(&path).map_err(StartError::Events),
        Some(EventSink::Fd(number)) => {
            let fd = inherited.take(number).ok_or(StartError::Descriptor(number))?;
            EventMonitor::to_fd(fd).map_err(StartError::Events)
        }
    }
}

fn listen(socket: ApiSocket, inherited: &mut Inherited) -> Result<Listener, StartError> {
    match socket {
        ApiSocket::Path(path) => Listener::bind(&path).map_err(StartError::Api),
        ApiSocket::Fd(number) => {
            let fd = inherited.take(number).ok_or(StartError::Descriptor(number))?;
            Listener::from_fd(fd).map_err(StartError::Api)
        }
    }
}
