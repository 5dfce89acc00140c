//! Serial line and console: where the text goes.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::error::{ConfigError, Fault};
use super::machine::{path, socket_path};
use crate::config::{ConsoleConfig, Mode, SerialConfig};

/// Where a line's text goes, with what that needs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Output {
    /// The device is not there.
    Off,
    /// The device is there, the text is thrown away.
    Null,
    /// Standard output and input of the process.
    Tty,
    /// A new pseudo-terminal.
    Pty,
    /// A file, written only.
    File(PathBuf),
    /// A Unix socket that is listened on here.
    Socket(PathBuf),
}

pub(super) fn serial(raw: &SerialConfig) -> Result<Output, ConfigError> {
    output("serial", raw.mode, raw.file.as_deref(), raw.socket.as_deref())
}

pub(super) fn console(raw: &ConsoleConfig) -> Result<Output, ConfigError> {
    output("console", raw.mode, raw.file.as_deref(), raw.socket.as_deref())
}

/// Refuses two lines to one terminal: neither would be readable, and each key typed would go to either.
pub(super) fn at_odds(serial: &Output, console: &Output) -> Result<(), ConfigError> {
    if (serial, console) != (&Output::Tty, &Output::Tty) {
        return Ok(());
    }
    let text = "the serial line has the terminal already; one of the two modes must not be Tty";
    Err(ConfigError::new("console.mode", Fault::Contradiction(text.to_owned())))
}

fn output(line: &str, mode: Mode, file: Option<&Path>, socket: Option<&Path>) -> Result<Output, ConfigError> {
    Ok(match mode {
        Mode::Off => Output::Off,
        Mode::Null => Output::Null,
        Mode::Tty => Output::Tty,
        Mode::Pty => Output::Pty,
        Mode::File => {
            let field = format!("{line}.file");
            let file = file.ok_or_else(|| ConfigError::new(&field, Fault::Missing("mode File needs it")))?;
            Output::File(path(&field, file)?)
        }
        Mode::Socket => {
            let field = format!("{line}.socket");
            let socket =
                socket.ok_or_else(|| ConfigError::new(&field, Fault::Missing("mode Socket needs it")))?;
            Output::Socket(socket_path(&field, socket)?)
        }
    })
}
