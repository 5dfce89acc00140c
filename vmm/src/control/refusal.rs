//! From what went wrong inside to what a client is told.

use granule_api::error::{ApiError, ErrorKind};

use crate::wire::Failure;

/// A refusal with one reason.
pub fn refusal(kind: ErrorKind, reason: &str) -> ApiError {
    ApiError::new(kind, reason)
}

/// What `machine` or a process refused: our fault or the host's, not the client's.
pub fn from_failure(what: &str, failure: &Failure) -> ApiError {
    failure
        .causes
        .iter()
        .fold(ApiError::new(ErrorKind::Internal, what), |error, cause| error.because(cause.clone()))
}
