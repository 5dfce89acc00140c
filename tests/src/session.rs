//! A conversation with a guest over a stream: its serial port as a socket, a pty or a pair of pipes.

use std::io::{Read, Write};
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::Value;

use crate::wait;

/// One end of the guest's serial port.
pub struct Session {
    text: Arc<Mutex<Heard>>,
    writer: Box<dyn Write + Send>,
    read: usize,
}

#[derive(Default)]
struct Heard {
    bytes: Vec<u8>,
    /// The other end is gone.
    over: bool,
}

impl Session {
    /// Listens on `reader` from now on; what is said goes to `writer`.
    pub fn new(mut reader: impl Read + Send + 'static, writer: impl Write + Send + 'static) -> Self {
        let text = Arc::new(Mutex::new(Heard::default()));
        let heard = Arc::clone(&text);
        std::thread::spawn(move || {
            let mut chunk = [0; 4096];
            loop {
                // A pty whose other end is closed reads as EIO, a stream as zero bytes.
                let n = reader.read(&mut chunk).unwrap_or_default();
                let mut heard = heard.lock().unwrap_or_else(PoisonError::into_inner);
                heard.bytes.extend(&chunk[..n]);
                if n == 0 {
                    heard.over = true;
                    return;
                }
            }
        });
        Self { text, writer: Box::new(writer), read: 0 }
    }

    /// Says a line to the guest.
    ///
    /// # Panics
    /// If nobody listens.
    pub fn say(&mut self, line: &str) {
        self.write(format!("{line}\n").as_bytes());
    }

    /// Writes bytes as they are.
    ///
    /// # Panics
    /// If nobody listens.
    pub fn write(&mut self, bytes: &[u8]) {
        let written = self.writer.write_all(bytes).and_then(|()| self.writer.flush());
        written.unwrap_or_else(|e| panic!("the serial port's end: {e}\n{}", self.tail()));
    }

    /// All that was heard.
    pub fn text(&self) -> String {
        let heard = self.text.lock().unwrap_or_else(PoisonError::into_inner);
        String::from_utf8_lossy(&heard.bytes).replace('\r', "")
    }

    /// True once the other end is gone.
    pub fn is_over(&self) -> bool {
        self.text.lock().unwrap_or_else(PoisonError::into_inner).over
    }

    /// Waits for the next line with `mark`, and returns what follows it.
    ///
    /// # Panics
    /// If it does not come.
    pub fn line(&mut self, mark: &str) -> String {
        self.line_of(&[mark]).1
    }

    /// Waits for the next line with one of `marks`, and returns which it was and what follows it.
    fn line_of(&mut self, marks: &[&str]) -> (usize, String) {
        let found = wait::until(wait::LONG, || {
            let over = self.is_over();
            let text = self.text();
            let fresh = text.get(self.read..).unwrap_or_default();
            let line = marks.iter().enumerate().find_map(|(which, mark)| {
                let start = fresh.find(mark)?;
                let end = start + fresh[start..].find('\n')?;
                Some((which, start + mark.len()..end))
            });
            match line {
                Some((which, rest)) => {
                    self.read += rest.end;
                    Some(Some((which, fresh[rest].to_owned())))
                }
                None => over.then_some(None),
            }
        });
        match found {
            Some(Some(found)) => found,
            Some(None) => panic!("the serial port closed before {marks:?}\n{}", self.tail()),
            None => panic!("no {marks:?} within {:?}\n{}", wait::LONG, self.tail()),
        }
    }

    /// Lets the guest run a check and returns its result.
    ///
    /// # Panics
    /// If it does not come, or the guest says that the check failed.
    pub fn check(&mut self, name: &str) -> Value {
        let seen = self.attempt(name);
        seen.unwrap_or_else(|why| panic!("the check {name} failed: {why}\n{}", self.tail()))
    }

    /// Lets the guest run a check that may fail, for what is not there yet.
    ///
    /// # Panics
    /// If no result comes.
    pub fn attempt(&mut self, name: &str) -> Result<Value, String> {
        self.say(&format!("run {name}"));
        self.result(name)
    }

    /// Waits for the result of a check that was begun.
    ///
    /// # Panics
    /// If none comes.
    pub fn result(&mut self, name: &str) -> Result<Value, String> {
        let (passed, failed) = (format!("GRANULE ok {name} "), format!("GRANULE fail {name} "));
        match self.line_of(&[&passed, &failed]) {
            (0, line) => Ok(value(&line)),
            (_, why) => Err(why),
        }
    }

    fn tail(&self) -> String {
        let text = self.text();
        let lines: Vec<&str> = text.lines().rev().take(30).collect();
        format!("--- the last lines heard ---\n{}", lines.into_iter().rev().collect::<Vec<_>>().join("\n"))
    }
}

/// The value that a line begins with. The guest's kernel writes to the same port, and waits for nobody's end of line.
///
/// # Panics
/// If there is none.
pub fn value(line: &str) -> Value {
    let first = serde_json::Deserializer::from_str(line).into_iter().next();
    first.and_then(Result::ok).unwrap_or_else(|| panic!("no value in {line:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixStream;

    #[test]
    fn lines_are_heard_and_said() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let mut session = Session::new(ours.try_clone().unwrap(), ours);
        let mut guest = Session::new(theirs.try_clone().unwrap(), theirs);
        session.say("run mte");
        assert_eq!(guest.line("run "), "mte");
        guest.say("GRANULE ok mte 5\r\nGRANULE ok rng 6");
        assert_eq!(session.line("GRANULE ok rng "), "6");
    }

    #[test]
    #[should_panic(expected = "closed before")]
    fn a_closed_port_is_not_waited_for() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        drop(theirs);
        Session::new(ours.try_clone().unwrap(), ours).line("x");
    }
}
