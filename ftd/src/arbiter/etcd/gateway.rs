//! etcd's JSON gateway: v3 requests over HTTP, with keys and values in base64.

use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::Value;
use ureq::Agent;

use super::member::Member;

/// How long one member has for its answer. An election takes about a second.
const PATIENCE: Duration = Duration::from_millis(1500);
/// How long all of them have: less than a holder's lease, so that it notices in time.
const PATIENCE_ALL: Duration = Duration::from_millis(3500);
/// Longest answer that is read, in bytes. What is asked for is a few keys.
const ANSWER_BYTES_MAX: u64 = 256 << 10;

/// Why etcd has no answer.
#[derive(Debug, thiserror::Error)]
pub enum GatewayError {
    /// Its name stands for no address.
    #[error(
        "the name in {endpoint} is not known on this host: see /etc/hosts and the name service"
    )]
    Unknown {
        /// The member, as it was named.
        endpoint: String,
        /// What the look-up said.
        #[source]
        source: std::io::Error,
    },
    /// No connection, no answer in time, or a damaged one.
    #[error("{endpoint} does not answer")]
    NoAnswer {
        /// Who was asked last.
        endpoint: String,
        /// What went wrong.
        #[source]
        source: Box<ureq::Error>,
    },
    /// It answered with an error: no leader, no space, no such call.
    #[error("{endpoint} refuses (HTTP status {status}): {message}")]
    Refused {
        /// Who was asked last.
        endpoint: String,
        /// HTTP status.
        status: u16,
        /// What it says.
        message: String,
    },
    /// It answered with something else than etcd does.
    #[error("{endpoint} answers with what etcd would not say: is it etcd 3.4 or later?")]
    NotEtcd {
        /// Who was asked last.
        endpoint: String,
    },
}

/// A key that was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) key: String,
    pub(super) value: Vec<u8>,
}

/// Members of one etcd, of which the one that answered last is asked first.
#[derive(Debug)]
pub(super) struct Gateway {
    members: Vec<Member>,
    first: usize,
    agent: Agent,
}

/// Text as the gateway wants bytes.
pub(super) fn base64(text: &str) -> String {
    STANDARD.encode(text)
}

impl Gateway {
    /// To at least one member.
    pub(super) fn new(members: Vec<Member>) -> Gateway {
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            // What decides over the guest is asked directly, whatever the environment says.
            .proxy(None)
            .timeout_global(Some(PATIENCE))
            .user_agent("ftd")
            .build();
        Gateway {
            members,
            first: 0,
            agent: config.new_agent(),
        }
    }

    /// Carries a transaction out; whether its condition held, and what its ranges found. It may have been
    /// carried out even if that fails, or twice.
    ///
    /// # Errors
    /// That of the last member asked.
    pub(super) fn transact(&mut self, body: &Value) -> Result<(bool, Vec<Found>), GatewayError> {
        let body = body.to_string();
        let start = Instant::now();
        let count = self.members.len();
        let mut turn = 0;
        loop {
            let index = (self.first + turn) % count;
            let error = match self.ask(&self.members[index], &body) {
                Ok(answer) => {
                    self.first = index;
                    return Ok(answer);
                }
                Err(error) => error,
            };
            turn += 1;
            // Once more than there are: a connection that was kept may have been closed since.
            if turn > count || start.elapsed() + PATIENCE > PATIENCE_ALL {
                // Not the same one first again if it was the one that took all the time.
                self.first = (index + 1) % count;
                return Err(error);
            }
        }
    }

    fn ask(&self, member: &Member, body: &str) -> Result<(bool, Vec<Found>), GatewayError> {
        let failed = |source| GatewayError::NoAnswer {
            endpoint: member.name.clone(),
            source: Box::new(source),
        };
        let mut answer = self
            .agent
            .post(format!("{}/v3/kv/txn", member.url))
            .header("content-type", "application/json")
            .send(body)
            .map_err(failed)?;
        let status = answer.status().as_u16();
        let body = answer.body_mut().with_config().limit(ANSWER_BYTES_MAX);
        let text = body.read_to_vec().map_err(failed)?;
        if status != 200 {
            return Err(GatewayError::Refused {
                endpoint: member.name.clone(),
                status,
                message: message_in(&text),
            });
        }
        understand(&text).ok_or_else(|| GatewayError::NotEtcd {
            endpoint: member.name.clone(),
        })
    }
}

/// What an answer with an error says, for people.
fn message_in(text: &[u8]) -> String {
    let value: Option<Value> = serde_json::from_slice(text).ok();
    let said = value.as_ref().and_then(|value| {
        let said = value.get("error").or_else(|| value.get("message"))?;
        said.as_str().map(str::to_owned)
    });
    let said = said.unwrap_or_else(|| String::from_utf8_lossy(text).into_owned());
    said.chars().filter(|c| !c.is_control()).take(200).collect()
}

/// The answer to a transaction (etcd's rpc.proto, `TxnResponse`). What is 0, false or empty is left out.
#[derive(Debug, Deserialize)]
struct Answer {
    /// Which member, at which revision: every answer has it.
    header: Header,
    #[serde(default)]
    succeeded: bool,
    #[serde(default)]
    responses: Vec<Response>,
}

#[derive(Debug, Deserialize)]
struct Header {
    /// A number, as text.
    cluster_id: String,
}

#[derive(Debug, Deserialize)]
struct Response {
    response_range: Option<Range>,
}

#[derive(Debug, Deserialize)]
struct Range {
    #[serde(default)]
    kvs: Vec<Pair>,
}

#[derive(Debug, Deserialize)]
struct Pair {
    key: String,
    #[serde(default)]
    value: String,
}

fn understand(text: &[u8]) -> Option<(bool, Vec<Found>)> {
    let Answer {
        header,
        succeeded,
        responses,
    } = serde_json::from_slice(text).ok()?;
    header.cluster_id.parse::<u64>().ok()?;
    let pairs = responses
        .into_iter()
        .filter_map(|response| response.response_range)
        .flat_map(|range| range.kvs);
    let found = pairs.map(|pair| {
        Some(Found {
            key: String::from_utf8(STANDARD.decode(pair.key).ok()?).ok()?,
            value: STANDARD.decode(pair.value).ok()?,
        })
    });
    Some((succeeded, found.collect::<Option<_>>()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_etcd_says_is_understood() {
        let answer = br#"{"header":{"cluster_id":"14841639068965178418","member_id":"1","revision":"5",
            "raft_term":"2"},"responses":[{"response_put":{"header":{"revision":"5"}}},{"response_range":
            {"header":{},"kvs":[{"key":"L2Z0ZA==","create_revision":"2","mod_revision":"2","version":"1",
            "value":"ZWFzdA=="},{"key":"YQ=="}],"count":"2"}},{"response_range":{"header":{}}}]}"#;
        let found = |key: &str, value: &str| Found {
            key: key.to_owned(),
            value: value.into(),
        };
        let (succeeded, all) = understand(answer).unwrap();
        assert!(!succeeded);
        assert_eq!(all, [found("/ftd", "east"), found("a", "")]);
        let made = br#"{"header":{"cluster_id":"1"},"succeeded":true}"#;
        assert_eq!(understand(made), Some((true, Vec::new())));
    }

    #[test]
    fn what_etcd_does_not_say_is_no_answer() {
        for text in [
            "",
            "{}",
            "<html>",
            r#"{"header":{}}"#,
            r#"{"header":{"cluster_id":"1"},"succeeded":"yes"}"#,
            r#"{"header":{"cluster_id":"1"},"responses":[{"response_range":{"kvs":[{"key":"?"}]}}]}"#,
        ] {
            assert_eq!(understand(text.as_bytes()), None, "{text}");
        }
    }

    #[test]
    fn an_error_is_told_shortly() {
        let error = br#"{"error":"etcdserver: no leader","code":14,"message":"x"}"#;
        assert_eq!(message_in(error), "etcdserver: no leader");
        assert_eq!(message_in(b"<html>\n404</html>"), "<html>404</html>");
        assert_eq!(message_in(&[b'x'; 5000]).len(), 200);
    }
}
