//! A server that does what the arbiter needs of etcd's gateway, and fails on demand.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

/// How it answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mood {
    Well,
    Hangs,
    NoLeader,
    Nonsense,
    /// It does what it is told, and closes the connection.
    LosesAnswers,
}

struct State {
    mood: Mood,
    keys: BTreeMap<Vec<u8>, Vec<u8>>,
}

pub struct Fake {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
}

impl Fake {
    pub fn start() -> Fake {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(Mutex::new(State {
            mood: Mood::Well,
            keys: BTreeMap::new(),
        }));
        let shared = Arc::clone(&state);
        // Both end with the test's process.
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let state = Arc::clone(&shared);
                std::thread::spawn(move || serve(&stream, &state));
            }
        });
        Fake { address, state }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn name(&self) -> String {
        format!("etcd:http://{}", self.address)
    }

    pub fn set(&self, mood: Mood) {
        self.state.lock().unwrap().mood = mood;
    }

    pub fn keys(&self) -> usize {
        self.state.lock().unwrap().keys.len()
    }

    pub fn forget(&self) {
        self.state.lock().unwrap().keys.clear();
    }
}

fn serve(stream: &TcpStream, state: &Mutex<State>) {
    let mut reader = BufReader::new(stream);
    loop {
        let mut head = Vec::new();
        let mut length = 0;
        loop {
            let mut line = String::new();
            match reader.read_line(&mut line) {
                Ok(0) | Err(_) => return,
                Ok(_) if line == "\r\n" => break,
                Ok(_) => {}
            }
            if let Some(text) = line.to_lowercase().strip_prefix("content-length:") {
                length = text.trim().parse().unwrap();
            }
            head.push(line);
        }
        assert!(head[0].starts_with("POST /v3/kv/txn "), "{head:?}");
        let mut body = vec![0; length];
        reader.read_exact(&mut body).unwrap();
        let mut state = state.lock().unwrap();
        let (status, answer) = match state.mood {
            Mood::Hangs => {
                drop(state);
                std::thread::sleep(Duration::from_secs(20));
                return;
            }
            Mood::LosesAnswers => {
                transact(&mut state.keys, &serde_json::from_slice(&body).unwrap());
                return;
            }
            Mood::NoLeader => (
                503,
                r#"{"error":"etcdserver: no leader","code":14}"#.to_owned(),
            ),
            Mood::Nonsense => (200, "<html>welcome</html>".to_owned()),
            Mood::Well => {
                let body = serde_json::from_slice(&body).unwrap();
                (200, transact(&mut state.keys, &body).to_string())
            }
        };
        drop(state);
        let len = answer.len();
        let answer = format!("HTTP/1.1 {status} x\r\ncontent-length: {len}\r\n\r\n{answer}");
        if { stream }.write_all(answer.as_bytes()).is_err() {
            return;
        }
    }
}

fn bytes(value: &Value) -> Vec<u8> {
    STANDARD.decode(value.as_str().unwrap_or_default()).unwrap()
}

/// The keys that a range names.
fn range(keys: &BTreeMap<Vec<u8>, Vec<u8>>, range: &Value) -> Vec<Vec<u8>> {
    let key = bytes(&range["key"]);
    let end = bytes(&range["range_end"]);
    let within = |found: &&Vec<u8>| match end.is_empty() {
        true => **found == key,
        false => **found >= key && **found < end,
    };
    let mut found: Vec<Vec<u8>> = keys.keys().filter(within).cloned().collect();
    if range["sort_order"] == "DESCEND" {
        found.reverse();
    }
    if let Some(limit) = range["limit"].as_str() {
        found.truncate(limit.parse().unwrap());
    }
    found
}

fn transact(keys: &mut BTreeMap<Vec<u8>, Vec<u8>>, body: &Value) -> Value {
    let none = Vec::new();
    let list = |name: &str| body[name].as_array().unwrap_or(&none);
    let holds = list("compare").iter().all(|compare| {
        assert_eq!(
            (&compare["target"], &compare["result"]),
            (&json!("CREATE"), &json!("EQUAL"))
        );
        assert_eq!(compare["create_revision"], "0");
        range(keys, compare).is_empty()
    });
    let mut responses = Vec::new();
    for request in list(if holds { "success" } else { "failure" }) {
        if let Some(put) = request.get("request_put") {
            keys.insert(bytes(&put["key"]), bytes(&put["value"]));
            responses.push(json!({ "response_put": {} }));
        } else if let Some(delete) = request.get("request_delete_range") {
            for key in range(keys, delete) {
                keys.remove(&key);
            }
            responses.push(json!({ "response_delete_range": {} }));
        } else {
            let asked = &request["request_range"];
            let pair = |key: Vec<u8>| match asked["keys_only"] == true {
                true => json!({ "key": STANDARD.encode(&key) }),
                false => {
                    json!({ "key": STANDARD.encode(&key), "value": STANDARD.encode(&keys[&key]) })
                }
            };
            let found: Vec<Value> = range(keys, asked).into_iter().map(pair).collect();
            responses.push(match found.is_empty() {
                true => json!({ "response_range": { "header": {} } }),
                false => json!({ "response_range": { "header": {}, "kvs": found } }),
            });
        }
    }
    let mut answer = json!({ "header": { "cluster_id": "1" }, "responses": responses });
    if holds {
        answer["succeeded"] = true.into();
    }
    answer
}
