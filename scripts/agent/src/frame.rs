//! The frames that the agent and `scripts/lab` exchange over one virtio port.
//!
//! ```text
//! frame = kind (1 byte) · payload length (4 bytes, little endian) · payload
//!
//! lab → agent   S  start: strings, each ended by NUL: cwd, program, number of arguments, arguments…, NAME=VALUE…
//!               I  stdin; an empty payload is the end of file
//!               P  asks for a report on every process
//! agent → lab   H  the agent is up
//!               O  stdout     E  stderr     R  report, text
//!               F  the command could not be started: exit status (4 bytes, little endian), reason
//!               X  the command has ended: exit status (4 bytes, little endian); always the last frame
//! ```
//! One port for everything, because only then is the end of the output known to precede the exit status.

use std::io::{self, Read, Write};

/// The longest payload that either side sends; a longer one means that the stream is out of step.
pub const MAX_PAYLOAD: usize = 1 << 20;

/// What a frame says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// Start a command.
    Start = b'S',
    /// Bytes for the command's standard input.
    Stdin = b'I',
    /// Report on every process.
    Inspect = b'P',
    /// The agent is up.
    Hello = b'H',
    /// Bytes of the command's standard output.
    Stdout = b'O',
    /// Bytes of the command's standard error.
    Stderr = b'E',
    /// The answer to [`Kind::Inspect`].
    Report = b'R',
    /// The command could not be started.
    Failed = b'F',
    /// The command has ended.
    Exit = b'X',
}

impl Kind {
    fn from_wire(byte: u8) -> Option<Self> {
        [Self::Start, Self::Stdin, Self::Inspect].into_iter().find(|kind| *kind as u8 == byte)
    }
}

/// Writes one frame.
///
/// # Errors
/// What the port's write gave, or `InvalidInput` for a payload longer than [`MAX_PAYLOAD`].
pub fn write(port: &mut impl Write, kind: Kind, payload: &[u8]) -> io::Result<()> {
    let length = u32::try_from(payload.len())
        .ok()
        .filter(|_| payload.len() <= MAX_PAYLOAD)
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "payload too long for a frame"))?;
    let mut frame = Vec::with_capacity(5 + payload.len());
    frame.push(kind as u8);
    frame.extend_from_slice(&length.to_le_bytes());
    frame.extend_from_slice(payload);
    port.write_all(&frame)
}

/// Reads one frame of those that the lab sends.
///
/// # Errors
/// What the port's read gave, or `InvalidData` when the stream is out of step.
pub fn read(port: &mut impl Read) -> io::Result<(Kind, Vec<u8>)> {
    let mut header = [0; 5];
    port.read_exact(&mut header)?;
    let [kind, length @ ..] = header;
    let length = usize::try_from(u32::from_le_bytes(length)).unwrap_or(usize::MAX);
    let kind = Kind::from_wire(kind)
        .filter(|_| length <= MAX_PAYLOAD)
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "not a frame of the lab"))?;
    let mut payload = vec![0; length];
    port.read_exact(&mut payload)?;
    Ok((kind, payload))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_is_kind_length_payload() {
        let mut wire = Vec::new();
        write(&mut wire, Kind::Stdout, b"hi\0").unwrap();
        assert_eq!(wire, b"O\x03\0\0\0hi\0");
    }

    #[test]
    fn a_read_frame_leaves_the_next_one_alone() {
        let mut wire = &b"I\x02\0\0\0abP\0\0\0\0"[..];
        assert_eq!(read(&mut wire).unwrap(), (Kind::Stdin, b"ab".to_vec()));
        assert_eq!(read(&mut wire).unwrap(), (Kind::Inspect, Vec::new()));
    }

    #[test]
    fn unknown_kinds_and_absurd_lengths_are_refused() {
        for wire in [&b"O\0\0\0\0"[..], b"I\xff\xff\xff\xff"] {
            assert_eq!(read(&mut &*wire).unwrap_err().kind(), io::ErrorKind::InvalidData);
        }
    }
}
