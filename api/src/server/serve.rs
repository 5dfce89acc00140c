//! The accept loop: who is connected, who must make room, and how it ends.

use std::convert::Infallible;
use std::io;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use tokio::net::UnixStream;
use tokio::sync::{mpsc, watch};
use tokio::task::{AbortHandle, JoinSet};

use super::connection::Connection;
use super::framing::MAX_HEAD;
use super::ledger::Shared;
use super::listener::Listener;
use super::request::Request;
use super::{answer, service};
use crate::error::{ApiError, ErrorKind};

/// What a server allows its clients.
#[derive(Clone, Copy, Debug)]
pub struct ServerLimits {
    /// Connections at a time. One more makes the one that is silent for longest close.
    pub connections: usize,
    /// Bytes of a request's body.
    pub body: usize,
    /// How long a request may take to arrive, from its first byte to its last.
    pub request_time: Duration,
    /// How long answers may still take to go out when the server is stopped.
    pub drain_time: Duration,
}

impl Default for ServerLimits {
    fn default() -> Self {
        Self {
            connections: 256,
            body: 4 << 20,
            request_time: Duration::from_secs(60),
            drain_time: Duration::from_secs(1),
        }
    }
}

/// Pause after an accept that failed for want of descriptors or memory.
const BREATH: Duration = Duration::from_millis(50);

/// One connection that is being served.
struct Client {
    ledger: Shared,
    task: AbortHandle,
}

/// Serves clients until `stop` says so or is dropped, then lets answers that are under way go out and returns.
///
/// Requests go to `driver` as they arrive, several at a time from several connections, one at a time from each. The
/// listener is dropped, and its socket removed, before the last answers go out.
pub async fn serve(
    listener: Listener,
    driver: mpsc::Sender<Request>,
    limits: ServerLimits,
    mut stop: watch::Receiver<bool>,
) {
    let mut tasks = JoinSet::new();
    let mut clients: Vec<Client> = Vec::new();
    loop {
        tokio::select! {
            () = stopped(&mut stop) => break,
            Some(_) = tasks.join_next() => clients.retain(|client| !client.task.is_finished()),
            accepted = listener.accept() => match accepted {
                Ok(stream) => {
                    if clients.len() >= limits.connections && !make_room(&mut clients) {
                        refuse(&stream);
                        continue;
                    }
                    let ledger = Shared::new();
                    let connection = Connection::new(stream, ledger.clone(), limits.request_time);
                    let talk = talk(connection, ledger.clone(), driver.clone(), limits.body, stop.clone());
                    clients.push(Client { ledger, task: tasks.spawn(talk) });
                }
                Err(error) => {
                    tracing::warn!(%error, "a client's connection was not accepted");
                    tokio::time::sleep(BREATH).await;
                }
            },
        }
    }
    drop(listener);
    let drained = async { while tasks.join_next().await.is_some() {} };
    if tokio::time::timeout(limits.drain_time, drained).await.is_err() {
        tracing::warn!("some clients did not take their answers in time");
    }
}

async fn stopped(stop: &mut watch::Receiver<bool>) {
    // An error means that whoever could stop the server is gone, which stops it, too.
    let _ = stop.wait_for(|&stopped| stopped).await;
}

/// Closes the connection on which nothing has happened for longest, if there is one on which no call is under way.
fn make_room(clients: &mut Vec<Client>) -> bool {
    let idle = clients.iter().enumerate();
    let idle = idle.filter_map(|(index, client)| Some((client.ledger.lock().idle_since()?, index)));
    match idle.min() {
        Some((_, index)) => {
            clients.swap_remove(index).task.abort();
            true
        }
        None => false,
    }
}

fn refuse(stream: &UnixStream) {
    let error =
        ApiError::plain(ErrorKind::TooManyRequests, &["Too Many Requests", "too many connections are busy"]);
    // Whether the client hears it is up to the client.
    let _ = stream.try_write(&answer::last_words(&error));
}

/// Serves one connection to its end.
async fn talk(
    connection: Connection,
    ledger: Shared,
    driver: mpsc::Sender<Request>,
    max_body: usize,
    mut stop: watch::Receiver<bool>,
) {
    let stopping = stop.clone();
    let service = service_fn(move |request| {
        let answer = service::answer(request, ledger.clone(), driver.clone(), max_body);
        let stopping = stopping.clone();
        async move {
            let mut answer = answer.await;
            answer.close |= *stopping.borrow();
            Ok::<_, Infallible>(answer.into_response())
        }
    });
    let talk = http1::Builder::new()
        .title_case_headers(true)
        .auto_date_header(false)
        .half_close(true)
        .max_buf_size(MAX_HEAD)
        .header_read_timeout(None)
        .serve_connection(connection, service);
    tokio::pin!(talk);
    let ended = tokio::select! {
        ended = talk.as_mut() => ended,
        () = stopped(&mut stop) => {
            talk.as_mut().graceful_shutdown();
            talk.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(error = %chain(&error), "a client's connection ended");
    }
}

fn chain(error: &hyper::Error) -> String {
    match std::error::Error::source(error).and_then(|source| source.downcast_ref::<io::Error>()) {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}
