//! Where messages for people go: the log, and the last words of a process that cannot go on.

use std::error::Error;
use std::fs::OpenOptions;
use std::io;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Mutex;

use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::fmt::writer::BoxMakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, Registry};

use crate::cli::{LogFormat, LogOptions};
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
    let writer = match &options.file {
        None => BoxMakeWriter::new(io::stderr),
        Some(path) => {
            let file = OpenOptions::new().append(true).create(true).open(path);
            BoxMakeWriter::new(Mutex::new(file.map_err(|source| LogError { path: path.clone(), source })?))
        }
    };
    tracing_subscriber::registry()
        .with(lines(options.format, writer))
        .with(LevelFilter::from_level(options.level))
        // A guest has a say in how often some lines are written.
        .with(Throttle::default())
        .init();
    Ok(())
}

/// Writes an event as a line.
fn lines(format: LogFormat, writer: BoxMakeWriter) -> Box<dyn Layer<Registry> + Send + Sync> {
    let layer = tracing_subscriber::fmt::layer().with_ansi(false).with_writer(writer);
    match format {
        LogFormat::Text => layer.boxed(),
        LogFormat::Json => layer.json().flatten_event(true).boxed(),
    }
}

/// Says why, every cause on the same line, and answers the exit code of a failure.
pub fn fatal(error: &(dyn Error + 'static)) -> ExitCode {
    let causes = crate::wire::Failure::from_source(error).causes;
    eprintln!("granule: {}", causes.join(": "));
    ExitCode::FAILURE
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, PoisonError};

    use super::*;

    /// What one event looks like.
    fn written(format: LogFormat) -> String {
        let file = Arc::new(Mutex::new(Vec::new()));
        let sink = Arc::clone(&file);
        let writer = BoxMakeWriter::new(move || Sink(Arc::clone(&sink)));
        let subscriber = tracing_subscriber::registry().with(lines(format, writer));
        tracing::subscriber::with_default(subscriber, || tracing::warn!(id = "_disk0", "a line\nof two"));
        String::from_utf8(file.lock().unwrap_or_else(PoisonError::into_inner).clone()).unwrap()
    }

    struct Sink(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_line_of_json_is_one_object_with_the_fields_beside_the_message() {
        let line = written(LogFormat::Json);
        assert_eq!(line.lines().count(), 1, "{line}");
        let object: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!((&object["level"], &object["id"]), (&"WARN".into(), &"_disk0".into()), "{line}");
        assert_eq!(object["message"], "a line\nof two");
    }

    #[test]
    fn a_line_of_text_names_level_message_and_fields() {
        let line = written(LogFormat::Text);
        assert!(line.contains("WARN") && line.contains("a line") && line.contains("id=\"_disk0\""), "{line}");
    }
}
