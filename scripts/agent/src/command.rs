//! The command that the lab asks for: from the start frame to a running child.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus, Stdio};

/// Why no child came of a start frame.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The frame's strings do not add up.
    #[error("the start frame is malformed")]
    Malformed,
    /// The kernel refused to start the program.
    #[error("{}", program.display())]
    Spawn {
        /// The program as it was asked for.
        program: OsString,
        /// The kernel's answer.
        source: io::Error,
    },
}

impl StartError {
    /// The exit status that a shell would give: 127 for a program that is not there, else 126.
    pub fn status(&self) -> i32 {
        match self {
            Self::Spawn { source, .. } if source.kind() == io::ErrorKind::NotFound => 127,
            _ => 126,
        }
    }
}

/// Reads a start frame's payload and starts the command with all three streams piped.
///
/// # Errors
/// [`StartError`] says which half failed.
pub fn start(payload: &[u8]) -> Result<Child, StartError> {
    let mut command = parse(payload).ok_or(StartError::Malformed)?;
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.process_group(0);
    command.spawn().map_err(|source| StartError::Spawn { program: command.get_program().into(), source })
}

fn parse(payload: &[u8]) -> Option<Command> {
    let text = payload.strip_suffix(b"\0")?;
    let mut strings = text.split(|byte| *byte == 0).map(OsStr::from_bytes);
    let cwd = strings.next()?;
    let program = strings.next()?;
    let count: usize = strings.next()?.to_str()?.parse().ok()?;
    let mut command = Command::new(program);
    command.current_dir(cwd).env_clear();
    for _ in 0..count {
        command.arg(strings.next()?);
    }
    for setting in strings {
        let bytes = setting.as_bytes();
        let equals = bytes.iter().position(|byte| *byte == b'=')?;
        command.env(OsString::from_vec(bytes[..equals].to_vec()), OsStr::from_bytes(&bytes[equals + 1..]));
    }
    Some(command)
}

/// The one number that stands for an ended command: its code, or 128 plus the signal that killed it.
pub fn shell_status(status: ExitStatus) -> i32 {
    status.code().or_else(|| status.signal().map(|signal| 128 + signal)).unwrap_or(126)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    fn output(payload: &[u8]) -> (String, i32) {
        let mut child = start(payload).unwrap();
        let mut text = String::new();
        child.stdout.take().unwrap().read_to_string(&mut text).unwrap();
        (text, shell_status(child.wait().unwrap()))
    }

    #[test]
    fn directory_arguments_and_environment_reach_the_command() {
        let payload = b"/\0/bin/sh\x004\0-c\0pwd; echo \"$1\" $A; exit 7\0sh\0x  y\0A=b=c\0";
        assert_eq!(output(payload), ("/\nx  y b=c\n".to_owned(), 7));
    }

    #[test]
    fn a_command_killed_by_a_signal_ends_with_128_plus_its_number() {
        assert_eq!(output(b"/\0/bin/sh\x002\0-c\0kill -TERM $$\0").1, 128 + 15);
    }

    #[test]
    fn a_missing_program_is_127() {
        assert_eq!(start(b"/\0/no/such\x000\0").unwrap_err().status(), 127);
    }

    #[test]
    fn a_frame_that_promises_more_arguments_than_it_has_is_refused() {
        assert!(matches!(start(b"/\0/bin/true\x003\0-c\0"), Err(StartError::Malformed)));
        assert!(matches!(start(b""), Err(StartError::Malformed)));
    }
}
