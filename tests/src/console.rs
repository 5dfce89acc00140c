//! The guest's lines, as they come out of its serial port into a file.

use std::path::PathBuf;

use serde_json::Value;

use crate::wait;

/// How much of the end a failure shows.
const TAIL: usize = 3000;

/// A growing console file with a place that was read up to.
#[derive(Debug)]
pub struct Console {
    path: PathBuf,
    read: usize,
}

impl Console {
    /// A console that the monitor writes to `path`.
    pub fn new(path: PathBuf) -> Self {
        Self { path, read: 0 }
    }

    /// All that came out until now; bytes that are no UTF-8 are replaced.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.path).unwrap_or_default()).replace('\r', "")
    }

    /// The rest of the next whole line with `mark` in it, after the place of the last one found; moves the place.
    pub fn next(&mut self, mark: &str) -> Option<String> {
        let text = self.text();
        if text.len() < self.read {
            // A boot made the file anew.
            self.read = 0;
        }
        let fresh = text.get(self.read..)?;
        let start = fresh.find(mark)?;
        let end = start + fresh[start..].find('\n')?;
        self.read += end;
        Some(fresh[start + mark.len()..end].to_owned())
    }

    /// Waits for the next line with `mark`; `alive` says why waiting is in vain.
    ///
    /// # Panics
    /// If it does not come; the message shows the console's end.
    pub fn wait_for(&mut self, mark: &str, mut alive: impl FnMut() -> Result<(), String>) -> String {
        let mut verdict = Ok(());
        let found = wait::until(wait::LONG, || {
            let before = verdict.clone();
            let line = self.next(mark);
            if line.is_none() && before.is_err() {
                return Some(None);
            }
            verdict = alive();
            line.map(Some)
        });
        match (found.flatten(), verdict) {
            (Some(line), _) => line,
            (None, Err(why)) => panic!("{mark:?} will not come: {why}\n{}", self.tail()),
            (None, Ok(())) => panic!("no {mark:?} within {:?}\n{}", wait::LONG, self.tail()),
        }
    }

    /// The result of a check: what followed `GRANULE ok NAME`.
    ///
    /// # Panics
    /// If the check failed in the guest, or does not come.
    pub fn check(&mut self, name: &str, mut alive: impl FnMut() -> Result<(), String>) -> Value {
        let failure = format!("GRANULE fail {name} ");
        let text = |console: &Self| console.text().get(console.read..).unwrap_or_default().to_owned();
        let mut probe = Self { path: self.path.clone(), read: self.read };
        let line = self.wait_for(&format!("GRANULE ok {name} "), || {
            if text(&probe).contains(&failure) {
                return Err(format!(
                    "the guest's check failed: {}",
                    probe.next(&failure).unwrap_or_default()
                ));
            }
            alive()
        });
        serde_json::from_str(&line).unwrap_or_else(|e| panic!("{e} in {line:?}"))
    }

    /// The last words, for a failure's message.
    pub fn tail(&self) -> String {
        let text = self.text();
        let start = text.len().saturating_sub(TAIL);
        let start = (start..text.len()).find(|&i| text.is_char_boundary(i)).unwrap_or_default();
        format!("--- the console's end ({} bytes in all) ---\n{}", text.len(), &text[start..])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::folder::Folder;

    fn console(folder: &Folder, text: &str) -> Console {
        std::fs::write(folder.file("c"), text).unwrap();
        Console::new(folder.file("c").into())
    }

    #[test]
    fn lines_are_found_once_each_and_only_whole() {
        let folder = Folder::new();
        let mut console = console(&folder, "x\r\n[ 1.0] GRANULE tick 0\r\nGRANULE tick 1\r\nGRANULE tick 2");
        assert_eq!(console.next("GRANULE tick ").as_deref(), Some("0"));
        assert_eq!(console.next("GRANULE tick ").as_deref(), Some("1"));
        assert_eq!(console.next("GRANULE tick "), None);
    }

    #[test]
    #[should_panic(expected = "the guest's check failed: no such thing")]
    fn a_failed_check_is_not_waited_for() {
        let folder = Folder::new();
        console(&folder, "GRANULE fail rng no such thing\n").check("rng", || Ok(()));
    }

    #[test]
    #[should_panic(expected = "the monitor ended")]
    fn a_dead_monitor_is_not_waited_for() {
        let folder = Folder::new();
        console(&folder, "GRANULE init").wait_for("GRANULE init up", || Err("the monitor ended".to_owned()));
    }
}
