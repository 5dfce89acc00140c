//! Where one request ends and the next begins, found by reading along.
//!
//! hyper parses the requests; this only counts them, so that a file descriptor can be given to the request that it
//! arrived with, and so that a request that never ends can be told from a client that is silent between two.
//!
//! ```text
//!   Line ──empty──► (length 0) ──────────────────────────────► next request
//!    │ ▲  line        ├─ Content-Length ─► Body ───────────────────▲
//!    └─┘              └─ chunked ─► ChunkSize ⇄ Chunk, 0 ─► Trailer ┘      anything else: Lost
//! ```
//!
//! Where it and hyper disagree about a request, hyper answers an error and closes; all that is lost is descriptors,
//! and those are closed with the connection.

/// The longest line and the longest head that are accepted; hyper is given the same limit.
pub(super) const MAX_HEAD: usize = 16 * 1024;

/// Reads along with a connection.
#[derive(Debug)]
pub(super) struct Framing {
    state: State,
    /// The request that the next byte belongs to; the first is 0.
    request: u64,
}

#[derive(Debug)]
enum State {
    Head(Head),
    Body {
        left: u64,
    },
    ChunkSize {
        line: Vec<u8>,
    },
    /// `left` counts the line end after the data, too.
    Chunk {
        left: u64,
    },
    Trailer {
        line: Vec<u8>,
    },
    /// What comes is no HTTP that we know.
    Lost,
}

#[derive(Debug, Default)]
struct Head {
    line: Vec<u8>,
    /// Whether there was a line that is not empty.
    begun: bool,
    length: Option<u64>,
    chunked: bool,
    total: usize,
}

impl Framing {
    pub(super) fn new() -> Self {
        Self { state: State::Head(Head::default()), request: 0 }
    }

    /// Reads the bytes that came next. Returns the request that the last of them belongs to, or none where that
    /// cannot be told.
    pub(super) fn feed(&mut self, mut bytes: &[u8]) -> Option<u64> {
        let mut owner = self.request;
        while !bytes.is_empty() {
            owner = self.request;
            let taken = self.step(bytes);
            bytes = &bytes[taken..];
        }
        (!matches!(self.state, State::Lost)).then_some(owner)
    }

    /// The request that is under way: begun, and not whole.
    pub(super) fn unfinished(&self) -> Option<u64> {
        match &self.state {
            State::Head(head) if !head.begun && head.line.is_empty() => None,
            _ => Some(self.request),
        }
    }

    /// The request that the next byte belongs to.
    pub(super) fn request(&self) -> u64 {
        self.request
    }

    /// Whether the request that is under way has shown its whole head.
    pub(super) fn past_head(&self) -> bool {
        !matches!(self.state, State::Head(_))
    }

    /// Reads some of the bytes, at least one; says how many.
    fn step(&mut self, bytes: &[u8]) -> usize {
        match &mut self.state {
            State::Head(head) => {
                let taken = take_line(&mut head.line, bytes);
                head.total += taken;
                match head.line.last() {
                    Some(b'\n') => self.head_line(),
                    _ if head.line.len() > MAX_HEAD => self.state = State::Lost,
                    _ => {}
                }
                taken
            }
            State::Body { left } => {
                let taken = clamp(*left, bytes.len());
                *left -= taken as u64;
                if *left == 0 {
                    self.next_request();
                }
                taken
            }
            State::Chunk { left } => {
                let taken = clamp(*left, bytes.len());
                *left -= taken as u64;
                if *left == 0 {
                    self.state = State::ChunkSize { line: Vec::new() };
                }
                taken
            }
            State::ChunkSize { line } => {
                let taken = take_line(line, bytes);
                if line.last() == Some(&b'\n') {
                    self.state = match chunk_size(line) {
                        Some(0) => State::Trailer { line: Vec::new() },
                        Some(size) => State::Chunk { left: size.saturating_add(2) },
                        None => State::Lost,
                    };
                } else if line.len() > MAX_HEAD {
                    self.state = State::Lost;
                }
                taken
            }
            State::Trailer { line } => {
                let taken = take_line(line, bytes);
                if line.last() == Some(&b'\n') {
                    if trim(line).is_empty() {
                        self.next_request();
                    } else {
                        line.clear();
                    }
                } else if line.len() > MAX_HEAD {
                    self.state = State::Lost;
                }
                taken
            }
            State::Lost => bytes.len(),
        }
    }

    /// A line of the head is whole.
    fn head_line(&mut self) {
        let State::Head(head) = &mut self.state else { return };
        let line = std::mem::take(&mut head.line);
        let line = trim(&line);
        if head.total > MAX_HEAD {
            self.state = State::Lost;
        } else if !line.is_empty() {
            match head.read(line) {
                Some(()) => head.begun = true,
                None => self.state = State::Lost,
            }
        } else if head.begun {
            match (head.chunked, head.length) {
                (true, _) => self.state = State::ChunkSize { line: Vec::new() },
                (false, None | Some(0)) => self.next_request(),
                (false, Some(left)) => self.state = State::Body { left },
            }
        }
    }

    fn next_request(&mut self) {
        self.request += 1;
        self.state = State::Head(Head::default());
    }
}

impl Head {
    /// Takes from a header line what the length of the body depends on.
    fn read(&mut self, line: &[u8]) -> Option<()> {
        let colon = match line.iter().position(|&byte| byte == b':') {
            Some(colon) if self.begun => colon,
            // The request line, or something that hyper will refuse.
            _ => return Some(()),
        };
        let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
        if name.eq_ignore_ascii_case(b"content-length") {
            let text = std::str::from_utf8(value).ok()?;
            self.length = Some(text.parse().ok()?);
        } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
            let last = value.rsplit(|&byte| byte == b',').next()?;
            self.chunked = last.trim_ascii().eq_ignore_ascii_case(b"chunked");
        }
        Some(())
    }
}

/// Moves bytes up to and with a line's end to `line`; says how many.
fn take_line(line: &mut Vec<u8>, bytes: &[u8]) -> usize {
    let end = bytes.iter().position(|&byte| byte == b'\n').map_or(bytes.len(), |at| at + 1);
    // One byte too many is enough to see that the line is too long.
    let room = (MAX_HEAD + 1).saturating_sub(line.len());
    let taken = end.min(room).max(1);
    line.extend_from_slice(&bytes[..taken]);
    taken
}

fn trim(line: &[u8]) -> &[u8] {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    line.strip_suffix(b"\r").unwrap_or(line)
}

fn chunk_size(line: &[u8]) -> Option<u64> {
    let digits = trim(line).split(|&byte| byte == b';').next()?.trim_ascii();
    u64::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
}

fn clamp(left: u64, available: usize) -> usize {
    usize::try_from(left).unwrap_or(usize::MAX).min(available)
}

#[cfg(test)]
mod tests {
    use super::*;

    const STREAM: &[&[u8]] = &[
        b"GET /a HTTP/1.1\r\nHost: x\r\n\r\n",
        b"PUT /b HTTP/1.1\r\nContent-Length:   5 \r\nX: Content-Length: 9\r\n\r\n\r\n\r\n\r",
        b"PUT /c HTTP/1.1\ntransfer-encoding: gzip, Chunked\n\n3;x=y\r\nabc\r\n0\r\nT: v\r\n\r\n",
        b"\r\nPUT /d HTTP/1.1\r\ncontent-length: 0\r\n\r\n",
    ];

    #[test]
    fn every_byte_is_given_to_its_request_however_the_stream_is_cut() {
        let whole: Vec<u8> = STREAM.concat();
        let owners: Vec<u64> =
            STREAM.iter().enumerate().flat_map(|(index, part)| vec![index as u64; part.len()]).collect();
        for cut in 1..=whole.len() {
            let mut framing = Framing::new();
            let mut read = 0;
            for piece in whole.chunks(cut) {
                read += piece.len();
                assert_eq!(framing.feed(piece), Some(owners[read - 1]), "cut {cut}, byte {read}");
            }
            assert_eq!(framing.unfinished(), None);
            assert_eq!(framing.request(), 4);
        }
    }

    #[test]
    fn a_half_request_is_unfinished() {
        let mut framing = Framing::new();
        framing.feed(b"G");
        assert_eq!((framing.unfinished(), framing.past_head()), (Some(0), false));
        framing.feed(b"ET / HTTP/1.1\r\nContent-Length: 3\r\n\r\nab");
        assert_eq!((framing.unfinished(), framing.past_head()), (Some(0), true));
        framing.feed(b"c");
        assert_eq!(framing.unfinished(), None);
    }

    #[test]
    fn what_is_not_http_is_lost_and_takes_no_memory() {
        let mut framing = Framing::new();
        assert_eq!(framing.feed(&vec![b'a'; 10 << 20]), None);
        let mut framing = Framing::new();
        assert_eq!(framing.feed(b"PUT / HTTP/1.1\r\nContent-Length: -1\r\n"), None);
        let mut framing = Framing::new();
        assert_eq!(framing.feed(&b"a: b\r\n".repeat(4000)), None);
        let mut framing = Framing::new();
        let head = b"PUT / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n";
        assert_eq!(framing.feed(head), Some(0));
        assert_eq!(framing.feed(b"data"), Some(0));
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_make_it_panic(pieces in proptest::collection::vec(proptest::collection::vec(0u8..=255, 0..64), 0..16)) {
            let mut framing = Framing::new();
            framing.feed(b"PUT / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n");
            for piece in pieces {
                framing.feed(&piece);
            }
        }
    }
}
