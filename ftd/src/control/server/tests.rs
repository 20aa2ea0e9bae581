use std::io::{BufRead, BufReader};
use std::net::Shutdown;
use std::path::PathBuf;

use super::*;
use crate::host::local_socket::connect;

/// Answers with its number of questions as pid.
#[derive(Default)]
struct Daemon {
    asked: u32,
    flips: Vec<Flip>,
}

impl Answers for Daemon {
    fn status(&mut self) -> Report {
        self.asked += 1;
        Report {
            pid: self.asked,
            ..Report::default()
        }
    }

    fn failover(&mut self) -> Result<(), String> {
        match self.asked {
            0 => Err("there is no backup".to_owned()),
            _ => Ok(()),
        }
    }

    fn flip(&mut self, flip: Flip) -> Result<(), String> {
        if flip == Flip::Device {
            return Err("no guest is here".to_owned());
        }
        self.flips.push(flip);
        Ok(())
    }
}

struct Served {
    control: Control,
    daemon: Daemon,
    path: PathBuf,
    _directory: tempfile::TempDir,
}

impl Served {
    fn new(debug_hooks: bool) -> Served {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("control");
        let options = ControlOptions {
            path: &path,
            debug_hooks,
        };
        Served {
            control: Control::open(&options).unwrap(),
            daemon: Daemon::default(),
            path,
            _directory: directory,
        }
    }

    fn client(&mut self) -> UnixStream {
        let client = connect(&self.path).unwrap();
        client.set_nonblocking(false).unwrap();
        let patience = Some(Duration::from_secs(10));
        client.set_read_timeout(patience).unwrap();
        self.turns();
        client
    }

    /// Until nothing is left to do.
    fn turns(&mut self) {
        for _ in 0..10_000 {
            if !self.control.turn(&mut self.daemon) {
                return;
            }
        }
        panic!("there is always more to do");
    }

    fn ask(&mut self, client: &mut UnixStream, request: &str) -> Value {
        client.write_all(request.as_bytes()).unwrap();
        self.turns();
        line(client)
    }
}

fn line(client: &UnixStream) -> Value {
    let mut text = String::new();
    BufReader::new(client).read_line(&mut text).unwrap();
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text:?}"))
}

fn says(value: &Value, words: &str) {
    assert_eq!(value["ok"], false);
    let text = value["error"].as_str().unwrap_or_default();
    assert!(text.contains(words), "{text}");
}

#[test]
fn a_client_asks_and_asks_again() {
    let mut served = Served::new(false);
    let mut client = served.client();
    for number in 1..=3 {
        let answer = served.ask(&mut client, "{\"ask\":\"status\"}\n");
        assert_eq!(
            (answer["ok"].as_bool(), answer["pid"].as_u64()),
            (Some(true), Some(number))
        );
        assert!(answer["uptime_s"].as_f64().is_some_and(|up| up > 0.0));
        assert!(answer["lag_ms"].is_null() && answer.get("lag_ms").is_some());
    }
}

#[test]
fn nonsense_is_answered_and_forgiven() {
    let mut served = Served::new(false);
    let mut client = served.client();
    says(&served.ask(&mut client, "hello\n"), "not understood");
    says(&served.ask(&mut client, "{\"ask\":\"fly\"}\n"), "`fly`");
    assert_eq!(
        served.ask(&mut client, "{\"ask\":\"status\"}\n")["ok"],
        true
    );
}

#[test]
fn an_oversized_request_ends_the_connection() {
    let mut served = Served::new(false);
    let mut client = served.client();
    says(
        &served.ask(&mut client, &"x".repeat(5000)),
        "at most 4096 bytes",
    );
    assert!(served.control.clients.is_empty());
    assert_eq!(client.read(&mut [0; 10]).unwrap_or(0), 0);
}

#[test]
fn one_who_sends_a_request_without_an_end_and_hangs_up_is_answered() {
    let mut served = Served::new(false);
    let mut client = served.client();
    client.write_all(b"{\"ask\":\"status\"}").unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    served.turns();
    assert_eq!(line(&client)["ok"], true);
    assert!(served.control.clients.is_empty());
}

#[test]
fn one_who_does_not_read_its_answers_is_dropped() {
    let mut served = Served::new(false);
    let mut client = served.client();
    client.set_nonblocking(true).unwrap();
    let request = "{\"ask\":\"status\"}\n".repeat(100);
    for _ in 0..1000 {
        let _ = client.write(request.as_bytes());
        served.turns();
        if served.control.clients.is_empty() {
            return;
        }
    }
    panic!("{} answers wait for it", served.daemon.asked);
}

#[test]
fn clients_are_few_and_the_next_one_is_told() {
    let mut served = Served::new(false);
    let mut clients: Vec<UnixStream> = (0..CLIENTS_MAX).map(|_| served.client()).collect();
    says(&line(&served.client()), "too many");
    assert_eq!(
        served.ask(&mut clients[0], "{\"ask\":\"status\"}\n")["ok"],
        true
    );
    // One that left makes room, and so do those who have been silent for long.
    drop(clients.pop());
    served.turns();
    let mut next = served.client();
    assert_eq!(served.ask(&mut next, "{\"ask\":\"status\"}\n")["ok"], true);
    served.control.clients[1].heard -= IDLE;
    let mut another = served.client();
    assert_eq!(
        served.ask(&mut another, "{\"ask\":\"status\"}\n")["ok"],
        true
    );
    assert_eq!(served.control.clients.len(), CLIENTS_MAX);
}

#[test]
fn hooks_are_for_those_who_asked_for_them() {
    let request = "{\"ask\":\"flip\",\"what\":\"ram:0xa00000\"}\n";
    let mut served = Served::new(false);
    let mut client = served.client();
    says(&served.ask(&mut client, request), "--debug-hooks");
    assert!(served.daemon.flips.is_empty());
    let mut served = Served::new(true);
    let mut client = served.client();
    assert_eq!(served.ask(&mut client, request), json!({"ok": true}));
    assert_eq!(served.daemon.flips, [Flip::Ram(0xa0_0000)]);
    let device = "{\"ask\":\"flip\",\"what\":\"device\"}\n";
    says(&served.ask(&mut client, device), "no guest is here");
}

#[test]
fn who_asks_for_a_hand_over_waits_for_its_end() {
    let mut served = Served::new(false);
    let mut client = served.client();
    let request = "{\"ask\":\"failover\"}\n";
    says(&served.ask(&mut client, request), "there is no backup");
    assert!(!served.control.is_waited_for());
    let status = "{\"ask\":\"status\"}\n";
    served.ask(&mut client, status);
    client.write_all(request.as_bytes()).unwrap();
    client.write_all(status.as_bytes()).unwrap();
    served.turns();
    assert!(served.control.is_waited_for());
    assert_eq!(served.daemon.asked, 1, "its next request waits, too");
    // Another one is served meanwhile, and who waits is not sent away for its silence.
    served.control.clients[0].heard -= IDLE;
    let mut others: Vec<UnixStream> = (0..CLIENTS_MAX).map(|_| served.client()).collect();
    assert_eq!(served.ask(&mut others[0], status)["ok"], true);
    served.control.tell(&Err("it is gone".to_owned()));
    says(&line(&client), "it is gone");
    served.turns();
    assert_eq!(line(&client)["pid"], 3);
}
