//! `granule ctl`: drives a running monitor.
//!
//! Each command is one call of the API; what comes back is printed as it is, refusals as the chain of their causes.
//! Exit codes: 0 done, 1 refused, 2 nobody answers there (or what answers does not speak this API).

mod bar;
mod body;
mod talk;
mod typed;

use std::io;
use std::os::fd::RawFd;
use std::path::PathBuf;

use granule_api::call::Method;

use super::grammar::OptionError;
pub use talk::run;
pub use typed::Typed;

/// One call to make.
#[derive(Debug)]
pub struct Options {
    /// The API's socket.
    pub socket: PathBuf,
    /// The method.
    pub method: Method,
    /// The endpoint, such as `vm.create`.
    pub endpoint: String,
    /// What is sent.
    pub body: Body,
    /// Descriptors of this process that go along.
    pub fds: Vec<RawFd>,
}

/// What is sent.
#[derive(Debug, PartialEq, Eq)]
pub enum Body {
    /// Nothing.
    None,
    /// A document.
    Json(Vec<u8>),
    /// What a file holds.
    File(PathBuf),
    /// What standard input holds.
    Stdin,
}

impl Body {
    /// A file's name, `-` being standard input.
    fn from_name(name: &str) -> Self {
        if name == "-" { Self::Stdin } else { Self::File(name.into()) }
    }

    fn read(self) -> io::Result<Option<Vec<u8>>> {
        match self {
            Self::None => Ok(None),
            Self::Json(bytes) => Ok(Some(bytes)),
            Self::File(path) => std::fs::read(path).map(Some),
            Self::Stdin => {
                let mut bytes = Vec::new();
                io::Read::read_to_end(&mut io::stdin(), &mut bytes)?;
                Ok(Some(bytes))
            }
        }
    }
}

/// Reads what was typed.
pub(super) fn options(typed: Typed) -> Result<Options, OptionError> {
    let (method, endpoint, body, fds) = body::of(typed.command)?;
    Ok(Options { socket: typed.api_socket, method, endpoint, body, fds })
}
