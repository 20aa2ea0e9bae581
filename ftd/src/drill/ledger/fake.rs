//! A Redis server of a few lines, with defects on demand: the client's tests must be able to fail.

use std::collections::HashMap;
use std::io::{Read, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::resp::{self, Value};

const MISCONF: &[u8] = b"-MISCONF Errors writing to the AOF file: Input/output error\r\n";
const LOADING: &[u8] = b"-LOADING Redis is loading the dataset in memory\r\n";

/// What goes wrong, at the n-th write that reaches the server (from 1).
#[derive(Debug, Clone, Copy)]
pub enum Defect {
    /// It is acknowledged and forgotten.
    Forget(u64),
    /// It takes effect twice; the answer is that of the first time.
    Double(u64),
    /// The state returns to what it was so many writes before, as after a fail-over to an old copy.
    RollBack(u64, u64),
    /// It takes effect, and the connection is closed without an answer.
    Close(u64),
    /// The answer comes so late.
    Silence(u64, Duration),
    /// It is answered with an error and has no effect.
    Refuse(u64),
    /// Another value is stored than was sent.
    Garble(u64),
    /// From it on everything is refused for so long, as by a server that was started again and loads its data.
    Load(u64, Duration),
    /// From it on nothing is answered at all, and nobody can connect.
    Vanish(u64),
}

#[derive(Default, Clone)]
struct Data {
    strings: HashMap<Vec<u8>, Vec<u8>>,
    lists: HashMap<Vec<u8>, Vec<Vec<u8>>>,
}

struct Server {
    data: Data,
    history: Vec<Data>,
    writes: u64,
    gone: bool,
    loading_until: Option<Instant>,
    /// Its disk fails: it refuses a PING as it does writes.
    is_failing: bool,
    defects: Vec<Defect>,
}

enum Outcome {
    Answer(Vec<u8>),
    Late(Vec<u8>, Duration),
    Close,
    Nothing,
}

/// Starts a server with these defects on a port of its own; it lives as long as the process.
pub fn serve(defects: &[Defect]) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    let address = listener.local_addr().expect("address");
    let server = Arc::new(Mutex::new(Server {
        data: Data::default(),
        history: Vec::new(),
        writes: 0,
        gone: false,
        loading_until: None,
        is_failing: false,
        defects: defects.to_vec(),
    }));
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            if server.lock().expect("lock").gone {
                continue;
            }
            let server = Arc::clone(&server);
            std::thread::spawn(move || converse(stream, &server));
        }
    });
    address
}

fn converse(mut stream: TcpStream, server: &Mutex<Server>) {
    let (mut received, mut chunk) = (Vec::new(), [0; 4096]);
    loop {
        while let Ok(Some((Value::Array(parts), used))) = resp::parse(&received) {
            received.drain(..used);
            let parts: Vec<Vec<u8>> = parts
                .into_iter()
                .map(|part| match part {
                    Value::Bulk(Some(bytes)) => bytes,
                    other => panic!("request with {other:?}"),
                })
                .collect();
            let outcome = server.lock().expect("lock").handle(&parts);
            let answer = match outcome {
                Outcome::Answer(answer) => answer,
                Outcome::Late(answer, delay) => {
                    std::thread::sleep(delay);
                    answer
                }
                Outcome::Close => return,
                Outcome::Nothing => continue,
            };
            if stream.write_all(&answer).is_err() {
                return;
            }
        }
        match stream.read(&mut chunk) {
            Ok(0) | Err(_) => return,
            Ok(count) => received.extend_from_slice(&chunk[..count]),
        }
    }
}

impl Server {
    fn handle(&mut self, parts: &[Vec<u8>]) -> Outcome {
        let name = String::from_utf8_lossy(&parts[0]).into_owned();
        if self.gone {
            return Outcome::Nothing;
        }
        if self.loading_until.is_some_and(|end| Instant::now() < end) {
            return Outcome::Answer(LOADING.to_vec());
        }
        if self.is_failing && name == "PING" {
            return Outcome::Answer(MISCONF.to_vec());
        }
        if !matches!(name.as_str(), "SET" | "INCR" | "RPUSH") {
            return Outcome::Answer(self.data.read(&name, parts));
        }
        self.writes += 1;
        self.history.push(self.data.clone());
        let now = self.writes;
        let defect = self.defects.iter().copied().find(|defect| match defect {
            Defect::Forget(n) | Defect::Double(n) | Defect::RollBack(n, _) | Defect::Close(n) => {
                *n == now
            }
            Defect::Silence(n, _) | Defect::Refuse(n) | Defect::Garble(n) => *n == now,
            Defect::Vanish(n) | Defect::Load(n, _) => *n == now,
        });
        let before = self.data.clone();
        let answer = self.data.write(&name, parts);
        match defect {
            None => Outcome::Answer(answer),
            Some(Defect::Forget(_)) => {
                self.data = before;
                Outcome::Answer(answer)
            }
            Some(Defect::Double(_)) => {
                self.data.write(&name, parts);
                Outcome::Answer(answer)
            }
            Some(Defect::RollBack(_, back)) => {
                self.data = self.history[self.history.len() - 1 - back as usize].clone();
                Outcome::Answer(self.data.write(&name, parts))
            }
            Some(Defect::Close(_)) => Outcome::Close,
            Some(Defect::Silence(_, delay)) => Outcome::Late(answer, delay),
            Some(Defect::Refuse(_)) => {
                self.data = before;
                self.is_failing = true;
                Outcome::Answer(MISCONF.to_vec())
            }
            Some(Defect::Load(_, time)) => {
                self.data = before;
                self.loading_until = Some(Instant::now() + time);
                Outcome::Answer(LOADING.to_vec())
            }
            Some(Defect::Garble(_)) => {
                self.data
                    .strings
                    .insert(parts[1].clone(), b"0:garbage".to_vec());
                Outcome::Answer(answer)
            }
            Some(Defect::Vanish(_)) => {
                self.gone = true;
                Outcome::Nothing
            }
        }
    }
}

impl Data {
    fn write(&mut self, name: &str, parts: &[Vec<u8>]) -> Vec<u8> {
        let key = parts[1].clone();
        match name {
            "SET" => {
                self.strings.insert(key, parts[2].clone());
                b"+OK\r\n".to_vec()
            }
            "INCR" => {
                let value = self.strings.entry(key).or_insert_with(|| b"0".to_vec());
                let number: i64 = String::from_utf8_lossy(value).parse().expect("a number");
                *value = (number + 1).to_string().into_bytes();
                format!(":{}\r\n", number + 1).into_bytes()
            }
            _ => {
                let list = self.lists.entry(key).or_default();
                list.push(parts[2].clone());
                format!(":{}\r\n", list.len()).into_bytes()
            }
        }
    }

    fn read(&self, name: &str, parts: &[Vec<u8>]) -> Vec<u8> {
        let bulk = |bytes: &[u8]| {
            let mut out = format!("${}\r\n", bytes.len()).into_bytes();
            out.extend_from_slice(bytes);
            out.extend_from_slice(b"\r\n");
            out
        };
        match name {
            "PING" => b"+PONG\r\n".to_vec(),
            "GET" => self
                .strings
                .get(&parts[1])
                .map_or(b"$-1\r\n".to_vec(), |v| bulk(v)),
            "LRANGE" => {
                let number = |part: &[u8]| -> usize {
                    String::from_utf8_lossy(part).parse().expect("a number")
                };
                let list = self.lists.get(&parts[1]).map_or(&[][..], Vec::as_slice);
                let to = (number(&parts[3]) + 1).min(list.len());
                let page = &list[number(&parts[2]).min(to)..to];
                let mut out = format!("*{}\r\n", page.len()).into_bytes();
                page.iter().for_each(|element| out.extend(bulk(element)));
                out
            }
            _ => b"-ERR unknown command\r\n".to_vec(),
        }
    }
}
