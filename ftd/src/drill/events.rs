//! The daemons' event logs: a JSON object a line, `{"t_unix_ns":..., "event":"...", ...}`.

use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// An event.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// When, by the daemon's host's clock, in nanoseconds since 1970.
    pub t_unix_ns: u64,
    /// Its name.
    pub event: String,
    /// Everything else.
    #[serde(flatten)]
    pub fields: Map<String, Value>,
}

impl Event {
    /// A numeric field.
    pub fn number(&self, name: &str) -> Option<f64> {
        self.fields.get(name)?.as_f64()
    }

    /// A field as text.
    pub fn text(&self, name: &str) -> Option<String> {
        match self.fields.get(name)? {
            Value::String(text) => Some(text.clone()),
            other => Some(other.to_string()),
        }
    }
}

/// An event log that is being written.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Events(pub Vec<Event>);

impl Events {
    /// Reads what is there; a line that isn't whole (yet), or no event, is left out. No file is an
    /// empty log.
    pub fn read(path: &Path) -> Self {
        let bytes = std::fs::read(path).unwrap_or_default();
        let lines = String::from_utf8_lossy(&bytes);
        Events(
            lines
                .lines()
                .filter_map(|line| serde_json::from_str(line).ok())
                .collect(),
        )
    }

    /// The first event of this name.
    pub fn first(&self, name: &str) -> Option<&Event> {
        self.0.iter().find(|event| event.event == name)
    }

    /// The events from number `index` on.
    pub fn from(&self, index: usize) -> Events {
        Events(self.0.get(index..).unwrap_or_default().to_vec())
    }

    /// Whether the last that is said of protection is that there is some.
    pub fn is_protected(&self) -> bool {
        let telling = ["protected", "peer_lost", "alone", "halted", "guest_ended"];
        let last = self
            .0
            .iter()
            .rev()
            .find(|event| telling.contains(&event.event.as_str()));
        last.is_some_and(|event| event.event == "protected")
    }

    /// How many events have this name.
    pub fn count(&self, name: &str) -> u64 {
        self.0.iter().filter(|event| event.event == name).count() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_read_up_to_the_torn_end() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("events");
        let text = concat!(
            "{\"t_unix_ns\":5,\"event\":\"started\",\"role\":\"primary\",\"host_kvm\":true}\n",
            "not json\n",
            "{\"t_unix_ns\":9,\"event\":\"live\",\"go_live_ms\":12.5}\n",
            "{\"t_unix_ns\":10,\"eve"
        );
        std::fs::write(&path, text).expect("write");
        let events = Events::read(&path);
        assert_eq!(events.0.len(), 2);
        let started = events.first("started").expect("started");
        assert_eq!(started.text("role").as_deref(), Some("primary"));
        assert_eq!(started.text("host_kvm").as_deref(), Some("true"));
        assert_eq!(
            events.first("live").and_then(|e| e.number("go_live_ms")),
            Some(12.5)
        );
        assert_eq!((events.count("live"), events.count("alone")), (1, 0));
        assert_eq!(events.from(1).count("started"), 0);
        assert_eq!(Events::read(&folder.path().join("none")), Events::default());
    }

    #[test]
    fn protection_is_what_was_said_last() {
        let events = |names: &[&str]| {
            let event = |name: &&str| Event {
                t_unix_ns: 0,
                event: (*name).into(),
                fields: Map::new(),
            };
            Events(names.iter().map(event).collect())
        };
        assert!(!events(&["started"]).is_protected());
        assert!(events(&["protected", "other"]).is_protected());
        assert!(!events(&["protected", "peer_lost"]).is_protected());
        assert!(events(&["protected", "peer_lost", "alone", "protected"]).is_protected());
    }
}
