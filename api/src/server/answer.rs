//! The bytes of an answer.
//!
//! Clients of Cloud Hypervisor parse them narrowly: the reason phrase is empty, `Content-Length: N` is spelled just so,
//! a 204 has neither length nor type, and every body is ASCII.

use std::borrow::Cow;

use http_body_util::Full;
use hyper::body::Bytes;
use hyper::ext::ReasonPhrase;
use hyper::header::{ALLOW, CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, HeaderValue, SERVER};
use hyper::{Response, StatusCode};

use super::request::Reply;
use crate::call::Method;
use crate::error::{ApiError, ErrorKind};

const SERVER_NAME: &str = "Cloud Hypervisor API";

/// An answer, and what hyper needs to know to send it.
pub(super) struct Answer {
    /// What is answered.
    pub result: Result<Reply, ApiError>,
    /// Whether the connection ends with it.
    pub close: bool,
    /// The method that the path has, where another one was used.
    pub allow: Option<Method>,
}

impl Answer {
    pub(super) fn into_response(self) -> Response<Full<Bytes>> {
        let type_ = match &self.result {
            Ok(Reply::Metrics(_)) => "text/plain; version=0.0.4",
            _ => "application/json",
        };
        let (status, body) = match self.result {
            Ok(Reply::Empty204) => (204, None),
            Ok(Reply::Empty200) => (200, Some(Vec::new())),
            Ok(Reply::Json(body)) => (200, Some(body)),
            Ok(Reply::Metrics(text)) => (200, Some(text.into_bytes())),
            Err(error) => (error.status(), Some(error.body())),
        };
        let body = body.map(escaped);
        let mut response = Response::new(Full::new(body.clone().unwrap_or_default().into()));
        // Every status is from a table of valid ones.
        *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        response.extensions_mut().insert(ReasonPhrase::from_static(b""));
        let headers = response.headers_mut();
        headers.insert(SERVER, HeaderValue::from_static(SERVER_NAME));
        let connection = if self.close { "close" } else { "keep-alive" };
        headers.insert(CONNECTION, HeaderValue::from_static(connection));
        if let Some(method) = self.allow {
            headers.insert(ALLOW, HeaderValue::from_static(method.as_str()));
        }
        if let Some(body) = body {
            headers.insert(CONTENT_TYPE, HeaderValue::from_static(type_));
            headers.insert(CONTENT_LENGTH, body.len().into());
        }
        response
    }
}

/// A body in ASCII, whoever wrote it. (Bytes that are not text at all cannot be JSON and stay as they are.)
fn escaped(body: Vec<u8>) -> Vec<u8> {
    match std::str::from_utf8(&body) {
        Ok(text) if !text.is_ascii() => crate::json::ascii(text).into_bytes(),
        _ => body,
    }
}

/// A whole answer as bytes, after which the connection closes: for when hyper has no request to answer.
pub(super) fn last_words(error: &ApiError) -> Vec<u8> {
    let body = error.body();
    let mut bytes = format!(
        "HTTP/1.1 {} \r\nServer: {SERVER_NAME}\r\nConnection: close\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\n\r\n",
        error.status(),
        body.len()
    )
    .into_bytes();
    bytes.extend_from_slice(&body);
    bytes
}

/// Replaces what hyper says by itself (to a request that it cannot parse, or to `Expect: 100-continue`) by the same in
/// this API's words.
///
/// It is told apart by its reason phrase, which ours never have; and no body of ours holds the CR LF behind it.
pub(super) fn in_our_words(bytes: &[u8]) -> Cow<'_, [u8]> {
    for (theirs, status) in [
        (&b" 100 Continue\r\n"[..], None),
        (b" 400 Bad Request\r\n", Some((ErrorKind::BadRequest, "the request is not HTTP"))),
        (b" 414 URI Too Long\r\n", Some((ErrorKind::BadRequest, "the path is too long"))),
        (b" 431 Request Header Fields Too Large\r\n", Some((ErrorKind::BadRequest, "the head is too large"))),
    ] {
        let Some(at) = find(bytes, theirs) else { continue };
        let line = at.saturating_sub("HTTP/1.1".len());
        let head = find(&bytes[at..], b"\r\n\r\n").map_or(bytes.len(), |end| at + end + 4);
        let mut ours = bytes[..line].to_vec();
        match status {
            None => ours.extend_from_slice(b"HTTP/1.1 100 \r\n\r\n"),
            Some((kind, cause)) => ours.extend(last_words(&ApiError::plain(kind, &["Bad Request", cause]))),
        }
        ours.extend_from_slice(&bytes[head..]);
        return Cow::Owned(ours);
    }
    Cow::Borrowed(bytes)
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|window| window == needle)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hypers_own_words_are_replaced_and_nothing_else_is() {
        let ours = in_our_words(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 \r\nServer: x\r\n\r\n");
        assert_eq!(&*ours, b"HTTP/1.1 100 \r\n\r\nHTTP/1.1 204 \r\nServer: x\r\n\r\n");
        let ours = in_our_words(
            b"HTTP/1.1 200 \r\nA: b\r\n\r\n{}HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n",
        );
        let text = String::from_utf8(ours.into_owned()).unwrap();
        assert!(text.starts_with("HTTP/1.1 200 \r\nA: b\r\n\r\n{}HTTP/1.1 400 \r\nServer: "), "{text}");
        assert!(text.ends_with(r#"["Bad Request","the request is not HTTP"]"#), "{text}");
        let plain = b"HTTP/1.1 400 \r\n\r\n[\" 400 Bad Request\\r\\n\"]";
        assert!(matches!(in_our_words(plain), Cow::Borrowed(_)));
    }
}
