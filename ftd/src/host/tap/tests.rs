use std::net::UdpSocket;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::*;

/// Set in the child that runs inside a namespace of its own.
const INSIDE: &str = "FTD_TEST_IN_NETNS";

/// Runs the test called `name` once more, inside a new network namespace. True in the child, which
/// is where the test's body belongs.
fn in_namespace(name: &str) -> bool {
    if std::env::var_os(INSIDE).is_some() {
        return true;
    }
    if !Path::new(DEVICE).exists() {
        println!("skipped: no {DEVICE}");
        return false;
    }
    let probe = Command::new("unshare")
        .args(["-n", "true"])
        .stderr(Stdio::null())
        .status();
    if !probe.is_ok_and(|status| status.success()) {
        println!("skipped: no right to make a network namespace (not root), or no unshare(1)");
        return false;
    }
    // A /sys of the new namespace is needed to see its interfaces.
    let script = "mount -t sysfs none /sys && ip link set lo up && exec \"$0\" \"$@\"";
    let output = Command::new("unshare")
        .args(["-n", "-m", "sh", "-c", script])
        .arg(std::env::current_exe().unwrap())
        .args([
            &format!("host::tap::tests::{name}"),
            "--exact",
            "--nocapture",
        ])
        .env(INSIDE, "1")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success() && text.contains("1 passed"),
        "{text}{error}"
    );
    print!("{error}");
    false
}

fn ip(args: &str) {
    let status = Command::new("ip").args(args.split(' ')).status().unwrap();
    assert!(status.success(), "ip {args}");
}

fn named(name: &str) -> TapOptions {
    TapOptions {
        name: Some(name.to_owned()),
        ..TapOptions::default()
    }
}

fn refused(options: &TapOptions) -> String {
    let text = Tap::open(options).unwrap_err().to_string();
    eprintln!("{text}");
    text
}

/// The next frame of an EtherType, past what the host's own IPv6 sends.
fn next_of_type(tap: &Tap, ether_type: [u8; 2]) -> Vec<u8> {
    let mut buf = vec![0; tap.frame_bytes_max()];
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(5) {
        match tap.read_frame(&mut buf).unwrap() {
            Some(len) if buf[12..14] == ether_type => return buf[..len].to_vec(),
            Some(_) => {}
            None => std::thread::sleep(Duration::from_millis(2)),
        }
    }
    panic!("no frame of type {ether_type:02x?}");
}

#[test]
fn names_are_checked() {
    for bad in [
        "",
        "sixteen-bytes-xx",
        "a/b",
        "a b",
        "..",
        "tap%d",
        "a\0b",
        "é",
    ] {
        assert!(
            matches!(check_name(bad), Err(TapError::BadName(_))),
            "{bad}"
        );
    }
    for good in ["ftd%d", "tap0", "fifteen-bytes-x"] {
        check_name(good).unwrap();
    }
}

#[test]
fn frames_pass_both_ways() {
    if !in_namespace("frames_pass_both_ways") {
        return;
    }
    let tap = Tap::open(&TapOptions {
        mtu: Some(1400),
        ..TapOptions::default()
    })
    .unwrap();
    assert_eq!((tap.name(), tap.mtu()), ("ftd0", 1400));
    ip("addr add 10.9.0.1/24 dev ftd0");
    // The host asks who has 10.9.0.2; the answer makes it send the datagram.
    let socket = UdpSocket::bind("10.9.0.1:1000").unwrap();
    socket
        .set_read_timeout(Some(Duration::from_secs(5)))
        .unwrap();
    socket.send_to(&[0x77; 1372], "10.9.0.2:2000").unwrap();
    let request = next_of_type(&tap, [0x08, 0x06]);
    assert_eq!(request[38..42], [10, 9, 0, 2]);
    let guest = [0x52, 0x54, 0, 1, 2, 3];
    let mut reply = Vec::new();
    reply.extend([&request[6..12], &guest[..], &[8, 6, 0, 1, 8, 0, 6, 4, 0, 2]].concat());
    reply.extend([&guest[..], &[10, 9, 0, 2], &request[22..32]].concat());
    assert!(tap.write_frame(&reply).unwrap());
    let datagram = next_of_type(&tap, [0x08, 0x00]);
    // As long as the MTU allows, whole, and within the promised buffer.
    assert_eq!(datagram.len(), 1400 + 14);
    assert!(datagram.len() <= tap.frame_bytes_max());
    let mut answer = datagram.clone();
    for (to, from, len) in [
        (0, 6, 6),
        (26, 30, 4),
        (30, 26, 4),
        (34, 36, 2),
        (36, 34, 2),
    ] {
        answer[to..to + len].copy_from_slice(&datagram[from..from + len]);
    }
    answer[6..12].copy_from_slice(&guest);
    // UDP's checksum may be left out, and swapping addresses leaves the header's as it was.
    answer[40..42].fill(0);
    assert!(tap.write_frame(&answer).unwrap());
    let mut back = [0; 2000];
    let (len, from) = socket.recv_from(&mut back).unwrap();
    assert_eq!((len, from.to_string()), (1372, "10.9.0.2:2000".to_owned()));

    assert!(!tap.write_frame(&[0; 5]).unwrap(), "a runt is lost");
    tap.set_up(false).unwrap();
    assert!(
        !tap.write_frame(&answer).unwrap(),
        "a frame into a downed link is lost"
    );
    assert_eq!(tap.read_frame(&mut [0; 2000]).unwrap(), None);
    tap.set_up(true).unwrap();
    assert!(tap.write_frame(&answer).unwrap());
    drop(tap);
    assert!(
        interface::index("ftd0").is_err(),
        "a created TAP goes with its owner"
    );
}

#[test]
fn joins_a_bridge() {
    if !in_namespace("joins_a_bridge") {
        return;
    }
    ip("link add br0 type bridge");
    ip("link set br0 mtu 1280 up");
    let options = TapOptions {
        bridge: Some("br0".to_owned()),
        ..named("tapx")
    };
    let tap = Tap::open(&options).unwrap();
    assert_eq!(bridge_of("tapx").as_deref(), Some("br0"));
    assert_eq!(tap.mtu(), 1280);
    assert!(refused(&options).contains("in use by another process"));
    drop(tap);

    ip("tuntap add dev kept mode tap");
    ip("link set kept master br0");
    let kept = TapOptions {
        name: Some("kept".to_owned()),
        ..options.clone()
    };
    drop(Tap::open(&kept).unwrap());
    interface::index("kept").unwrap();
    ip("link add br1 type bridge");
    let bridge = |bridge: &str| TapOptions {
        bridge: Some(bridge.to_owned()),
        ..kept.clone()
    };
    assert!(refused(&bridge("br1")).contains("already on bridge br0"));
    assert!(refused(&bridge("br9")).contains("ip link add br9 type bridge"));
    assert!(refused(&bridge("lo")).contains("not a bridge"));
}

#[test]
fn refusals_say_what_to_do() {
    if !in_namespace("refusals_say_what_to_do") {
        return;
    }
    ip("link add veth0 type veth peer name veth1");
    assert!(refused(&named("veth0")).contains("not a single-queue TAP"));
    ip("tuntap add dev tun0 mode tun");
    assert!(refused(&named("tun0")).contains("not a single-queue TAP"));
    ip("tuntap add dev many mode tap multi_queue");
    assert!(refused(&named("many")).contains("not a single-queue TAP"));
    let mtu = TapOptions {
        mtu: Some(10),
        ..named("tapy")
    };
    assert!(refused(&mtu).contains("out of range"));
    let two: Vec<_> = (0..2)
        .map(|_| Tap::open(&TapOptions::default()).unwrap())
        .collect();
    assert_eq!((two[0].name(), two[1].name()), ("ftd0", "ftd1"));
}

#[test]
fn without_the_right_it_says_so() {
    if !in_namespace("without_the_right_it_says_so") {
        return;
    }
    if std::env::var_os("FTD_TEST_UNPRIVILEGED").is_none() {
        // As nobody, but with /dev/net/tun open to all, as udev makes it.
        let status = Command::new("setpriv")
            .args([
                "--reuid=65534",
                "--regid=65534",
                "--clear-groups",
                "--inh-caps=-all",
            ])
            .arg(std::env::current_exe().unwrap())
            .args([
                "host::tap::tests::without_the_right_it_says_so",
                "--exact",
                "--nocapture",
            ])
            .env("FTD_TEST_UNPRIVILEGED", "1")
            .status();
        match status {
            Ok(status) => assert!(status.success()),
            Err(error) => eprintln!("skipped: setpriv: {error}"),
        }
        return;
    }
    let text = refused(&TapOptions::default());
    assert!(
        text.contains("CAP_NET_ADMIN") && text.contains("ip tuntap add"),
        "{text}"
    );
}
