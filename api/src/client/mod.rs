//! A client of the API: one connection, one request at a time, file descriptors along with any of them.
//!
//! ```no_run
//! # async fn example() -> Result<(), granule_api::client::ClientError> {
//! use granule_api::client::Client;
//! use granule_api::config::{PayloadConfig, VmConfig};
//!
//! let mut client = Client::connect("/run/granule.sock".as_ref()).await?;
//! println!("{}", client.ping().await?.version);
//! let payload = PayloadConfig { kernel: Some("/boot/Image".into()), ..PayloadConfig::default() };
//! client.create(&VmConfig { payload, ..VmConfig::default() }).await?;
//! client.put("vm.boot").await?;
//! # Ok(())
//! # }
//! ```

mod outgoing;
mod response;

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::header::{CONTENT_LENGTH, CONTENT_TYPE, HOST};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;
use tokio::task::JoinHandle;

use crate::call::{Method, ROOT};
use crate::config::{NetConfig, VmConfig};
use crate::json::{self, JsonError};
use crate::types::{PciDeviceInfo, Ping, VmInfo};
use outgoing::{Outgoing, Parcel};
pub use response::Response;

/// The largest answer that is read.
const MAX_ANSWER: usize = 64 << 20;

/// A call was not made, or not granted.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody is there.
    #[error("cannot connect to {path}")]
    Connect {
        /// The socket.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The conversation broke.
    #[error("{endpoint}: the connection broke before there was an answer")]
    Broken {
        /// What was asked.
        endpoint: String,
        /// How it broke.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The endpoint's name cannot stand in a request.
    #[error("`{0}` is not the name of an endpoint")]
    BadEndpoint(String),
    /// The answer is a refusal.
    #[error("{endpoint}: {}", .causes.join(": "))]
    Refused {
        /// What was asked.
        endpoint: String,
        /// The HTTP status code.
        status: u16,
        /// The causes, outermost first.
        causes: Vec<String>,
    },
    /// The body of the request or the answer is not the JSON that it should be.
    #[error("{endpoint}: a body is not what it should be")]
    Body {
        /// What was asked.
        endpoint: String,
        /// What is wrong with it.
        source: JsonError,
    },
}

/// A connection to a monitor. Dropping it closes the connection.
#[derive(Debug)]
pub struct Client {
    sender: SendRequest<Full<Bytes>>,
    parcel: Parcel,
    driver: JoinHandle<()>,
}

impl Client {
    /// Connects. To be called in the context of a tokio runtime.
    ///
    /// # Errors
    /// Where nobody listens at the path.
    pub async fn connect(path: &Path) -> Result<Self, ClientError> {
        let failed = |source| ClientError::Connect { path: path.to_owned(), source };
        let stream = UnixStream::connect(path).await.map_err(failed)?;
        let parcel = Parcel::default();
        let outgoing = Outgoing::new(stream, parcel.clone());
        let (sender, connection) =
            handshake(outgoing).await.map_err(|error| failed(io::Error::other(error)))?;
        // How it ends is seen by the request that is under way then.
        let driver = tokio::spawn(async { drop(connection.await) });
        Ok(Self { sender, parcel, driver })
    }

    /// Makes any call. Descriptors go with the first bytes of the request, in order.
    ///
    /// # Errors
    /// Where there is no answer. A refusal is an answer.
    pub async fn request(
        &mut self,
        method: Method,
        endpoint: &str,
        body: Option<Vec<u8>>,
        fds: Vec<OwnedFd>,
    ) -> Result<Response, ClientError> {
        let broken = |source: Box<dyn std::error::Error + Send + Sync>| ClientError::Broken {
            endpoint: endpoint.to_owned(),
            source,
        };
        let mut request = hyper::Request::builder()
            .method(method.as_str())
            .uri(format!("{ROOT}{endpoint}"))
            .header(HOST, "localhost");
        if let Some(body) = &body {
            request = request.header(CONTENT_TYPE, "application/json").header(CONTENT_LENGTH, body.len());
        }
        let request = request
            .body(Full::new(Bytes::from(body.unwrap_or_default())))
            .map_err(|_| ClientError::BadEndpoint(endpoint.to_owned()))?;
        self.sender.ready().await.map_err(|error| broken(error.into()))?;
        self.parcel.put(fds);
        let response = self.sender.send_request(request).await.map_err(|error| broken(error.into()))?;
        let status = response.status().as_u16();
        let body = Limited::new(response.into_body(), MAX_ANSWER).collect().await.map_err(broken)?;
        Ok(Response { status, body: body.to_bytes().to_vec() })
    }

    /// Reads something.
    ///
    /// # Errors
    /// Where there is no answer, a refusal, or not the JSON expected.
    pub async fn get<T: DeserializeOwned>(&mut self, endpoint: &str) -> Result<T, ClientError> {
        self.request(Method::Get, endpoint, None, Vec::new()).await?.granted(endpoint)?.json(endpoint)
    }

    /// Makes a call that carries nothing.
    ///
    /// # Errors
    /// Where there is no answer, or a refusal.
    pub async fn put(&mut self, endpoint: &str) -> Result<Response, ClientError> {
        self.request(Method::Put, endpoint, None, Vec::new()).await?.granted(endpoint)
    }

    /// Makes a call that carries a body, and perhaps descriptors.
    ///
    /// # Errors
    /// Where there is no answer, or a refusal.
    pub async fn send<T: Serialize>(
        &mut self,
        endpoint: &str,
        body: &T,
        fds: Vec<OwnedFd>,
    ) -> Result<Response, ClientError> {
        let body = json::write(body)
            .map_err(|source| ClientError::Body { endpoint: endpoint.to_owned(), source })?;
        self.request(Method::Put, endpoint, Some(body), fds).await?.granted(endpoint)
    }

    /// `vmm.ping`.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub async fn ping(&mut self) -> Result<Ping, ClientError> {
        self.get("vmm.ping").await
    }

    /// `vm.info`.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub async fn info(&mut self) -> Result<VmInfo, ClientError> {
        self.get("vm.info").await
    }

    /// `vm.create`.
    ///
    /// # Errors
    /// As [`Client::send`].
    pub async fn create(&mut self, config: &VmConfig) -> Result<(), ClientError> {
        self.send("vm.create", config, Vec::new()).await.map(drop)
    }

    /// `vm.add-net`, with a tap for each pair of queues. What the device became; nothing before boot.
    ///
    /// # Errors
    /// As [`Client::send`].
    pub async fn add_net(
        &mut self,
        config: &NetConfig,
        taps: Vec<OwnedFd>,
    ) -> Result<Option<PciDeviceInfo>, ClientError> {
        let response = self.send("vm.add-net", config, taps).await?;
        if response.body.is_empty() { Ok(None) } else { response.json("vm.add-net").map(Some) }
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.driver.abort();
    }
}
