//! What the server asks of the driver, and what it gets back.

use std::os::fd::OwnedFd;

use serde::Serialize;
use tokio::sync::oneshot;

use crate::call::Call;
use crate::error::{ApiError, ErrorKind};
use crate::json;

/// One request of a client's, for whoever owns the machine.
///
/// The client may be gone before it is answered; the answer is thrown away then. A request that is dropped without an
/// answer is answered 500.
#[derive(Debug)]
pub struct Request {
    /// What is asked.
    pub call: Call,
    /// The descriptors that came with it, in order; what is not taken from here is closed.
    pub fds: Vec<OwnedFd>,
    /// Where the answer goes.
    pub reply: oneshot::Sender<Result<Reply, ApiError>>,
}

impl Request {
    /// Answers; whether the client is still there to read it makes no difference.
    pub fn answer(self, answer: Result<Reply, ApiError>) {
        let _ = self.reply.send(answer);
    }
}

/// The answer to a request that went well.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// 204, without a body: most calls.
    Empty204,
    /// 200, without a body: `vmm.shutdown`.
    Empty200,
    /// 200 and a JSON document.
    Json(Vec<u8>),
    /// 200 and a text in the exposition format of Prometheus, version 0.0.4.
    Metrics(String),
}

impl Reply {
    /// 200 and that value.
    ///
    /// # Errors
    /// Where the value cannot be written as JSON, such as a path that is not UTF-8.
    pub fn json<T: Serialize + ?Sized>(value: &T) -> Result<Self, ApiError> {
        json::write(value).map(Self::Json).map_err(|error| {
            ApiError::new(ErrorKind::Internal, "the answer cannot be written").because(error.to_string())
        })
    }
}
