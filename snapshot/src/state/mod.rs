//! `state.json`: what every component of the machine saved, and an importer that must use all of it.
//!
//! ```text
//!   {"components": [
//!     {"kind": "vcpu", "id": "0", "version": 1, "payload": …},
//!     {"kind": "gic", "id": "", "version": 1, "payload": …}
//!   ]}
//! ```
//!
//! A restored machine that ignores something a saved machine had is a different machine. Hence a component that nobody
//! [takes](StateReader::take) is an error, as is one whose version is later than its taker knows. The payload is the
//! component's own: a type made for saving, not the running one.

mod blob;

use std::collections::BTreeMap;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use thiserror::Error;

pub use blob::Blob;

/// The longest `state.json`.
pub const MAX_STATE: u64 = 64 << 20;
/// The longest name of a kind or an id.
const MAX_NAME: usize = 128;

/// Why state cannot be written or read.
#[derive(Debug, Error)]
pub enum StateError {
    /// Too long to look at.
    #[error("state of {bytes} bytes is longer than {MAX_STATE}")]
    TooLong {
        /// Its length.
        bytes: u64,
    },
    /// Not JSON, or not of this shape.
    #[error("state is not a list of components")]
    Shape(#[source] serde_json::Error),
    /// A name that is empty (a kind) or too long.
    #[error("component with a kind or id that is empty or longer than {MAX_NAME} bytes")]
    Name,
    /// The same component twice.
    #[error("component {component} is there twice")]
    Twice {
        /// Kind and id.
        component: Name,
    },
    /// A component that the importer needs.
    #[error("component {component} is missing")]
    Missing {
        /// Kind and id.
        component: Name,
    },
    /// Saved by a later version of the component.
    #[error("component {component} has version {found}; {newest} is the newest known")]
    Newer {
        /// Kind and id.
        component: Name,
        /// Its version.
        found: u32,
        /// What its taker knows.
        newest: u32,
    },
    /// The payload is not what its version says.
    #[error("payload of component {component}")]
    Payload {
        /// Kind and id.
        component: Name,
        /// Why.
        source: serde_json::Error,
    },
    /// Components that nobody took.
    #[error("{count} components that this machine does not have, the first {first}")]
    Leftover {
        /// How many.
        count: usize,
        /// One of them.
        first: Name,
    },
}

/// What a component is called.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Name {
    /// What it is: `vcpu`, `gic`, `virtio-net`, …
    pub kind: String,
    /// Which of them; empty where there is one only.
    pub id: String,
}

impl Name {
    fn new(kind: &str, id: &str) -> Self {
        Self { kind: kind.to_owned(), id: id.to_owned() }
    }
}

impl std::fmt::Display for Name {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.id.is_empty() { write!(f, "{}", self.kind) } else { write!(f, "{} {}", self.kind, self.id) }
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Component {
    kind: String,
    id: String,
    version: u32,
    payload: Value,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    components: Vec<Component>,
}

/// Collects what components save.
#[derive(Debug, Default)]
pub struct StateWriter {
    components: BTreeMap<Name, (u32, Value)>,
}

impl StateWriter {
    /// Adds what a component saved.
    ///
    /// # Errors
    /// Where it was added before, its name is not one, or the payload cannot be written as JSON.
    pub fn add(
        &mut self,
        kind: &str,
        id: &str,
        version: u32,
        payload: &impl Serialize,
    ) -> Result<(), StateError> {
        let component = Name::new(kind, id);
        check(&component)?;
        let payload = serde_json::to_value(payload)
            .map_err(|source| StateError::Payload { component: component.clone(), source })?;
        if self.components.contains_key(&component) {
            return Err(StateError::Twice { component });
        }
        self.components.insert(component, (version, payload));
        Ok(())
    }

    /// The bytes of `state.json`: one line for each component, in order of kind and id.
    ///
    /// # Errors
    /// Where they are too many.
    pub fn encode(self) -> Result<Vec<u8>, StateError> {
        let mut bytes = b"{\"components\": [".to_vec();
        for (index, (Name { kind, id }, (version, payload))) in self.components.into_iter().enumerate() {
            bytes.extend_from_slice(if index == 0 { b"\n  " } else { b",\n  " });
            let component = Component { kind, id, version, payload };
            serde_json::to_writer(&mut bytes, &component).map_err(StateError::Shape)?;
        }
        bytes.extend_from_slice(b"\n]}\n");
        let length = bytes.len() as u64;
        if length > MAX_STATE { Err(StateError::TooLong { bytes: length }) } else { Ok(bytes) }
    }
}

/// Gives each component what it saved, and knows what nobody asked for.
#[derive(Debug)]
pub struct StateReader {
    components: BTreeMap<Name, (u32, Value)>,
}

impl StateReader {
    /// Reads `state.json`.
    ///
    /// # Errors
    /// Where it is too long, is not of the shape, or names a component twice.
    pub fn decode(bytes: &[u8]) -> Result<Self, StateError> {
        if bytes.len() as u64 > MAX_STATE {
            return Err(StateError::TooLong { bytes: bytes.len() as u64 });
        }
        let file: File = serde_json::from_slice(bytes).map_err(StateError::Shape)?;
        let mut components = BTreeMap::new();
        for Component { kind, id, version, payload } in file.components {
            let component = Name { kind, id };
            check(&component)?;
            if components.contains_key(&component) {
                return Err(StateError::Twice { component });
            }
            components.insert(component, (version, payload));
        }
        Ok(Self { components })
    }

    /// What is left, with versions.
    pub fn left(&self) -> impl Iterator<Item = (&Name, u32)> {
        self.components.iter().map(|(component, (version, _))| (component, *version))
    }

    /// The ids of the components of a kind that are left, in order.
    #[must_use]
    pub fn ids(&self, kind: &str) -> Vec<String> {
        self.components.keys().filter(|name| name.kind == kind).map(|name| name.id.clone()).collect()
    }

    /// Takes what a component saved, with its version, which is at most `newest`.
    ///
    /// # Errors
    /// Where there is no such component, or it is of a later version, or its payload is not a `T`.
    pub fn take<T: DeserializeOwned>(
        &mut self,
        kind: &str,
        id: &str,
        newest: u32,
    ) -> Result<(u32, T), StateError> {
        let component = Name::new(kind, id);
        let Some((version, payload)) = self.components.remove(&component) else {
            return Err(StateError::Missing { component });
        };
        if version > newest {
            return Err(StateError::Newer { component, found: version, newest });
        }
        match serde_json::from_value(payload) {
            Ok(payload) => Ok((version, payload)),
            Err(source) => Err(StateError::Payload { component, source }),
        }
    }

    /// Ends the import.
    ///
    /// # Errors
    /// Where a component was not taken.
    pub fn finish(self) -> Result<(), StateError> {
        let count = self.components.len();
        match self.components.into_keys().next() {
            Some(first) => Err(StateError::Leftover { count, first }),
            None => Ok(()),
        }
    }
}

fn check(component: &Name) -> Result<(), StateError> {
    let Name { kind, id } = component;
    if kind.is_empty() || kind.len() > MAX_NAME || id.len() > MAX_NAME {
        Err(StateError::Name)
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests;
