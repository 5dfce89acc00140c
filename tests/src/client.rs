//! A client that sends what it is told, byte for byte, and takes no answer but one that every known client can read.
//!
//! Known clients read the status line as `HTTP/1.1 CODE \r\n` (no reason), header names with their exact spelling
//! (`Content-Length: N`) and bodies as ASCII; see [`Response::parse`].

use std::io::{self, IoSlice, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::BorrowedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use serde_json::Value;

use crate::wait;

/// One connection to an API socket.
#[derive(Debug)]
pub struct Client {
    stream: UnixStream,
    /// Bytes received and not yet part of an answer.
    pending: Vec<u8>,
}

/// One answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    /// The status code.
    pub code: u16,
    /// Header names and values as sent.
    pub headers: Vec<(String, String)>,
    /// The body; empty if there was none.
    pub body: String,
}

impl Client {
    /// Connects; no wait for the socket to appear.
    pub fn connect(socket: &Path) -> io::Result<Self> {
        let stream = UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(wait::LONG))?;
        stream.set_write_timeout(Some(wait::LONG))?;
        Ok(Self { stream, pending: Vec::new() })
    }

    /// Sends bytes as they are.
    pub fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)
    }

    /// Sends bytes, and descriptors with them, in one message.
    ///
    /// # Errors
    /// Where the server has closed, or not all bytes went.
    pub fn send_with(&mut self, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        send_with(&self.stream, bytes, fds)
    }

    /// The next answer; `UnexpectedEof` if the server closed instead.
    ///
    /// # Panics
    /// If the answer is one that a known client would not understand.
    pub fn receive(&mut self) -> io::Result<Response> {
        loop {
            if let Some((response, used)) = Response::parse(&self.pending) {
                self.pending.drain(..used);
                return Ok(response);
            }
            let mut chunk = [0; 16384];
            match self.stream.read(&mut chunk)? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                n => self.pending.extend(&chunk[..n]),
            }
        }
    }

    /// True once the server has closed the connection without a further byte.
    pub fn is_closed(&mut self) -> bool {
        matches!(self.stream.read(&mut [0; 1]), Ok(0))
    }

    /// A request as Kata's runtime would write it, and its answer.
    pub fn call(&mut self, method: &str, path: &str, body: Option<&str>) -> io::Result<Response> {
        let mut request = format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\nAccept: */*\r\n");
        if let Some(body) = body {
            request += &format!("Content-Type: application/json\r\nContent-Length: {}\r\n", body.len());
        }
        request += "\r\n";
        request += body.unwrap_or_default();
        self.send(request.as_bytes())?;
        self.receive()
    }
}

impl Response {
    /// Takes one answer off the start of `bytes`; `None` while it is incomplete.
    ///
    /// # Panics
    /// If what is there breaks the rules that known clients rely on.
    pub fn parse(bytes: &[u8]) -> Option<(Self, usize)> {
        let end = bytes.windows(4).position(|w| w == b"\r\n\r\n")? + 4;
        let head = std::str::from_utf8(&bytes[..end - 4]).expect("the head of an answer is ASCII");
        let mut lines = head.split("\r\n");
        let status = lines.next().unwrap_or_default();
        let code = status.strip_prefix("HTTP/1.1 ").and_then(|s| s.strip_suffix(' '));
        let code = code.and_then(|c| c.parse().ok());
        let code =
            code.unwrap_or_else(|| panic!("status line {status:?}: clients read \"HTTP/1.1 CODE \" only"));
        let headers: Vec<(String, String)> = lines.map(header).collect();
        let length = content_length(&headers);
        let body = bytes.get(end..end + length)?;
        assert!(body.is_ascii(), "clients read bodies in pieces of ASCII: {}", String::from_utf8_lossy(body));
        let body = String::from_utf8_lossy(body).into_owned();
        Some((Self { code, headers, body }, end + length))
    }

    /// The value of a header with this exact spelling.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }

    /// The body as JSON.
    ///
    /// # Panics
    /// If it is none.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|e| panic!("{e} in {self:?}"))
    }

    /// The causes of an error, outermost first.
    ///
    /// # Panics
    /// If the body is not an array of strings with at least one in it.
    pub fn causes(&self) -> Vec<String> {
        let causes: Vec<String> = serde_json::from_value(self.json())
            .unwrap_or_else(|e| panic!("no array of causes ({e}): {self:?}"));
        assert!(!causes.is_empty(), "an error without a cause: {self:?}");
        causes
    }
}

fn header(line: &str) -> (String, String) {
    let (name, value) =
        line.split_once(": ").unwrap_or_else(|| panic!("header {line:?} is not \"Name: value\""));
    let titled = name.split('-').all(|word| word.starts_with(|c: char| c.is_ascii_uppercase()));
    assert!(titled, "header {name:?}: clients compare names with their usual spelling");
    (name.to_owned(), value.to_owned())
}

fn content_length(headers: &[(String, String)]) -> usize {
    assert!(
        headers.iter().all(|(name, _)| name != "Transfer-Encoding"),
        "clients do not read chunks: {headers:?}"
    );
    let values: Vec<_> = headers.iter().filter(|(name, _)| name == "Content-Length").collect();
    assert!(values.len() <= 1, "two lengths: {headers:?}");
    values.first().map_or(0, |(_, n)| n.parse().unwrap_or_else(|e| panic!("Content-Length {n:?}: {e}")))
}

/// Sends bytes, and at most 16 descriptors with them, in one message.
///
/// # Errors
/// Where the other side has closed, or not all bytes went.
pub fn send_with(stream: &UnixStream, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(16))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !control.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let sent = sendmsg(stream, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL)?;
    if sent == bytes.len() { Ok(()) } else { Err(io::ErrorKind::WriteZero.into()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_taken_whole_or_not_at_all() {
        let bytes = b"HTTP/1.1 200 \r\nServer: X\r\nContent-Length: 2\r\n\r\n{}HTTP/1.1";
        for cut in 0..49 {
            assert_eq!(Response::parse(&bytes[..cut]), None, "after {cut} bytes");
        }
        let (response, used) = Response::parse(bytes).unwrap();
        assert_eq!((response.code, response.body.as_str(), used), (200, "{}", 49));
        assert_eq!(response.header("Server"), Some("X"));
    }

    #[test]
    #[should_panic(expected = "status line")]
    fn a_reason_phrase_is_refused() {
        Response::parse(b"HTTP/1.1 200 OK\r\n\r\n");
    }

    #[test]
    #[should_panic(expected = "usual spelling")]
    fn a_lower_case_header_is_refused() {
        Response::parse(b"HTTP/1.1 200 \r\ncontent-length: 2\r\n\r\n{}");
    }
}
