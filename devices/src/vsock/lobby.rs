//! Clients that have connected to the host's socket and not yet named a port.
//!
//! ```text
//!   accepted ── "CONNECT port\n" ──► named: leaves the lobby with its stream
//!      └─ another line, too long a line, end-of-file, time is up, too many others came ──► closed
//! ```
//! Not a byte behind the line is read: it belongs to the guest.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Instant;

use rustix::io::Errno;
use rustix::net::{RecvFlags, recv};

use super::spec::{MAX_HALF_OPEN, MAX_LINE, OPEN_TIMEOUT};

/// A client without a port.
#[derive(Debug)]
struct Client {
    stream: OwnedFd,
    line: Vec<u8>,
    deadline: Instant,
}

/// All of them, by token; tokens grow, so the first is the oldest.
#[derive(Debug, Default)]
pub(super) struct Lobby(BTreeMap<u64, Client>);

impl Lobby {
    /// Lets one in; the one that has waited longest goes, if there are too many.
    pub fn enter(&mut self, token: u64, stream: OwnedFd) {
        if self.0.len() >= MAX_HALF_OPEN {
            self.0.pop_first();
        }
        let deadline = Instant::now() + OPEN_TIMEOUT;
        self.0.insert(token, Client { stream, line: Vec::new(), deadline });
    }

    /// Their streams, by token.
    pub fn streams(&self) -> impl Iterator<Item = (u64, &OwnedFd)> {
        self.0.iter().map(|(token, client)| (*token, &client.stream))
    }

    /// Whether one of this token is here.
    pub fn contains(&self, token: u64) -> bool {
        self.0.contains_key(&token)
    }

    /// Hears what a client says; returns its stream and the port once it has named one.
    pub fn hear(&mut self, token: u64) -> Option<(OwnedFd, u32)> {
        match self.0.get_mut(&token)?.read_line() {
            Ok(None) => None,
            Ok(Some(port)) => self.0.remove(&token).map(|client| (client.stream, port)),
            Err(Nonsense) => {
                self.0.remove(&token);
                None
            }
        }
    }

    /// When the next one's time is up.
    pub fn deadline(&self) -> Option<Instant> {
        self.0.first_key_value().map(|(_, client)| client.deadline)
    }

    /// Sends those away whose time is up.
    pub fn expire(&mut self, now: Instant) {
        while self.deadline().is_some_and(|deadline| deadline <= now) {
            self.0.pop_first();
        }
    }
}

/// The client does not speak the protocol, or not any more.
struct Nonsense;

impl Client {
    fn read_line(&mut self) -> Result<Option<u32>, Nonsense> {
        let mut seen = [0; MAX_LINE];
        let room = MAX_LINE - self.line.len();
        let peeked = match recv(&self.stream, &mut seen[..room], RecvFlags::PEEK) {
            Ok((count, _)) if count > 0 => count,
            Err(Errno::AGAIN | Errno::INTR) => return Ok(None),
            _ => return Err(Nonsense),
        };
        let end = seen[..peeked].iter().position(|byte| *byte == b'\n');
        let wanted = end.map_or(peeked, |end| end + 1);
        // What was seen is there to be taken.
        let taken = match rustix::io::read(self.stream.as_fd(), &mut seen[..wanted]) {
            Ok(count) if count == wanted => count,
            _ => return Err(Nonsense),
        };
        self.line.extend_from_slice(&seen[..taken]);
        match end {
            Some(_) => port(&self.line).map(Some).ok_or(Nonsense),
            None if self.line.len() == MAX_LINE => Err(Nonsense),
            None => Ok(None),
        }
    }
}

/// The port that a whole line names.
fn port(line: &[u8]) -> Option<u32> {
    let mut words = std::str::from_utf8(line).ok()?.split_ascii_whitespace();
    let keyword = words.next()?;
    let port = words.next()?.parse().ok()?;
    (keyword.eq_ignore_ascii_case("connect") && words.next().is_none()).then_some(port)
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;
    use std::time::Duration;

    use super::*;

    fn client(lobby: &mut Lobby, token: u64) -> UnixStream {
        let (ours, theirs) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        lobby.enter(token, ours.into());
        theirs
    }

    #[test]
    fn a_port_is_named_in_any_case() {
        for (line, expected) in [
            ("CONNECT 1024\n", Some(1024)),
            ("connect 1024\n", Some(1024)),
            ("Connect  4294967295 \r\n", Some(u32::MAX)),
            ("CONNECT 4294967296\n", None),
            ("CONNECT -1\n", None),
            ("CONNECT\n", None),
            ("CONNECT 1 2\n", None),
            ("GET / HTTP/1.1\n", None),
            ("\n", None),
        ] {
            assert_eq!(port(line.as_bytes()), expected, "{line:?}");
        }
    }

    #[test]
    fn a_line_may_come_byte_by_byte_and_what_follows_it_is_left() {
        let mut lobby = Lobby::default();
        let mut stream = client(&mut lobby, 7);
        for byte in b"connect 70" {
            stream.write_all(&[*byte]).unwrap();
            assert!(lobby.hear(7).is_none() && lobby.contains(7));
        }
        stream.write_all(b"\npayload").unwrap();
        let (ours, port) = lobby.hear(7).unwrap();
        assert_eq!(port, 70);
        let mut rest = [0; 7];
        std::fs::File::from(ours).read_exact(&mut rest).unwrap();
        assert_eq!(&rest, b"payload");
        assert!(!lobby.contains(7));
    }

    #[test]
    fn who_does_not_speak_the_protocol_is_sent_away() {
        let mut lobby = Lobby::default();
        let long = "CONNECT".to_owned() + &" ".repeat(40);
        for text in [&long, "quit\n"] {
            let mut stream = client(&mut lobby, 1);
            stream.write_all(text.as_bytes()).unwrap();
            assert!(lobby.hear(1).is_none());
            assert!(!lobby.contains(1), "{text:?}");
        }
        drop(client(&mut lobby, 2));
        assert!(lobby.hear(2).is_none());
        assert!(!lobby.contains(2));
    }

    #[test]
    fn the_oldest_goes_when_there_are_too_many_and_when_its_time_is_up() {
        let mut lobby = Lobby::default();
        let streams: Vec<_> = (0..=MAX_HALF_OPEN as u64).map(|token| client(&mut lobby, token)).collect();
        assert!(!lobby.contains(0) && lobby.contains(1));
        assert_eq!((&streams[0]).read(&mut [0]).unwrap(), 0);
        lobby.expire(Instant::now());
        assert!(lobby.contains(1));
        lobby.expire(Instant::now() + OPEN_TIMEOUT + Duration::from_secs(1));
        assert!(lobby.deadline().is_none());
    }
}
