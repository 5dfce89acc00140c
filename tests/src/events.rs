//! The event file: pretty-printed JSON objects, each followed by an empty line (`--event-monitor`).

use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Deserializer, Value};

use crate::wait;

/// One event.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    /// Seconds since the monitor started.
    pub at: Duration,
    /// `vmm`, `vm`, `virtio-device`, …
    pub source: String,
    /// What happened.
    pub event: String,
    /// Details, by name.
    pub properties: Value,
}

impl Event {
    /// `source:event`.
    pub fn name(&self) -> String {
        format!("{}:{}", self.source, self.event)
    }
}

/// A file that events are written to.
#[derive(Debug)]
pub struct Events(PathBuf);

impl Events {
    /// The events of this file, which need not be there yet.
    pub fn new(path: PathBuf) -> Self {
        Self(path)
    }

    /// All events until now; one that is half written is left out.
    ///
    /// # Panics
    /// If an event does not have the format that libvirt reads.
    pub fn all(&self) -> Vec<Event> {
        let text = std::fs::read_to_string(&self.0).unwrap_or_default();
        parse(&text)
    }

    /// The events of `vm` and `vmm` in order, as `source:event`; how far long work has come is none of a life's turns.
    pub fn lifecycle(&self) -> Vec<String> {
        let all = self.all();
        all.iter()
            .filter(|e| (e.source == "vm" || e.source == "vmm") && e.event != "progress")
            .map(Event::name)
            .collect()
    }

    /// Waits for an event `source:event`.
    ///
    /// # Panics
    /// If it does not come.
    pub fn wait_for(&self, name: &str) -> Event {
        wait::until(wait::LONG, || self.all().into_iter().find(|e| e.name() == name)).unwrap_or_else(|| {
            panic!("no event {name} within {:?}; there were {:?}", wait::LONG, self.lifecycle())
        })
    }
}

fn parse(text: &str) -> Vec<Event> {
    let whole = text.rfind("\n\n").map_or("", |end| &text[..end + 2]);
    whole.split_terminator("\n\n").map(event).collect()
}

fn event(text: &str) -> Event {
    let mut values = Deserializer::from_str(text).into_iter::<Value>();
    let value = values.next().and_then(Result::ok).unwrap_or_else(|| panic!("not one JSON object: {text:?}"));
    assert!(values.next().is_none(), "events are parted by an empty line: {text:?}");
    let field = |name: &str| value[name].as_str().unwrap_or_else(|| panic!("no {name} in {text}")).to_owned();
    let number =
        |name: &str| value["timestamp"][name].as_u64().unwrap_or_else(|| panic!("no {name} in {text}"));
    Event {
        at: Duration::from_secs(number("secs")) + Duration::from_nanos(number("nanos")),
        source: field("source"),
        event: field("event"),
        properties: value["properties"].clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOOTING: &str = "{\n  \"timestamp\": {\n    \"secs\": 1,\n    \"nanos\": 5\n  },\n  \"source\": \"vm\",\n  \"event\": \"booting\",\n  \"properties\": null\n}\n\n";

    #[test]
    fn events_are_read_in_order_and_only_whole() {
        let half = &BOOTING[..40];
        let events = parse(&format!("{BOOTING}{}{half}", BOOTING.replace("booting", "booted")));
        let names: Vec<_> = events.iter().map(Event::name).collect();
        assert_eq!(names, ["vm:booting", "vm:booted"]);
        assert_eq!(events[0].at, Duration::new(1, 5));
        assert_eq!(parse(half), []);
    }
}
