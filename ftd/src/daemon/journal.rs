//! Events for operators and drills. Each is a line of the program's log, `event=NAME KEY=VALUE ...`, which can be
//! searched for; and a JSON object a line in a file, if one was asked for, with the time of day.
//!
//! Names and keys stay as they are: scripts and drills rely on them.

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::{Map, Value};

use crate::host::clock::realtime_ns;

/// The file of events, if one was asked for.
#[derive(Debug, Default)]
pub struct Journal {
    file: Option<File>,
}

impl Journal {
    /// Appends to `path`.
    pub fn open(path: Option<&Path>) -> Result<Journal> {
        let Some(path) = path else {
            return Ok(Journal::default());
        };
        let file = OpenOptions::new()
            .create(true)
            .append(true)
            .open(path)
            .with_context(|| format!("cannot write events to {}", path.display()))?;
        Ok(Journal { file: Some(file) })
    }

    /// Writes one event. `facts` is a JSON object.
    pub fn event(&mut self, name: &str, facts: Value) {
        tracing::info!("{}", line(name, &facts));
        let mut object = Map::new();
        object.insert("t_unix_ns".to_owned(), realtime_ns().into());
        object.insert("event".to_owned(), name.into());
        if let Value::Object(facts) = facts {
            object.extend(facts);
        }
        let line = Value::Object(object).to_string();
        if let Some(file) = &mut self.file
            && let Err(error) = writeln!(file, "{line}")
        {
            tracing::warn!("cannot write an event: {error}");
            self.file = None;
        }
    }
}

/// The event as words: facts that are not known are left out, and texts are quoted where they hold more than a
/// word.
fn line(name: &str, facts: &Value) -> String {
    let mut line = format!("event={name}");
    for (key, value) in facts.as_object().into_iter().flatten() {
        match value {
            Value::Null => {}
            Value::String(text) if is_word(text) => line.push_str(&format!(" {key}={text}")),
            value => line.push_str(&format!(" {key}={value}")),
        }
    }
    line
}

fn is_word(text: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.:/".contains(&byte);
    !text.is_empty() && text.bytes().all(plain)
}

/// An error and its causes in a line.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_event_is_words_that_can_be_searched_for() {
        let facts =
            json!({"host": "west", "why": "it \"left\"\nsoon", "ms": 1.5, "to": null, "no": ""});
        assert_eq!(
            line("peer_lost", &facts),
            r#"event=peer_lost host=west ms=1.5 no="" why="it \"left\"\nsoon""#
        );
        assert_eq!(line("storage_back", &json!({})), "event=storage_back");
    }

    #[test]
    fn events_are_appended_to_the_file() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("events");
        for number in 1..=2 {
            let mut journal = Journal::open(Some(&path)).unwrap();
            journal.event("live", json!({"generation": number, "go_live_ms": null}));
        }
        let text = std::fs::read_to_string(&path).unwrap();
        let events: Vec<Value> = text
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        assert_eq!(
            (&events[0]["event"], &events[1]["generation"]),
            (&"live".into(), &2.into())
        );
        assert!(events[0]["t_unix_ns"].is_u64() && events[0]["go_live_ms"].is_null());
    }
}
