//! Events for operators and drills: one JSON object a line, with the time of day.

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
        let mut object = Map::new();
        object.insert("t_unix_ns".to_owned(), realtime_ns().into());
        object.insert("event".to_owned(), name.into());
        if let Value::Object(facts) = facts {
            object.extend(facts);
        }
        let line = Value::Object(object).to_string();
        tracing::debug!("event {line}");
        if let Some(file) = &mut self.file
            && let Err(error) = writeln!(file, "{line}")
        {
            tracing::warn!("cannot write an event: {error}");
            self.file = None;
        }
    }
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
