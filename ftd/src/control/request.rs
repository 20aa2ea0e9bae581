//! What may be asked.

use serde::{Deserialize, Serialize};
use vmm::guest::{Flip, UnknownFlip};

/// A request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Request {
    /// What is known of this side.
    Status,
    /// Hand the guest to the backup; the answer waits until it is live there.
    Failover,
    /// Change a bit of this copy of the guest: a test hook.
    Flip(Flip),
    /// Make a system call that is not allowed: a test hook.
    BreakOut,
}

/// A line that is no request.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    /// Not JSON, or not one of ours.
    #[error("not understood ({0}); ask for example {{\"ask\":\"status\"}}")]
    Unknown(#[source] serde_json::Error),
    /// Nothing that can be changed.
    #[error(transparent)]
    Flip(#[from] UnknownFlip),
}

/// As it is on the wire.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "lowercase", deny_unknown_fields)]
enum Wire {
    // With braces it has no unknown fields either.
    Status {},
    Failover {},
    Flip {
        what: String,
    },
    #[serde(rename = "break-out")]
    BreakOut {},
}

impl Request {
    /// Reads a line.
    ///
    /// # Errors
    /// It is no request.
    pub fn parse(line: &[u8]) -> Result<Request, RequestError> {
        match serde_json::from_slice(line).map_err(RequestError::Unknown)? {
            Wire::Status {} => Ok(Request::Status),
            Wire::Failover {} => Ok(Request::Failover),
            Wire::BreakOut {} => Ok(Request::BreakOut),
            Wire::Flip { what } => Ok(Request::Flip(what.parse()?)),
        }
    }
}

/// Whether a guest with so much RAM has that bit.
///
/// # Errors
/// It has not, for people.
pub fn check_flip(flip: Flip, ram_bytes: u64) -> Result<(), String> {
    match flip {
        Flip::Ram(address) if address >= ram_bytes => Err(format!(
            "the guest has no RAM at {address:#x}: it ends at {ram_bytes:#x}"
        )),
        Flip::Ram(_) | Flip::Register | Flip::Device => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_read() {
        let parse = |line: &str| Request::parse(line.as_bytes()).unwrap();
        assert_eq!(parse(r#"{"ask":"status"}"#), Request::Status);
        assert_eq!(parse(r#"{"ask":"failover"}"#), Request::Failover);
        assert_eq!(
            parse(r#" {"what":"ram:0xa00000","ask":"flip"} "#),
            Request::Flip(Flip::Ram(0xa0_0000))
        );
        let register = r#"{"ask":"flip","what":"register"}"#;
        assert_eq!(parse(register), Request::Flip(Flip::Register));
        assert_eq!(parse(r#"{"ask":"break-out"}"#), Request::BreakOut);
    }

    #[test]
    fn a_flip_is_inside_the_guest() {
        assert!(check_flip(Flip::Ram(0xff_ffff), 16 << 20).is_ok());
        let why = check_flip(Flip::Ram(16 << 20), 16 << 20).unwrap_err();
        assert!(why.contains("no RAM at 0x1000000"), "{why}");
        assert!(check_flip(Flip::Register, 0).is_ok());
    }

    #[test]
    fn what_is_no_request_is_named() {
        for (line, words) in [
            ("status", "not understood"),
            ("{", "not understood"),
            ("[]", "not understood"),
            ("{}", "`ask`"),
            (r#"{"ask":"fly"}"#, "`fly`"),
            (r#"{"ask":7}"#, "not understood"),
            (r#"{"ask":"status","deep":[[[]]]}"#, "`deep`"),
            (r#"{"ask":"flip"}"#, "`what`"),
            (r#"{"ask":"flip","what":"disk"}"#, "'disk'"),
            ("\u{0}\u{1}", "not understood"),
        ] {
            let said = Request::parse(line.as_bytes()).unwrap_err().to_string();
            assert!(said.contains(words), "{line}: {said}");
        }
        assert!(Request::parse(b"\xff\xfe{}").is_err());
        let deep = "[".repeat(4000);
        assert!(Request::parse(deep.as_bytes()).is_err());
    }
}
