//! What a monitor answered.

use serde::de::DeserializeOwned;

use super::ClientError;
use crate::json;

/// An answer, granted or not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    /// The HTTP status code.
    pub status: u16,
    /// The body; often empty.
    pub body: Vec<u8>,
}

impl Response {
    /// Why the call was refused, outermost cause first; none if it was granted.
    pub fn causes(&self) -> Option<Vec<String>> {
        if (200..300).contains(&self.status) {
            return None;
        }
        // Other monitors answer some errors in other words; these are shown as they are.
        let causes = json::parse(&self.body).unwrap_or_else(|_| {
            let text = String::from_utf8_lossy(&self.body).trim().to_owned();
            [format!("HTTP status {}", self.status), text]
                .into_iter()
                .filter(|text| !text.is_empty())
                .collect()
        });
        Some(causes)
    }

    /// The answer if it is not a refusal.
    ///
    /// # Errors
    /// If it is.
    pub fn granted(self, endpoint: &str) -> Result<Self, ClientError> {
        match self.causes() {
            None => Ok(self),
            Some(causes) => {
                Err(ClientError::Refused { endpoint: endpoint.to_owned(), status: self.status, causes })
            }
        }
    }

    /// What the body says.
    ///
    /// # Errors
    /// If it is not the JSON expected.
    pub fn json<T: DeserializeOwned>(&self, endpoint: &str) -> Result<T, ClientError> {
        json::parse(&self.body).map_err(|source| ClientError::Body { endpoint: endpoint.to_owned(), source })
    }
}
