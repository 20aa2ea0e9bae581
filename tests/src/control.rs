//! Asking a running `ftd` over its control socket, in its own words.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use serde_json::Value;

/// Sends a line and gives the answer; none if nobody listens there, or no longer.
#[track_caller]
pub fn ask(path: &Path, request: &str) -> Option<Value> {
    let mut stream = UnixStream::connect(path).ok()?;
    let patience = Some(Duration::from_secs(30));
    stream.set_read_timeout(patience).expect("a time limit");
    writeln!(stream, "{request}").ok()?;
    let mut line = String::new();
    let read = BufReader::new(stream).read_line(&mut line);
    let timed_out = |error: &std::io::Error| error.kind() == std::io::ErrorKind::WouldBlock;
    assert!(!read.as_ref().is_err_and(timed_out), "no answer in time");
    if read.ok()? == 0 {
        return None;
    }
    Some(serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line:?}")))
}

/// The status of the `ftd` there.
pub fn status(path: &Path) -> Option<Value> {
    ask(path, r#"{"ask":"status"}"#)
}

/// Changes a bit of the copy of the guest there; what comes of it.
#[track_caller]
pub fn flip(path: &Path, what: &str) -> Value {
    let request = serde_json::json!({"ask": "flip", "what": what});
    ask(path, &request.to_string()).expect("somebody who listens")
}
