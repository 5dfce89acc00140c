//! Where messages for people go: the log, and the last words of a process that cannot go on.

use std::error::Error;
use std::fs::OpenOptions;
use std::io;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Mutex;

use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use crate::cli::LogOptions;
use crate::throttle::Throttle;

/// The log's file cannot be written.
#[derive(Debug, thiserror::Error)]
#[error("--log-file: cannot write to {path:?}")]
pub struct LogError {
    path: PathBuf,
    #[source]
    source: io::Error,
}

/// Starts the log of this process: one line per event, without colours, since runtimes read it line by line.
pub fn start(options: &LogOptions) -> Result<(), LogError> {
    let builder =
        tracing_subscriber::fmt().with_max_level(LevelFilter::from_level(options.level)).with_ansi(false);
    // A guest has a say in how often some lines are written.
    let throttle = Throttle::default();
    match &options.file {
        None => builder.with_writer(io::stderr).finish().with(throttle).init(),
        Some(path) => {
            let file = OpenOptions::new().append(true).create(true).open(path);
            let file = file.map_err(|source| LogError { path: path.clone(), source })?;
            builder.with_writer(Mutex::new(file)).finish().with(throttle).init();
        }
    }
    Ok(())
}

/// Says why, every cause on the same line, and answers the exit code of a failure.
pub fn fatal(error: &(dyn Error + 'static)) -> ExitCode {
    let causes = crate::wire::Failure::from_source(error).causes;
    eprintln!("granule: {}", causes.join(": "));
    ExitCode::FAILURE
}
