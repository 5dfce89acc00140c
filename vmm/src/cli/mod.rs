//! The command line.
//!
//! ```text
//!  argv ──► Typed (typed.rs: what was typed, all text) ──► Invocation (what was meant, checked for form)
//!             │ --disk path=a,readonly=on                    ├─ Run(RunOptions)   run.rs
//!             └─► grammar.rs + keys.rs ─► JSON ─► the API's  ├─ Ctl(ctl::Options) ctl/
//!                 own configuration types, their defaults    └─ Probe, or text to print (help, version)
//! ```
//!
//! The flags and their grammar are Cloud Hypervisor's: `key=value,key=[a,b],key=on|off`, sizes with K, M, G or T. What
//! each flag's keys mean is a table ([`keys`]) that leads to the fields of the JSON that `vm.create` takes, so that a
//! VM from flags and one from the API are read by the same code and get the same defaults. Whether this host can run
//! it is not asked here.

pub mod ctl;
mod grammar;
mod help;
mod keys;
mod line;
mod run;
#[cfg(test)]
mod tests;
mod typed;
mod version;
mod vm;

use std::ffi::OsString;

use clap::Parser;

pub use grammar::OptionError;
use run::UsageError;
pub use run::{ApiSocket, EventSink, LogFormat, LogOptions, RunOptions};
use typed::{Command, Typed};

/// What the command line asks for.
#[derive(Debug)]
pub enum Invocation {
    /// To be a monitor.
    Run(Box<RunOptions>),
    /// To drive one that runs.
    Ctl(ctl::Options),
    /// To tell what this host can do.
    Probe {
        /// As JSON rather than as a table.
        json: bool,
    },
    /// To print a text (help or version) and end well.
    Print(String),
}

/// The command line is not one.
#[derive(Debug, thiserror::Error)]
pub enum CliError {
    /// No such flag, or one that lacks its value; the text is ready to be printed.
    #[error("{0}")]
    Syntax(String),
    /// An option's keys or values.
    #[error(transparent)]
    Option(#[from] OptionError),
    /// Flags that do not go together.
    #[error(transparent)]
    Usage(#[from] UsageError),
}

/// Reads a whole command line, the program's own name first.
pub fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Invocation, CliError> {
    let args: Vec<OsString> = args.into_iter().collect();
    let typed = match Typed::try_parse_from(&args) {
        Ok(typed) => typed,
        Err(error) if error.use_stderr() => return Err(CliError::Syntax(error.to_string())),
        Err(help) => return Ok(Invocation::Print(help.to_string())),
    };
    if typed.version {
        return Ok(Invocation::Print(version::text(args.first().map(OsString::as_os_str))));
    }
    match typed.command {
        None => Ok(Invocation::Run(Box::new(run::options(&typed.run)?))),
        Some(Command::Ctl(ctl)) => Ok(Invocation::Ctl(ctl::options(ctl)?)),
        Some(Command::Probe { json }) => Ok(Invocation::Probe { json }),
        Some(Command::Completions { shell }) => Ok(Invocation::Print(help::completions(shell))),
        Some(Command::Man) => Ok(Invocation::Print(help::manual())),
    }
}
