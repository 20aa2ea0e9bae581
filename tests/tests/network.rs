//! The guest's network, in a network namespace that goes away with the test: what a client on a bridge
//! sees of a fail-over.

use std::io::ErrorKind;
use std::net::UdpSocket;
use std::process::Command;
use std::time::{Duration, Instant};

use tests::guests::tiny;
use tests::need_kvm;
use tests::pair::Pair;

/// The address that the tiny guest answers at.
const GUEST: &str = "10.77.2.100:7";
/// Set for the test that runs in a namespace.
const INSIDE: &str = "FTD_TEST_NAMESPACE";
const SET_UP: &str = "ip link set lo up && ip link add br0 type bridge && \
                      ip addr add 10.77.2.1/24 dev br0 && ip link set br0 up";

#[test]
fn a_client_talks_on_through_a_fail_over() {
    need_kvm!();
    // This program again, with the other test alone, inside.
    let inside = Command::new("unshare")
        .args(["--net", "--map-root-user", "--"])
        .arg(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "inside_a_namespace", "--nocapture"])
        .env(INSIDE, "1")
        .output();
    let inside = match inside {
        Ok(inside) => inside,
        Err(error) => {
            eprintln!("SKIPPED: cannot run unshare: {error}");
            return;
        }
    };
    let (out, err) = (
        String::from_utf8_lossy(&inside.stdout),
        String::from_utf8_lossy(&inside.stderr),
    );
    if err.starts_with("unshare:") {
        eprintln!("SKIPPED: no namespaces here: {err}");
        return;
    }
    assert!(inside.status.success(), "{out}{err}");
    assert!(out.contains("1 passed"), "{out}{err}");
    println!("{out}");
}

#[test]
#[ignore = "run by the other test, in a network namespace of its own"]
fn inside_a_namespace() {
    // Whoever runs all ignored tests would otherwise get a bridge.
    assert!(
        std::env::var_os(INSIDE).is_some(),
        "this is no new namespace"
    );
    let set_up = Command::new("sh").args(["-c", SET_UP]).status().unwrap();
    assert!(set_up.success());
    let pair = Pair::new();
    let kernel = tiny("net");
    let bridge = ["--bridge", "br0"];
    let mut primary = pair.primary(&kernel, &[&bridge[..], &["--wait-backup"]].concat());
    let mut backup = pair.backup("backup", &bridge);
    backup.wait_for_event("protected");

    let socket = UdpSocket::bind("10.77.2.1:0").unwrap();
    let mut client = Client { socket, sent: 0 };
    for _ in 0..200 {
        client.ask(Duration::from_secs(10));
    }
    let killed = Instant::now();
    primary.running.kill();
    client.ask(Duration::from_secs(30));
    let gap = killed.elapsed();
    backup.wait_for_event("live");
    for _ in 0..200 {
        client.ask(Duration::from_secs(10));
    }
    println!("the client saw a gap of {} ms", gap.as_millis());
    assert!(gap < Duration::from_secs(5), "{gap:?}");
    client.socket.send_to(b"quit", GUEST).unwrap();
    backup.running.wait().succeeded();
}

struct Client {
    socket: UdpSocket,
    sent: u32,
}

impl Client {
    /// Asks until the answer comes, as a client over UDP must. Each answer must be to this question or to
    /// an older one.
    #[track_caller]
    fn ask(&mut self, patience: Duration) {
        let start = Instant::now();
        self.sent += 1;
        let question = format!("question {:08}", self.sent);
        let mut answer = [0; 100];
        while start.elapsed() < patience {
            self.socket
                .send_to(question.as_bytes(), GUEST)
                .expect("a way to the guest");
            let resend = Instant::now() + Duration::from_millis(50);
            while let Some(left) = resend.checked_duration_since(Instant::now()) {
                let left = left.max(Duration::from_millis(1));
                self.socket.set_read_timeout(Some(left)).expect("a timeout");
                match self.socket.recv(&mut answer) {
                    Ok(len) if &answer[..len] == question.as_bytes() => return,
                    Ok(len) => assert!(&answer[..len] < question.as_bytes(), "{answer:?}"),
                    Err(error)
                        if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
                    Err(error) => panic!("{error}"),
                }
            }
        }
        panic!("no answer to {question:?} in {patience:?}");
    }
}
