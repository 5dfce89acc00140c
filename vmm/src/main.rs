//! The `granule` binary and its roles.
//!
//! ```text
//!  granule [flags]            machine: the process that a runtime starts   machine/
//!    └─ granule control …     control: the API, opens and spawns           control/
//!         ├─ granule device … one device                                   device
//!         └─ granule mover … one move of guest memory                      mover
//!  granule ctl …              a client of a running one                    cli/ctl
//!  granule snapshot …         snapshots, offline                          snapshot
//!  granule probe              what this host can do                        probe
//! ```

mod cli;
mod control;
mod device;
mod image;
mod machine;
mod mover;
mod probe;
mod report;
mod snapshot;
mod tap;
mod throttle;
mod wire;

use std::error::Error;
use std::ffi::OsString;
use std::process::ExitCode;

use clap::Parser;
use cli::{Invocation, RunOptions};

/// Exit code of a command line that cannot be understood, as clap and the shell have it.
const USAGE: u8 = 2;

fn main() -> ExitCode {
    if let Err(error) = granule_jail::prepare_process() {
        return report::fatal(&error);
    }
    let arguments: Vec<OsString> = std::env::args_os().collect();
    match arguments.get(1).and_then(|role| role.to_str()) {
        Some("control") => control(&arguments),
        Some("device") => device(&arguments),
        Some("mover") => mover(&arguments),
        Some("snapshot") => snapshot(&arguments),
        _ => person(&arguments),
    }
}

/// What a person, a script or a container runtime types.
fn person(arguments: &[OsString]) -> ExitCode {
    match cli::parse(arguments.iter().cloned()) {
        Err(error) => {
            eprintln!("{}", error.to_string().trim_end());
            ExitCode::from(USAGE)
        }
        Ok(Invocation::Print(text)) => {
            print!("{text}");
            ExitCode::SUCCESS
        }
        Ok(Invocation::Ctl(options)) => cli::ctl::run(options),
        Ok(Invocation::Probe { json }) => ended(probe::run(json)),
        Ok(Invocation::Run(options)) => {
            // First of all: every path from here on is one inside of it.
            if let Err(error) = options.jail.enter() {
                return report::fatal(&error);
            }
            if let Err(error) = report::start(&options.log) {
                return report::fatal(&error);
            }
            ended(machine::run(&arguments[1..], &options.inherited_fds(), options.seccomp))
        }
    }
}

/// `granule control NUMBERS FLAGS…`, started by the machine process.
fn control(arguments: &[OsString]) -> ExitCode {
    let numbers = arguments.get(2).and_then(|numbers| numbers.to_str()).unwrap_or("-");
    let (channel, inherited) = match control::Inherited::take_all(numbers) {
        Ok(taken) => taken,
        Err(error) => return report::fatal(&error),
    };
    match options_of_control(arguments) {
        Ok(options) => ended(control::run(options, channel, inherited)),
        Err(error) => report::fatal(&*error),
    }
}

fn options_of_control(arguments: &[OsString]) -> Result<RunOptions, Box<dyn Error>> {
    let typed = arguments[..1].iter().chain(&arguments[3..]).cloned();
    let Invocation::Run(options) = cli::parse(typed)? else {
        return Err("control is started by granule itself, not by hand".into());
    };
    report::start(&options.log)?;
    Ok(*options)
}

#[derive(Debug, Parser)]
#[command(name = "granule device", about = "Serve one virtio device over vhost-user, in a jail of its own")]
struct Device {
    #[command(flatten)]
    args: device::DeviceArgs,
}

/// `granule device KIND …`, started by control or by a person.
fn device(arguments: &[OsString]) -> ExitCode {
    parsed(arguments, |Device { args }| ended(device::run(args)))
}

#[derive(Debug, Parser)]
#[command(name = "granule mover", about = "Move guest memory, in a jail of its own", hide = true)]
struct Mover {
    #[command(flatten)]
    args: mover::MoverArgs,
}

/// `granule mover …`, started by control.
fn mover(arguments: &[OsString]) -> ExitCode {
    parsed(arguments, |Mover { args }| ended(mover::run(&args)))
}

#[derive(Debug, Parser)]
#[command(name = "granule snapshot", about = "Look at, check and merge snapshots")]
struct Snapshot {
    #[command(flatten)]
    args: snapshot::SnapshotArgs,
}

/// `granule snapshot inspect|verify|merge …`.
fn snapshot(arguments: &[OsString]) -> ExitCode {
    parsed(arguments, |Snapshot { args }| match snapshot::run(args) {
        Ok(code) => code,
        Err(error) => report::fatal(&*error),
    })
}

/// Runs a role that clap reads the arguments of.
fn parsed<T: Parser>(arguments: &[OsString], run: impl FnOnce(T) -> ExitCode) -> ExitCode {
    match T::try_parse_from(&arguments[1..]) {
        Ok(typed) => run(typed),
        Err(error) if error.use_stderr() => {
            eprintln!("{error}");
            ExitCode::from(USAGE)
        }
        Err(help) => {
            print!("{help}");
            ExitCode::SUCCESS
        }
    }
}

fn ended<E: Error + 'static>(result: Result<ExitCode, E>) -> ExitCode {
    result.unwrap_or_else(|error| report::fatal(&error))
}
