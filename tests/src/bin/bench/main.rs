//! Measures what a monitor costs, beside others: what `scripts/bench` runs in the lab.
//!
//! ```text
//! bench boot     [--runs N] [--json FILE] [--only TEXT] [--quick]
//! bench io       [--runs N] [--json FILE] [--only TEXT] [--rows WORD]
//! bench snapshot [--runs N] [--json FILE] [--only TEXT] [--quick]
//! ```
//! [`io`] measures throughput, [`snapshot`] snapshots and restores. For `boot` two guests are booted. *linux* is the Debian kernel with this very program as its `/init`: it says so on the console
//! and powers off (or idles, while memory is looked at). *stub* is a kernel of the same size whose first instructions
//! write one line to the serial port and power off: all time until that line is the monitor's own, and what *linux*
//! takes beyond it is the guest kernel's own boot. No clock of the guest is trusted for that.
//!
//! Times are CLOCK_MONOTONIC of the host from just before the process is started. In the lab under `--icount` they
//! count instructions, of all processors together, so they repeat; work that runs in parallel adds up.

mod contender;
mod guest;
mod io;
mod report;
mod run;
mod snapshot;
mod stub;

use std::path::PathBuf;
use std::process::ExitCode;

use contender::{Contender, Guest, Material};
use report::{Entry, Report};

const USAGE: &str =
    "usage: bench boot|io|snapshot [--runs N] [--json FILE] [--only TEXT] [--rows WORD] [--quick]";

/// What was typed.
struct Options {
    what: String,
    runs: usize,
    json: Option<PathBuf>,
    /// Contenders whose name holds this.
    only: String,
    /// Rows of `io` whose name holds this.
    rows: String,
    /// The stub alone; of snapshots, one small guest.
    quick: bool,
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if std::process::id() == 1 {
        if let Some(rounds) = arguments.iter().find_map(|word| word.strip_prefix("io=")) {
            let rows = arguments.iter().find_map(|word| word.strip_prefix("rows="));
            io::guest::live(rounds.parse().unwrap_or(1), rows.unwrap_or_default());
        }
        if let Some(what) = arguments.iter().find_map(|word| word.strip_prefix("fill=")) {
            snapshot::guest::live(what);
        }
        guest::live(arguments.iter().any(|word| word == "idle"));
    }
    if let Some((_, what)) = arguments.split_first().filter(|(word, _)| *word == "filled") {
        print!("{}", snapshot::guest::filled(what));
        return ExitCode::FAILURE;
    }
    let outcome = options(&arguments).and_then(|options| match options.what.as_str() {
        "boot" => boot(&options),
        "io" => io::run(&options),
        "snapshot" => snapshot::run(options.runs, &options.only, options.quick, options.json.as_deref()),
        _ => Err(USAGE.to_owned()),
    });
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("bench: {why}");
            ExitCode::FAILURE
        }
    }
}

fn options(arguments: &[String]) -> Result<Options, String> {
    let mut words = arguments.iter();
    let what = words.next().ok_or(USAGE)?.clone();
    let mut options =
        Options { what, runs: 3, json: None, only: String::new(), rows: String::new(), quick: false };
    while let Some(word) = words.next() {
        let mut value = || words.next().cloned().ok_or(format!("{word} wants a value"));
        match word.as_str() {
            "--runs" => options.runs = value()?.parse().map_err(|e| format!("--runs: {e}"))?,
            "--json" => options.json = Some(value()?.into()),
            "--only" => options.only = value()?,
            "--rows" => options.rows = value()?,
            "--quick" => options.quick = true,
            other => return Err(format!("{other} is not understood")),
        }
    }
    Ok(options)
}

fn boot(options: &Options) -> Result<(), String> {
    let material = Material::prepare()?;
    let mut report = Report::default();
    for contender in Contender::all(&material)?.iter().filter(|c| c.name.contains(&options.only)) {
        eprintln!("bench: {}", contender.name);
        let entry = measure(contender, &material, options).map_err(|e| format!("{}: {e}", contender.name))?;
        report.entries.push(entry);
    }
    report.print();
    match &options.json {
        Some(path) => report.write(path),
        None => Ok(()),
    }
}

fn measure(contender: &Contender, material: &Material, options: &Options) -> Result<Entry, String> {
    let mut entry = Entry { name: contender.name.clone(), ..Entry::default() };
    for _ in 0..options.runs {
        entry.stub.push(run::to_the_end(contender.command(material, Guest::Stub), stub::MARK)?);
    }
    if contender.has_api {
        for _ in 0..options.runs {
            entry.api.push(run::over_rest(material)?);
        }
    }
    if options.quick {
        return Ok(entry);
    }
    for _ in 0..options.runs {
        entry.linux.push(run::to_the_end(contender.command(material, Guest::Linux), guest::MARK)?);
    }
    entry.memory = run::at_rest(contender.command(material, Guest::Idle), guest::MARK)?;
    Ok(entry)
}
