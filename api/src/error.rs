//! What a refused request is answered with: a kind, which is the status code, and a chain of causes, which is the body.
//!
//! The body is a JSON array of strings, the outermost cause first, as Cloud Hypervisor's clients print it:
//! `["Error from API", "The VM could not boot", "payload.kernel: /x: no such file"]`.

use std::error::Error;
use std::fmt;

use crate::config::ConfigError;
use crate::json;

/// What kind of refusal it is. The kind decides the status code and nothing else does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// The request itself is wrong: its JSON, its body, a field (400).
    BadRequest,
    /// There is no VM, no such device, no such path (404).
    NotFound,
    /// The path exists, the method is another one (405).
    MethodNotAllowed,
    /// The VM is there, but not in the state that the call needs, where the API document says 405.
    WrongState,
    /// The client took too long to send its request (408).
    Timeout,
    /// A VM, identifier or device is there already (409).
    Conflict,
    /// The body is larger than accepted (413).
    TooLarge,
    /// Not now: something that excludes the call is under way (429).
    TooManyRequests,
    /// It should have worked and did not (500); also a call that the VM's state does not allow where the API document has
    /// no code of its own.
    Internal,
}

impl ErrorKind {
    /// The HTTP status code.
    pub fn status(self) -> u16 {
        match self {
            Self::BadRequest => 400,
            Self::NotFound => 404,
            Self::MethodNotAllowed | Self::WrongState => 405,
            Self::Timeout => 408,
            Self::Conflict => 409,
            Self::TooLarge => 413,
            Self::TooManyRequests => 429,
            Self::Internal => 500,
        }
    }
}

/// A refused request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiError {
    kind: ErrorKind,
    causes: Vec<String>,
}

impl ApiError {
    /// An error of the machine's, under the heading that Cloud Hypervisor gives them all.
    pub fn new(kind: ErrorKind, cause: impl Into<String>) -> Self {
        Self { kind, causes: vec!["Error from API".into(), cause.into()] }
    }

    /// An error of the machine's with every source that it has.
    pub fn from_error(kind: ErrorKind, error: &(dyn Error + 'static)) -> Self {
        Self::new(kind, error.to_string()).caused_by(error.source())
    }

    /// An error of the HTTP layer, without the heading.
    pub fn plain(kind: ErrorKind, causes: &[&str]) -> Self {
        Self { kind, causes: causes.iter().map(|&cause| cause.to_owned()).collect() }
    }

    /// Adds an innermost cause.
    #[must_use]
    pub fn because(mut self, cause: impl Into<String>) -> Self {
        self.causes.push(cause.into());
        self
    }

    /// Adds an error and every source that it has as innermost causes.
    #[must_use]
    pub fn caused_by(mut self, error: Option<&(dyn Error + 'static)>) -> Self {
        let mut next = error;
        while let Some(error) = next {
            self.causes.push(error.to_string());
            next = error.source();
        }
        self
    }

    /// There is no VM.
    pub fn not_created() -> Self {
        Self::new(ErrorKind::NotFound, "VM is not created")
    }

    /// The kind.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// The HTTP status code.
    pub fn status(&self) -> u16 {
        self.kind.status()
    }

    /// The causes, outermost first.
    pub fn causes(&self) -> &[String] {
        &self.causes
    }

    /// The body of the answer.
    pub fn body(&self) -> Vec<u8> {
        // A list of strings can always be written.
        json::write(&self.causes).unwrap_or_default()
    }
}

impl From<ConfigError> for ApiError {
    fn from(error: ConfigError) -> Self {
        let kind = if error.is_duplicate() { ErrorKind::Conflict } else { ErrorKind::BadRequest };
        Self::new(kind, "The VM configuration is not valid").because(error.to_string())
    }
}

impl fmt::Display for ApiError {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{}: {}", self.status(), self.causes.join(": "))
    }
}

impl Error for ApiError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("The VM could not boot")]
    struct Boot(#[source] std::io::Error);

    #[test]
    fn the_body_lists_all_causes_outermost_first() {
        let error = Boot(std::io::Error::new(std::io::ErrorKind::NotFound, "kein Kérnel"));
        let error = ApiError::from_error(ErrorKind::Internal, &error);
        assert_eq!(error.body(), br#"["Error from API","The VM could not boot","kein K\u00e9rnel"]"#);
        assert_eq!(error.status(), 500);
    }
}
