//! `--serial`, `--console`, `--api-socket` and `--event-monitor`: options of a few words of their own.

use std::os::fd::RawFd;
use std::path::PathBuf;

use serde_json::{Map, Value};

use super::grammar::{OptionError, split};
use super::run::{ApiSocket, EventSink};

/// Reads `off`, `null`, `pty`, `tty`, `file=PATH` or `socket=PATH`, with `iommu=on|off` beside it.
pub(super) fn output(option: &str, text: &str) -> Result<Value, OptionError> {
    let mut object = Map::new();
    for part in split(text, ',').map_err(|fault| OptionError::new(option, fault))? {
        let mode = match part.split_once('=').unwrap_or((part, "")) {
            ("off", "") => "Off",
            ("null", "") => "Null",
            ("pty", "") => "Pty",
            ("tty", "") => "Tty",
            ("file", path) => {
                object.insert("file".into(), named(option, "file", path)?.into());
                "File"
            }
            ("socket", path) => {
                object.insert("socket".into(), named(option, "socket", path)?.into());
                "Socket"
            }
            ("iommu", on) => {
                object.insert("iommu".into(), matches!(on, "on" | "true" | "").into());
                continue;
            }
            ("iobase", port) => {
                let port = port
                    .strip_prefix("0x")
                    .map_or_else(|| port.parse().ok(), |hex| u16::from_str_radix(hex, 16).ok());
                object.insert("iobase".into(), port.into());
                continue;
            }
            ("id", name) => {
                object.insert("id".into(), named(option, "id", name)?.into());
                continue;
            }
            _ => {
                let fault = format!("`{part}` is not off, null, pty, tty, file=PATH or socket=PATH");
                return Err(OptionError::new(option, fault));
            }
        };
        if object.insert("mode".into(), mode.into()).is_some() {
            return Err(OptionError::new(option, "more than one place for the text to go"));
        }
    }
    if object.contains_key("mode") {
        Ok(Value::Object(object))
    } else {
        Err(OptionError::new(option, "off, null, pty, tty, file=PATH or socket=PATH is missing"))
    }
}

fn named<'a>(option: &str, key: &str, value: &'a str) -> Result<&'a str, OptionError> {
    if value.is_empty() {
        Err(OptionError::new(option, format!("{key}: a value is missing")))
    } else {
        Ok(value)
    }
}

/// Reads `PATH`, `path=PATH` or `fd=N`.
pub(super) fn api_socket(text: &str) -> Result<ApiSocket, OptionError> {
    const OPTION: &str = "--api-socket";
    match text.split_once('=') {
        Some(("fd", number)) => Ok(ApiSocket::Fd(fd(OPTION, number)?)),
        Some(("path", path)) => Ok(ApiSocket::Path(PathBuf::from(named(OPTION, "path", path)?))),
        _ => Ok(ApiSocket::Path(PathBuf::from(named(OPTION, "path", text)?))),
    }
}

/// Reads `path=PATH` or `fd=N`.
pub(super) fn event_sink(text: &str) -> Result<EventSink, OptionError> {
    const OPTION: &str = "--event-monitor";
    match text.split_once('=') {
        Some(("fd", number)) => Ok(EventSink::Fd(fd(OPTION, number)?)),
        Some(("path", path)) => Ok(EventSink::Path(PathBuf::from(named(OPTION, "path", path)?))),
        _ => Err(OptionError::new(OPTION, format!("`{text}` is not path=PATH or fd=N"))),
    }
}

fn fd(option: &str, number: &str) -> Result<RawFd, OptionError> {
    match number.parse() {
        Ok(fd @ 0..) => Ok(fd),
        _ => Err(OptionError::new(option, format!("fd: `{number}` is not the number of a file descriptor"))),
    }
}
