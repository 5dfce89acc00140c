//! What a monitor was asked to be, checked for form.

use std::os::fd::RawFd;
use std::path::PathBuf;

use granule_api::config::{MteRequest, RestoreConfig, VmConfig};
use granule_jail::SeccompMode;
use granule_jail::deployment::{self, Deployment};

use super::CliError;
use super::grammar::{OptionError, read_as};
use super::{keys, line, typed, vm};

/// How a monitor runs.
#[derive(Clone, Debug)]
pub struct RunOptions {
    /// Where clients connect; without one there is no API.
    pub api_socket: Option<ApiSocket>,
    /// Where events are written.
    pub event_monitor: Option<EventSink>,
    /// The VM that is created and booted at once.
    pub vm: Option<VmConfig>,
    /// The snapshot that is restored at once.
    pub restore: Option<RestoreConfig>,
    /// What the machine process becomes before it does anything.
    pub jail: Deployment,
    /// What a VM that says nothing about memory tagging gets.
    pub mte: MteRequest,
    /// What happens at a system call that is not allowed.
    pub seccomp: SeccompMode,
    /// What is logged, and where.
    pub log: LogOptions,
}

/// The API's socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ApiSocket {
    /// To be made at a path.
    Path(PathBuf),
    /// Inherited, listening already.
    Fd(RawFd),
}

/// Where events are written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EventSink {
    /// A file or FIFO.
    Path(PathBuf),
    /// Inherited.
    Fd(RawFd),
}

/// What is logged, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogOptions {
    /// The least important that is still logged.
    pub level: tracing::Level,
    /// A file; standard error where there is none.
    pub file: Option<PathBuf>,
    /// How a line looks.
    pub format: LogFormat,
}

/// How a line of the log looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object.
    Json,
}

/// Flags that do not go together.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UsageError {
    /// There would be nothing to do.
    #[error("nothing to run: give --api-socket, a VM with --kernel, or --restore")]
    Nothing,
    /// Flags of a VM without the one that makes it one.
    #[error("{0} is given, but no --kernel to run")]
    NoKernel(&'static str),
    /// `--jail`.
    #[error("{0}")]
    Jail(String),
    /// Two VMs.
    #[error("--restore brings its own VM; {0} cannot be given beside it")]
    TwoVms(&'static str),
}

impl RunOptions {
    /// Every descriptor that the command line names, in the order of the fields.
    pub fn inherited_fds(&self) -> Vec<RawFd> {
        let mut fds = Vec::new();
        if let Some(ApiSocket::Fd(fd)) = self.api_socket {
            fds.push(fd);
        }
        if let Some(EventSink::Fd(fd)) = self.event_monitor {
            fds.push(fd);
        }
        fds.extend(self.vm.iter().flat_map(|vm| &vm.net).flat_map(|net| &net.fds));
        fds.extend(self.restore.iter().flat_map(|restore| &restore.net_fds).flat_map(|net| &net.fds));
        fds
    }
}

pub(super) fn options(typed: &typed::Run) -> Result<RunOptions, CliError> {
    let api_socket = typed.api_socket.as_deref().map(line::api_socket).transpose()?;
    let event_monitor = typed.event_monitor.as_deref().map(line::event_sink).transpose()?;
    let vm = vm::config(typed)?;
    let restore =
        typed.restore.as_deref().map(|text| read_as("--restore", text, keys::RESTORE)).transpose()?;
    if let (Some(_), Some(flag)) = (&restore, vm::first_flag(typed)) {
        return Err(UsageError::TwoVms(flag).into());
    }
    let jail = typed.jail.as_deref().map(|text| read_as("--jail", text, keys::JAIL)).transpose()?;
    let jail: Deployment = jail.unwrap_or_default();
    jail.check().map_err(|error: deployment::Error| UsageError::Jail(error.to_string()))?;
    if api_socket.is_none() && vm.is_none() && restore.is_none() {
        return Err(UsageError::Nothing.into());
    }
    Ok(RunOptions {
        api_socket,
        event_monitor,
        vm,
        restore,
        jail,
        mte: mte(&typed.mte)?,
        seccomp: typed.seccomp.parse().map_err(|error| OptionError::new("--seccomp", format!("{error}")))?,
        log: LogOptions {
            level: level(typed.verbose),
            file: typed.log_file.clone(),
            format: log_format(&typed.log_format)?,
        },
    })
}

fn log_format(text: &str) -> Result<LogFormat, OptionError> {
    match text {
        "text" => Ok(LogFormat::Text),
        "json" => Ok(LogFormat::Json),
        _ => Err(OptionError::new("--log-format", format!("`{text}` is not text or json"))),
    }
}

fn mte(text: &str) -> Result<MteRequest, OptionError> {
    match text {
        "on" | "true" => Ok(MteRequest::On),
        "off" | "false" => Ok(MteRequest::Off),
        "auto" => Ok(MteRequest::Auto),
        _ => Err(OptionError::new("--mte", format!("`{text}` is not on, off or auto"))),
    }
}

fn level(verbose: u8) -> tracing::Level {
    match verbose {
        0 => tracing::Level::WARN,
        1 => tracing::Level::INFO,
        2 => tracing::Level::DEBUG,
        _ => tracing::Level::TRACE,
    }
}
