//! One request from head to answer: read the body, take the descriptors, find the call, ask the driver.

use hyper::body::Incoming;
use hyper::header::{CONNECTION, EXPECT, HeaderMap};
use hyper::{Request as HttpRequest, Version};
use tokio::sync::{mpsc, oneshot};

use super::answer::Answer;
use super::body::{self, NoBody};
use super::ledger::{Shared, Turn};
use super::request::{Reply, Request};
use crate::call::{Call, Endpoint};
use crate::error::{ApiError, ErrorKind};

/// Answers one request.
pub(super) async fn answer(
    request: HttpRequest<Incoming>,
    ledger: Shared,
    driver: mpsc::Sender<Request>,
    max_body: usize,
) -> Answer {
    let turn = ledger.begin();
    let (head, incoming) = request.into_parts();
    let close = !keeps_alive(head.version, &head.headers);
    let waits = head.headers.contains_key(EXPECT);
    // Read before anything is refused: what comes after it is the next request.
    let body = match body::read(incoming, max_body, waits).await {
        Ok(body) => body,
        Err(NoBody { error, close: cut }) => {
            return Answer { result: Err(error), close: close || cut, allow: None };
        }
    };
    let path = head.uri.path_and_query().map_or("", |path| path.as_str());
    let Some(endpoint) = Endpoint::find(path) else {
        let error = ApiError::plain(ErrorKind::NotFound, &["Not Found"]);
        return Answer { result: Err(error), close, allow: None };
    };
    if head.method.as_str() != endpoint.method.as_str() {
        let error = ApiError::plain(ErrorKind::MethodNotAllowed, &["Method Not Allowed"]).because(format!(
            "{} is a {}",
            endpoint.name,
            endpoint.method.as_str()
        ));
        return Answer { result: Err(error), close, allow: Some(endpoint.method) };
    }
    let result = match endpoint.call(&body) {
        Ok(call) => ask(call, &turn, &driver).await,
        Err(error) => Err(error),
    };
    let wrong_state = result.as_ref().is_err_and(|error| error.status() == 405);
    Answer { result, close, allow: wrong_state.then_some(endpoint.method) }
}

async fn ask(call: Call, turn: &Turn, driver: &mpsc::Sender<Request>) -> Result<Reply, ApiError> {
    let fds = turn.fds().map_err(|error| {
        ApiError::plain(ErrorKind::BadRequest, &["Bad Request"]).because(error.to_string())
    })?;
    let gone = || ApiError::new(ErrorKind::Internal, "the monitor is shutting down");
    let (reply, answer) = oneshot::channel();
    driver.send(Request { call, fds, reply }).await.map_err(|_| gone())?;
    answer.await.map_err(|_| gone())?
}

/// Whether the client means to go on using the connection.
fn keeps_alive(version: Version, headers: &HeaderMap) -> bool {
    let says = |word: &str| {
        headers
            .get_all(CONNECTION)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .any(|value| value.split(',').any(|option| option.trim().eq_ignore_ascii_case(word)))
    };
    !says("close") && (version != Version::HTTP_10 || says("keep-alive"))
}
