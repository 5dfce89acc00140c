//! Events, as the event monitor writes them: a pretty-printed object and an empty line each.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Something that happened to the VM or the monitor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Event {
    /// When, counted from the start of the monitor.
    pub timestamp: Timestamp,
    /// `vmm`, `vm`, `virtio-device`, ….
    pub source: String,
    /// `starting`, `booted`, `shutdown`, ….
    pub event: String,
    /// What else is to say.
    pub properties: Option<BTreeMap<String, String>>,
}

/// A time since the start of the monitor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Timestamp {
    /// Whole seconds.
    pub secs: u64,
    /// Nanoseconds beyond them.
    pub nanos: u32,
}

impl From<Duration> for Timestamp {
    fn from(since: Duration) -> Self {
        Self { secs: since.as_secs(), nanos: since.subsec_nanos() }
    }
}

impl Event {
    /// An event without properties.
    pub fn new(since_start: Duration, source: &str, event: &str) -> Self {
        Self { timestamp: since_start.into(), source: source.into(), event: event.into(), properties: None }
    }

    /// Adds a property.
    #[must_use]
    pub fn with(mut self, key: &str, value: impl Into<String>) -> Self {
        self.properties.get_or_insert_default().insert(key.into(), value.into());
        self
    }

    /// The bytes that a reader of the event monitor gets.
    pub fn to_stream(&self) -> Vec<u8> {
        // Numbers, strings and a map with string keys can always be written.
        let text = serde_json::to_string_pretty(self).unwrap_or_default();
        let mut bytes = crate::json::ascii(&text).into_bytes();
        bytes.extend_from_slice(b"\n\n");
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stream_has_cloud_hypervisors_format() {
        let event = Event::new(Duration::from_millis(1500), "vm", "booted");
        let expected = "{\n  \"timestamp\": {\n    \"secs\": 1,\n    \"nanos\": 500000000\n  },\n  \"source\": \"vm\",\n  \
                        \"event\": \"booted\",\n  \"properties\": null\n}\n\n";
        assert_eq!(event.to_stream(), expected.as_bytes());
        let event = event.with("id", "_disk0");
        assert!(String::from_utf8(event.to_stream()).unwrap().contains("\"id\": \"_disk0\""));
    }
}
