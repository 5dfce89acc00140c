//! From what went wrong inside to what a client is told.

use granule_api::error::{ApiError, ErrorKind};

use crate::wire::{Blame, Failure};

/// A refusal with one reason.
pub fn refusal(kind: ErrorKind, reason: &str) -> ApiError {
    ApiError::new(kind, reason)
}

/// What `machine` or a process refused.
pub fn from_failure(what: &str, failure: &Failure) -> ApiError {
    let kind = match failure.blame {
        Blame::Request => ErrorKind::BadRequest,
        Blame::Host => ErrorKind::Internal,
    };
    failure.causes.iter().fold(ApiError::new(kind, what), |error, cause| error.because(cause.clone()))
}
