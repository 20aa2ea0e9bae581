//! `ftd pair` as a service: it finds out by itself which side it is on, from a configuration file, and tells
//! the service manager.

use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use tests::guests::{text, tiny};
use tests::need_kvm;
use tests::pair::{Side, free_address};
use tests::program::{ftd, start_in, wait_for};

/// Two hosts with a configuration file each.
struct Hosts {
    directory: tempfile::TempDir,
}

impl Hosts {
    fn new() -> Hosts {
        let directory = tempfile::tempdir().expect("a directory");
        let at = |name: &str| directory.path().join(name);
        std::fs::create_dir(at("shared")).expect("a directory");
        let addresses = [free_address(), free_address()];
        for (host, other, name) in [(0, 1, "west"), (1, 0, "east")] {
            let console = text(&at(&format!("{name}.console")));
            let config = format!(
                "vm = \"demo\"\nkernel = \"{}\"\ncmdline = \"count=100000\"\nmemory = 16\n\
                 shared = \"{}\"\nconsole = \"file:{console}\"\n\
                 listen = \"{}\"\npeer = [\"{}\"]\n",
                tiny("ticker"),
                text(&at("shared")),
                addresses[host],
                addresses[other],
            );
            std::fs::write(at(&format!("{name}.toml")), config).expect("a file");
        }
        Hosts { directory }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Starts ftd on a host, with events of its own for each start.
    fn start(&self, name: &str, again: &str, environment: &[(&str, &str)]) -> Side {
        let config = text(&self.at(&format!("{name}.toml")));
        let events = self.at(&format!("{name}{again}.events"));
        let control = self.at(&format!("{name}.control"));
        let (events_option, control_option) = (text(&events), text(&control));
        let mut arguments = vec!["pair", "--config", &config];
        arguments.extend(["--events", &events_option, "--control", &control_option]);
        Side {
            running: start_in("info", environment, arguments),
            console: self.at(&format!("{name}.console")),
            events,
            control,
        }
    }
}

fn role(side: &mut Side, role: &str) {
    side.wait_for_status(role, |status| status["role"] == role);
}

#[test]
fn each_host_finds_its_side_and_redundancy_comes_back() {
    need_kvm!();
    let hosts = Hosts::new();
    let mut west = hosts.start("west", "", &[]);
    role(&mut west, "alone");
    let mut east = hosts.start("east", "", &[]);
    east.wait_for_event("protected");
    west.wait_for_event("protected");
    west.running.kill();
    east.wait_for_event("live");
    // What an operator greps for.
    wait_for("the event", || {
        east.running.stderr().contains(" event=live ").then_some(())
    });
    let (here, there) = (west.running.stderr(), east.running.stderr());
    for (log, events) in [
        (
            &here,
            [
                "started ",
                "guest_started generation=1",
                "joined with=",
                "protected ",
            ],
        ),
        (
            &there,
            ["started ", "joined with=", "protected ", "peer_lost "],
        ),
    ] {
        for event in events {
            assert!(log.contains(&format!(" event={event}")), "{event}: {log}");
        }
    }
    assert!(
        there.contains(" event=live ") && there.contains("generation=2"),
        "{there}"
    );
    assert!(!there.contains('\u{1b}'), "{there:?}");
    // Started again as it was, it is the backup of the other one.
    let mut west = hosts.start("west", "-again", &[]);
    west.wait_for_event("protected");
    let status = west.wait_for_status("a backup", |status| status["protected"] == true);
    assert_eq!(
        (&status["role"], &status["vm"]),
        (&"backup".into(), &"demo".into())
    );
    let said = west.running.stderr();
    assert!(said.contains("the guest runs on"), "{said}");
    // And back, in order.
    east.wait_for_status("a primary", |status| status["protected"] == true);
    ftd(["failover", "--control", &text(&east.control)]).succeeded();
    assert_eq!(east.running.wait().status, Some(3));
    role(&mut west, "alone");
    let mut east = hosts.start("east", "-again", &[]);
    east.wait_for_event("protected");
    west.wait_for_status("a primary", |status| status["protected"] == true);
    assert_eq!(west.wait_for_event("live")["generation"], 3);
}

#[test]
fn of_two_that_start_at_once_one_has_the_guest() {
    need_kvm!();
    let hosts = Hosts::new();
    let mut sides = [hosts.start("west", "", &[]), hosts.start("east", "", &[])];
    // The loser looks again, sees the winner, and joins it.
    for side in &mut sides {
        side.wait_for_status("a protected side", |status| status["protected"] == true);
    }
    let started = sides
        .iter()
        .filter(|side| side.event("guest_started").is_some());
    assert_eq!(started.count(), 1);
}

#[test]
fn a_joiner_whose_primary_is_gone_for_good_makes_room_for_a_start() {
    need_kvm!();
    let hosts = Hosts::new();
    let mut west = hosts.start("west", "", &[]);
    role(&mut west, "alone");
    // It lives, but says nothing.
    west.running.signal("STOP");
    let mut east = hosts.start("east", "", &[]);
    role(&mut east, "joining");
    let begun = Instant::now();
    west.running.kill();
    let ended = east.running.wait();
    assert_eq!(ended.status, Some(3), "{ended:?}");
    assert!(
        ended.stderr.contains("nobody has the guest any more"),
        "{ended:?}"
    );
    assert!(
        begun.elapsed() > Duration::from_secs(5),
        "it was in a hurry"
    );
    let mut east = hosts.start("east", "-again", &[]);
    assert_eq!(east.wait_for_event("guest_started")["generation"], 2);
}

#[test]
fn the_service_manager_is_told() {
    need_kvm!();
    let hosts = Hosts::new();
    let socket = hosts.at("notify");
    let manager = UnixDatagram::bind(&socket).unwrap();
    manager
        .set_read_timeout(Some(Duration::from_secs(60)))
        .unwrap();
    let address = text(&socket);
    let environment = [
        ("NOTIFY_SOCKET", address.as_str()),
        ("WATCHDOG_USEC", "200000"),
    ];
    let west = hosts.start("west", "", &environment);
    let mut bytes = [0; 1000];
    let mut next = || {
        let count = manager.recv(&mut bytes).expect("a word in time");
        String::from_utf8_lossy(&bytes[..count]).into_owned()
    };
    let mut until = |word: &str| {
        let mut before = Vec::new();
        loop {
            let said = next();
            if said == word {
                return before;
            }
            before.push(said);
        }
    };
    until("READY=1");
    until("STATUS=alone, not protected: it has no backup");
    until("WATCHDOG=1");
    let began = Instant::now();
    for _ in 0..10 {
        until("WATCHDOG=1");
    }
    // Each 100 ms; what a busy machine adds stays below what would have it killed.
    assert!(
        began.elapsed() < Duration::from_secs(2),
        "{:?}",
        began.elapsed()
    );
    west.running.terminate();
    until("STOPPING=1");
    west.running.wait().succeeded();
}

#[test]
fn what_is_wrong_in_the_file_is_named() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("vm.toml");
    let said = |config: &str, flags: &[&str], words: &[&str]| {
        std::fs::write(&file, config).expect("a file");
        let path = text(&file);
        let mut arguments = vec!["pair", "--config", path.as_str()];
        arguments.extend(flags);
        ftd(arguments).failed_with(2, words);
    };
    let line = |number: u32| format!("vm.toml:{number}: ");
    said(
        "vm = \"a\"\nmemmory = 5\n",
        &[],
        &[&line(2), "'memmory' is no key"],
    );
    said(
        "memory = 9999\n",
        &[],
        &[&line(1), "'memory' has an invalid value"],
    );
    said("memory 5\n", &[], &[&line(1)]);
    // What is missing is asked for as ever.
    said("vm = \"a\"\n", &[], &["--shared", "--listen", "--peer"]);
    // A flag goes before the file; one that is wrong there too is the flag's.
    let whole =
        "shared = \"/tmp\"\nlisten = \"127.0.0.1:1\"\npeer = [\"127.0.0.1:2\"]\nmemory = 16\n";
    said(whole, &["--memory", "1"], &["'1' for '--memory"]);
    let gone = Path::new("/no/such/file.toml");
    ftd(["pair", "--config", &text(gone)]).failed_with(2, &["/no/such/file.toml"]);
}
