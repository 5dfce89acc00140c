//! The console from inside: its size, and how much can be said to it.

use std::fs::OpenOptions;
use std::io::Write;

use rustix::termios::tcgetwinsize;
use serde_json::json;

use super::Seen;

/// Bytes of a flood: more than sockets and processes hold.
pub const FLOOD: usize = 1 << 20;
/// Bytes of a stream that takes a moment.
pub const STREAM: usize = 1 << 16;

/// The size of the terminal that standard output is.
pub fn window() -> Seen {
    let size = tcgetwinsize(std::io::stdout()).map_err(|e| e.to_string())?;
    Ok(json!({"columns": size.ws_col, "rows": size.ws_row}))
}

/// Writes so much to a terminal.
pub fn write(path: &str, bytes: usize) -> Seen {
    let mut terminal = OpenOptions::new().write(true).open(path).map_err(|e| format!("{path}: {e}"))?;
    let line = [b"x".repeat(1023), b"\n".to_vec()].concat();
    for _ in 0..bytes / line.len() {
        terminal.write_all(&line).map_err(|e| format!("{path}: {e}"))?;
    }
    Ok(json!({"bytes": bytes}))
}
