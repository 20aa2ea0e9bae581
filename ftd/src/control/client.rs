//! Asking a running ftd.

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::errno::Errno;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::{HandedOver, Report};
use crate::host::local_socket::connect;

/// An ftd that does not answer within this time hangs.
const PATIENCE: Duration = Duration::from_secs(5);
/// A hand-over may take so long: its own limits are shorter.
const HAND_OVER_PATIENCE: Duration = Duration::from_secs(60);
/// Longest answer, in bytes.
const ANSWER_BYTES_MAX: u64 = 1 << 20;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// There is no such file.
    #[error(
        "nobody listens on {}: there is no such socket; give the path that ftd was started with (--control)",
        .path.display()
    )]
    NoSocket {
        /// The socket.
        path: PathBuf,
    },
    /// Its process is gone.
    #[error("nobody listens on {}: the ftd that made this socket is gone", .path.display())]
    Gone {
        /// The socket.
        path: PathBuf,
    },
    /// The kernel refuses.
    #[error("cannot connect to {}", .path.display())]
    Connect {
        /// The socket.
        path: PathBuf,
        /// What it said.
        #[source]
        source: std::io::Error,
    },
    /// It hangs.
    #[error("nothing answers on {} within {seconds} s: the process that listens there hangs", .path.display())]
    Silent {
        /// The socket.
        path: PathBuf,
        /// How long it was waited for.
        seconds: u64,
    },
    /// It hung up.
    #[error("{} was closed before an answer came: that ftd is ending", .path.display())]
    Closed {
        /// The socket.
        path: PathBuf,
    },
    /// Something else listens there.
    #[error("what answers on {} is no ftd: {why}", .path.display())]
    NotFtd {
        /// The socket.
        path: PathBuf,
        /// What is wrong with its answer.
        why: String,
    },
    /// It refused.
    #[error("the ftd on {} says: {why}", .path.display())]
    Refused {
        /// The socket.
        path: PathBuf,
        /// Why.
        why: String,
    },
}

/// Asks the ftd that listens on `path` for its status: as it came, and as it is understood.
///
/// # Errors
/// [`AskError`], which names the path.
pub fn status(path: &Path) -> Result<(Value, Report), AskError> {
    understood(path, ask(path, &json!({"ask": "status"}), PATIENCE)?)
}

/// Has the ftd that listens on `path` hand its guest to its backup, and waits until it is live there: as it
/// came, and as it is understood.
///
/// # Errors
/// [`AskError`], which names the path.
pub fn failover(path: &Path) -> Result<(Value, HandedOver), AskError> {
    let request = json!({"ask": "failover"});
    understood(path, ask(path, &request, HAND_OVER_PATIENCE)?)
}

fn understood<T: DeserializeOwned>(path: &Path, value: Value) -> Result<(Value, T), AskError> {
    match serde_json::from_value(value.clone()) {
        Ok(answer) => Ok((value, answer)),
        Err(error) => Err(AskError::NotFtd {
            path: path.to_owned(),
            why: error.to_string(),
        }),
    }
}

fn ask(path: &Path, request: &Value, patience: Duration) -> Result<Value, AskError> {
    let seconds = patience.as_secs();
    let here = || path.to_owned();
    let stream = connect(path).map_err(|errno| match errno {
        Errno::ENOENT => AskError::NoSocket { path: here() },
        Errno::ECONNREFUSED => AskError::Gone { path: here() },
        Errno::EAGAIN => AskError::Silent {
            path: here(),
            seconds,
        },
        errno => AskError::Connect {
            path: here(),
            source: errno.into(),
        },
    })?;
    let lost = |error: std::io::Error| match error.kind() {
        ErrorKind::WouldBlock | ErrorKind::TimedOut => AskError::Silent {
            path: here(),
            seconds,
        },
        ErrorKind::ConnectionReset | ErrorKind::BrokenPipe => AskError::Closed { path: here() },
        _ => AskError::Connect {
            path: here(),
            source: error,
        },
    };
    stream.set_nonblocking(false).map_err(lost)?;
    stream.set_read_timeout(Some(patience)).map_err(lost)?;
    stream.set_write_timeout(Some(patience)).map_err(lost)?;
    // One that was turned away at the door can't write, but was told why.
    let written = (&stream).write_all(format!("{request}\n").as_bytes());
    let mut line = Vec::new();
    let mut answers = BufReader::new(&stream).take(ANSWER_BYTES_MAX);
    let read = answers.read_until(b'\n', &mut line);
    if line.is_empty() {
        written.map_err(lost)?;
        read.map_err(lost)?;
        return Err(AskError::Closed { path: here() });
    }
    let not_ftd = |why: String| AskError::NotFtd { path: here(), why };
    let answer: Value =
        serde_json::from_slice(&line).map_err(|error| not_ftd(error.to_string()))?;
    match (answer["ok"].as_bool(), answer["error"].as_str()) {
        (Some(true), _) => Ok(answer),
        (Some(false), Some(why)) => Err(AskError::Refused {
            path: here(),
            why: why.to_owned(),
        }),
        _ => Err(not_ftd("it does not say whether all is well".to_owned())),
    }
}
