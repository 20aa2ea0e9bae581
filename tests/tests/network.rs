//! The guest's network, in a network namespace that goes away with the test: what a client on a bridge
//! sees of a fail-over.

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::net::UdpSocket;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tests::guests::{text, tiny};
use tests::need_kvm;
use tests::pair::{Pair, Side};
use tests::program::ftd;

/// The address that the tiny guest answers at.
const GUEST: &str = "10.77.2.100:7";
/// Set for the test that runs in a namespace.
const INSIDE: &str = "FTD_TEST_NAMESPACE";
/// The bridge has an address of its own: else it takes the least of its ports', and the client's address would
/// change with the TAP that a host takes with it.
const SET_UP: &str = "ip link set lo up && ip link add br0 address 02:00:00:00:00:01 type bridge && \
                      ip addr add 10.77.2.1/24 dev br0 && ip link set br0 up";

#[test]
fn a_client_talks_on_through_a_fail_over() {
    need_kvm!();
    run_inside("inside_a_namespace");
}

#[test]
fn a_planned_hand_over_loses_no_packet() {
    need_kvm!();
    run_inside("handed_over_inside_a_namespace");
}

/// Runs this program again, with one test alone, in a network namespace of its own.
#[track_caller]
fn run_inside(test: &str) {
    let inside = Command::new("unshare")
        .args(["--net", "--map-root-user", "--"])
        .arg(std::env::current_exe().expect("this program"))
        .args(["--ignored", "--exact", test, "--nocapture"])
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

/// A protected pair on a bridge, whose guest answers.
fn on_a_bridge(pair: &Pair) -> (Side, Side) {
    // Whoever runs all ignored tests would otherwise get a bridge.
    assert!(
        std::env::var_os(INSIDE).is_some(),
        "this is no new namespace"
    );
    let set_up = Command::new("sh")
        .args(["-c", SET_UP])
        .status()
        .expect("sh");
    assert!(set_up.success());
    let kernel = tiny("net");
    let bridge = ["--bridge", "br0"];
    let primary = pair.primary(&kernel, &[&bridge[..], &["--wait-backup"]].concat());
    let mut backup = pair.backup("backup", &bridge);
    backup.wait_for_event("protected");
    (primary, backup)
}

#[test]
#[ignore = "run by another test, in a network namespace of its own"]
fn inside_a_namespace() {
    let pair = Pair::new();
    let (mut primary, mut backup) = on_a_bridge(&pair);
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

/// Questions are sent in even time, each of them once; every one must be answered.
#[test]
#[ignore = "run by another test, in a network namespace of its own"]
fn handed_over_inside_a_namespace() {
    let pair = Pair::new();
    let (primary, mut backup) = on_a_bridge(&pair);
    let socket = UdpSocket::bind("10.77.2.1:0").unwrap();
    let mut client = Client { socket, sent: 0 };
    // The bridge, and this host, know the guest from here on.
    for _ in 0..50 {
        client.ask(Duration::from_secs(10));
    }
    let socket = client.socket;
    let asking = Arc::new(AtomicBool::new(true));
    let asker = {
        let (socket, asking) = (socket.try_clone().unwrap(), Arc::clone(&asking));
        std::thread::spawn(move || {
            let mut sent = 0_u32;
            while asking.load(Ordering::Relaxed) {
                sent += 1;
                let question = format!("once {sent:08}");
                socket.send_to(question.as_bytes(), GUEST).unwrap();
                std::thread::sleep(Duration::from_millis(5));
            }
            sent
        })
    };
    let ender = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(500));
        let done = ftd(["failover", "--control", &text(&primary.control), "--json"]);
        let done = done.succeeded().json();
        assert_eq!(primary.running.wait().status, Some(3));
        std::thread::sleep(Duration::from_millis(500));
        asking.store(false, Ordering::Relaxed);
        done
    });
    let mut answered = BTreeSet::new();
    let mut answer = [0; 100];
    let patience = Some(Duration::from_secs(3));
    socket.set_read_timeout(patience).unwrap();
    while let Ok(len) = socket.recv(&mut answer) {
        let text = std::str::from_utf8(&answer[..len]).unwrap();
        if let Some(number) = text.strip_prefix("once ") {
            answered.insert(number.parse::<u32>().unwrap());
        }
    }
    let (sent, done) = (asker.join().unwrap(), ender.join().unwrap());
    println!("{sent} questions; {done}");
    let lost: Vec<u32> = (1..=sent)
        .filter(|asked| !answered.contains(asked))
        .collect();
    assert!(lost.is_empty(), "no answer to {lost:?}: {done}");
    assert!(sent > 150 && done["frames_lost"] == 0, "{done}");
    assert!(done["frames_passed_on"].as_u64() > Some(0), "{done}");
    backup.wait_for_event("live");
    socket.send_to(b"quit", GUEST).unwrap();
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
