//! The host's end of the virtio console: opened here, used by the console's process alone.
//!
//! ```text
//!  Tty     our standard input and output, opened anew where that is possible, so that nobody else is told not to wait
//!  Pty     a new pseudo-terminal; we keep its second side open, so that the first does not hang up while nobody looks
//!  File    created or truncated             Socket  the listening socket itself: the process accepts
//! ```
//! The size of a terminal is watched here: the kernel tells a change to the terminal's own processes, and the console's
//! process can be told by us alone.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::time::Duration;

use granule_api::config::Output;
use granule_devices::console::Window;
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::devices::Argument;
use super::driver::Event;
use super::files::{self, FileError};
use super::serial_end::open_pty;

/// How often the size of a pseudo-terminal is looked at: nobody tells us when a stranger changes it.
const LOOK: Duration = Duration::from_secs(1);

/// Why the host's end could not be made.
#[derive(Debug, thiserror::Error)]
pub enum ConsoleError {
    /// The file of mode File.
    #[error(transparent)]
    File(#[from] FileError),
    /// A terminal.
    #[error("console: cannot use {what}")]
    Terminal {
        /// Which.
        what: &'static str,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// The socket of mode Socket.
    #[error("console.socket: cannot listen on {path:?}")]
    Socket {
        /// Path as given.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
}

/// What the console's process is started with, and what stays here.
#[derive(Debug)]
pub struct Opened {
    /// Arguments of its process.
    pub arguments: Vec<Argument>,
    /// What is kept while it lives.
    pub end: ConsoleEnd,
    /// The path of a pseudo-terminal, for `vm.info`.
    pub pty: Option<PathBuf>,
}

/// What is kept of a console: dropped, it gives back the terminal and removes the socket.
#[derive(Debug, Default)]
pub struct ConsoleEnd {
    terminal: Option<(OwnedFd, Termios)>,
    socket: Option<PathBuf>,
    watcher: Option<JoinHandle<()>>,
}

impl Drop for ConsoleEnd {
    fn drop(&mut self) {
        if let Some(watcher) = &self.watcher {
            watcher.abort();
        }
        if let Some((terminal, before)) = &self.terminal {
            // Whoever took the terminal away has it in another state anyway.
            let _ = tcsetattr(terminal, OptionalActions::Now, before);
        }
        if let Some(Err(error)) = self.socket.as_ref().map(std::fs::remove_file) {
            tracing::warn!(path = ?self.socket, %error, "the console's socket could not be removed");
        }
    }
}

/// Opens the end that is configured; `None` where there is no console.
pub fn open(output: &Output, post: &mpsc::UnboundedSender<Event>) -> Result<Option<Opened>, ConsoleError> {
    let text = |word: &str| Argument::Text(word.to_owned());
    let end = ConsoleEnd::default();
    Ok(Some(match output {
        Output::Off => return Ok(None),
        Output::Null => Opened { arguments: vec![text("--null")], end, pty: None },
        Output::File(path) => {
            let file = files::create_output("console.file", path)?;
            // Opened by us alone; a FIFO whose reader sleeps must not stop the guest's other queues.
            let failed = |errno: rustix::io::Errno| ConsoleError::Terminal {
                what: "the file without waiting for it",
                source: errno.into(),
            };
            rustix::io::ioctl_fionbio(&file, true).map_err(failed)?;
            Opened { arguments: vec![Argument::file("--output-fd", file)], end, pty: None }
        }
        Output::Socket(path) => socket(path)?,
        Output::Pty => {
            pty(post).map_err(|source| ConsoleError::Terminal { what: "a new pseudo-terminal", source })?
        }
        Output::Tty => standard(post)
            .map_err(|source| ConsoleError::Terminal { what: "standard input and output", source })?,
    }))
}

fn socket(path: &Path) -> Result<Opened, ConsoleError> {
    let failed = |source| ConsoleError::Socket { path: path.into(), source };
    let listener = UnixListener::bind(path).map_err(failed)?;
    let end = ConsoleEnd { socket: Some(path.into()), terminal: None, watcher: None };
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o700)).map_err(failed)?;
    listener.set_nonblocking(true).map_err(failed)?;
    Ok(Opened { arguments: vec![Argument::Fd("--listener-fd", listener.into())], end, pty: None })
}

fn pty(post: &mpsc::UnboundedSender<Event>) -> io::Result<Opened> {
    let (ours, second, path) = open_pty()?;
    rustix::io::ioctl_fionbio(&ours, true)?;
    let post = post.clone();
    let watcher = tokio::spawn(async move {
        let mut last = window(second.as_fd());
        loop {
            tokio::time::sleep(LOOK).await;
            let now = window(second.as_fd());
            if now != last && post.send(Event::ConsoleResized(now)).is_err() {
                return;
            }
            last = now;
        }
    });
    let arguments = vec![Argument::Fd("--input-fd", ours.try_clone()?), Argument::Fd("--output-fd", ours)];
    let end = ConsoleEnd { watcher: Some(watcher), terminal: None, socket: None };
    Ok(Opened { arguments, end, pty: Some(path) })
}

fn standard(post: &mpsc::UnboundedSender<Event>) -> io::Result<Opened> {
    let (input, output) = (io::stdin(), io::stdout());
    let mut arguments = vec![
        Argument::Fd("--input-fd", input.as_fd().try_clone_to_owned()?),
        Argument::file("--output-fd", unshared(output.as_fd())?),
    ];
    let mut end = ConsoleEnd::default();
    if let Ok(before) = tcgetattr(&input) {
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(&input, OptionalActions::Now, &raw)?;
        end.terminal = Some((input.as_fd().try_clone_to_owned()?, before));
    }
    let Window { columns, rows } = window(output.as_fd());
    for (flag, number) in [("--columns", columns), ("--rows", rows)] {
        arguments.extend([Argument::Text(flag.to_owned()), Argument::Text(number.to_string())]);
    }
    if tcgetattr(&output).is_ok() {
        let mut resized = signal(SignalKind::window_change())?;
        let post = post.clone();
        end.watcher = Some(tokio::spawn(async move {
            while resized.recv().await.is_some() {
                if post.send(Event::ConsoleResized(window(io::stdout().as_fd()))).is_err() {
                    return;
                }
            }
        }));
    }
    Ok(Opened { arguments, end, pty: None })
}

/// The same output with flags of its own: the shell that started us shares ours, and would be told not to wait.
///
/// A regular file makes nobody wait, and opened anew it would begin at its start; a socket cannot be opened at all.
fn unshared(output: BorrowedFd<'_>) -> io::Result<File> {
    let same = File::from(output.try_clone_to_owned()?);
    let kind = same.metadata()?.file_type();
    if !(kind.is_char_device() || kind.is_fifo()) {
        return Ok(same);
    }
    let flags = libc::O_NONBLOCK | libc::O_NOCTTY | libc::O_CLOEXEC;
    let anew = OpenOptions::new().write(true).custom_flags(flags).open("/proc/self/fd/1");
    // What may not be opened again can still be written to.
    Ok(anew.unwrap_or(same))
}

/// The size of a terminal; 0 × 0 of what is none.
fn window(terminal: BorrowedFd<'_>) -> Window {
    let size = tcgetwinsize(terminal);
    size.map_or(Window::default(), |size| Window { columns: size.ws_col, rows: size.ws_row })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(test: impl FnOnce(&mpsc::UnboundedSender<Event>)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let _inside = runtime.enter();
        test(&mpsc::unbounded_channel().0);
    }

    #[test]
    fn each_mode_opens_what_its_process_needs() {
        run(|post| {
            let flags = |output: &Output| {
                let opened = open(output, post).unwrap();
                opened.map(|opened| {
                    let flags = opened.arguments.iter().map(|argument| match argument {
                        Argument::Text(text) => text.clone(),
                        Argument::Fd(flag, _) => (*flag).to_owned(),
                        Argument::Kept(_) => String::new(),
                    });
                    (flags.collect::<Vec<_>>(), opened.pty.is_some())
                })
            };
            assert_eq!(flags(&Output::Off), None);
            assert_eq!(flags(&Output::Null), Some((vec!["--null".to_owned()], false)));
            let both = vec!["--input-fd".to_owned(), "--output-fd".to_owned()];
            assert_eq!(flags(&Output::Pty), Some((both, true)));
            let path = std::env::temp_dir().join(format!("granule-console-{}", std::process::id()));
            assert_eq!(flags(&Output::Socket(path.clone())).unwrap().0, ["--listener-fd"]);
            assert!(!path.exists(), "the socket goes with its end");
            assert_eq!(flags(&Output::File(path.clone())).unwrap().0, ["--output-fd"]);
            std::fs::remove_file(path).unwrap();
        });
    }

    #[test]
    fn a_socket_that_cannot_be_bound_names_its_field() {
        run(|post| {
            let error = open(&Output::Socket("/no/such/folder/s".into()), post).unwrap_err();
            assert_eq!(error.to_string(), r#"console.socket: cannot listen on "/no/such/folder/s""#);
        });
    }
}
