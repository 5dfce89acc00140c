//! The body of a request: read whole, up to a limit, or not at all.

use http_body_util::BodyExt;
use hyper::body::{Body, Incoming};

use crate::error::{ApiError, ErrorKind};

/// A body is not had.
pub(super) struct NoBody {
    /// What is answered.
    pub error: ApiError,
    /// Whether bytes of it are still to come, so that no further request can be read.
    pub close: bool,
}

/// How much more than the limit is read and thrown away, so that a client that sends first and reads later gets its
/// answer: this many times the limit.
const PATIENCE: u64 = 4;

/// Reads a body of at most `limit` bytes. Memory is taken as bytes arrive, not as they are announced.
pub(super) async fn read(mut body: Incoming, limit: usize, waits: bool) -> Result<Vec<u8>, NoBody> {
    let announced = body.size_hint().lower();
    let too_large = announced > limit as u64;
    // A client that waits for a go-ahead has sent nothing yet and need not.
    if too_large && (waits || announced > limit as u64 * PATIENCE) {
        return Err(NoBody { error: too_large_for(limit), close: true });
    }
    let mut bytes = Vec::new();
    let mut total = 0u64;
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| NoBody { error: broken(&error), close: true })?;
        let Some(data) = frame.data_ref() else { continue };
        total += data.len() as u64;
        if total <= limit as u64 && !too_large {
            bytes.extend_from_slice(data);
        } else if total > limit as u64 * PATIENCE {
            return Err(NoBody { error: too_large_for(limit), close: true });
        } else {
            bytes = Vec::new();
        }
    }
    if total > limit as u64 {
        return Err(NoBody { error: too_large_for(limit), close: false });
    }
    Ok(bytes)
}

fn too_large_for(limit: usize) -> ApiError {
    ApiError::plain(ErrorKind::TooLarge, &["Payload Too Large"])
        .because(format!("the body is larger than {limit} bytes"))
}

fn broken(error: &hyper::Error) -> ApiError {
    let late = std::error::Error::source(error)
        .and_then(|source| source.downcast_ref::<std::io::Error>())
        .is_some_and(|source| source.kind() == std::io::ErrorKind::TimedOut);
    if late {
        ApiError::plain(ErrorKind::Timeout, &["Request Timeout", "the body took too long to arrive"])
    } else {
        ApiError::plain(
            ErrorKind::BadRequest,
            &["Bad Request", "the body ended too early or is not well formed"],
        )
    }
}
