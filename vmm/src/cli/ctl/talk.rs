//! Makes the call, prints what comes back.

use std::error::Error;
use std::io::{self, Write};
use std::os::fd::{BorrowedFd, OwnedFd, RawFd};
use std::process::ExitCode;

use granule_api::client::{Client, ClientError, Response};

use super::Options;
use super::bar::Bar;

/// The monitor said no.
const REFUSED: u8 = 1;

/// There is no monitor, or the call could not be made.
const UNREACHABLE: u8 = 2;

/// Makes the call; returns the process's exit code.
pub fn run(options: Options) -> ExitCode {
    match call(options) {
        Ok(response) => report(&response),
        Err(error) => {
            complain(&*error);
            ExitCode::from(UNREACHABLE)
        }
    }
}

fn call(options: Options) -> Result<Response, Box<dyn Error>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let fds = options.fds.into_iter().map(copy).collect::<Result<Vec<_>, _>>()?;
    let body = options.body.read().map_err(|error| format!("the body cannot be read: {error}"))?;
    let response: Result<Response, ClientError> = runtime.block_on(async {
        let mut client = Client::connect(&options.socket).await?;
        let mut bar = Bar::of(&options.endpoint, &options.socket).await;
        let mut asked = std::pin::pin!(client.request(options.method, &options.endpoint, body, fds));
        let answer = loop {
            tokio::select! {
                answer = &mut asked => break answer,
                () = bar.step() => {}
            }
        };
        bar.clear();
        answer
    });
    Ok(response?)
}

/// Takes a copy of a descriptor that the command line names.
fn copy(number: RawFd) -> Result<OwnedFd, String> {
    let not_open = || format!("file descriptor {number} is not open here");
    if number < 0 {
        return Err(not_open());
    }
    // SAFETY: not -1; borrowed for the call only, which fails if the number is not that of an open descriptor.
    let inherited = unsafe { BorrowedFd::borrow_raw(number) };
    inherited.try_clone_to_owned().map_err(|_| not_open())
}

fn report(response: &Response) -> ExitCode {
    if let Some(causes) = response.causes() {
        let mut causes = causes.iter();
        eprintln!("granule: {}", causes.next().map_or("refused without a reason", String::as_str));
        for cause in causes {
            eprintln!("  {cause}");
        }
        return ExitCode::from(REFUSED);
    }
    match print(&response.body) {
        // Nobody reads any more, as behind `| head`.
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            complain(&error);
            ExitCode::from(UNREACHABLE)
        }
        _ => ExitCode::SUCCESS,
    }
}

/// Prints JSON for people, anything else as it is.
fn print(body: &[u8]) -> io::Result<()> {
    if body.is_empty() {
        return Ok(());
    }
    let mut out = io::stdout().lock();
    match serde_json::from_slice::<serde_json::Value>(body) {
        Ok(value) => {
            serde_json::to_writer_pretty(&mut out, &value)?;
            writeln!(out)
        }
        Err(_) => out.write_all(body),
    }
}

fn complain(error: &dyn Error) {
    eprintln!("granule: {error}");
    let mut source = error.source();
    while let Some(error) = source {
        eprintln!("  {error}");
        source = error.source();
    }
}
