use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use mio::Poll;
use replay::Page;
use replay::frame::encode;

use super::writer::Sent;
use super::*;
use crate::keys::make::make;

#[test]
fn what_a_peer_said_before_its_connection_was_reset_is_heard() {
    let poll = Poll::new().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let mut links = Links::new(1, None);
    let mut far = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let start = Instant::now();
    let peer = loop {
        if let [peer] = links.accept(poll.registry(), &listener)[..] {
            break peer;
        }
        assert!(start.elapsed() < Duration::from_secs(10));
    };
    let beat = Message::Heartbeat { seq: 1, heard: 0 };
    // The far side leaves this unread, so that its kernel resets the connection at its end.
    links.send(peer, &beat);
    std::thread::sleep(Duration::from_millis(50));
    far.write_all(&encode(&beat).unwrap()).unwrap();
    drop(far);
    std::thread::sleep(Duration::from_millis(50));
    // Fails, and is not told before the connection is served.
    links.send(peer, &beat);
    let served = links.serve(poll.registry(), peer);
    assert!(matches!(served, Served::Read), "{served:?}");
    assert_eq!(links.next_message(peer), Ok(Some(beat)));
    let served = links.serve(poll.registry(), peer);
    assert!(matches!(served, Served::Lost(_)), "{served:?}");
}

const PATIENCE: Duration = Duration::from_secs(20);

/// Keys of a new pair's two hosts.
fn pair_keys(directory: &Path) -> [HostKeys; 2] {
    let made = make(directory, &["west".to_owned(), "east".to_owned()]).unwrap();
    [0, 1].map(|index: usize| HostKeys::read(&made.hosts[index]).unwrap())
}

/// Two ends of a channel, each with a loop of its own.
struct Ends {
    poll: Poll,
    near: Links,
    far: Links,
    listener: TcpListener,
    dialled: PeerId,
    accepted: Option<PeerId>,
    /// What the near end was told.
    outcome: Option<Served>,
    /// What the far end was told.
    far_outcome: Option<Served>,
}

impl Ends {
    /// The near one dials the far one.
    fn new(near: Option<HostKeys>, far: Option<HostKeys>) -> Ends {
        let poll = Poll::new().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let mut near = Links::new(1, near);
        let dialled = near
            .dial(poll.registry(), listener.local_addr().unwrap())
            .unwrap();
        Ends {
            poll,
            near,
            far: Links::new(1000, far),
            listener,
            dialled,
            accepted: None,
            outcome: None,
            far_outcome: None,
        }
    }

    /// One turn of both; whether the near end has a word for its loop.
    fn turn(&mut self) {
        if self.accepted.is_none() {
            self.accepted = self
                .far
                .accept(self.poll.registry(), &self.listener)
                .first()
                .copied();
        }
        let served = self.near.serve(self.poll.registry(), self.dialled);
        if !matches!(served, Served::Idle) {
            self.outcome = Some(served);
        }
        if let Some(peer) = self.accepted {
            let served = self.far.serve(self.poll.registry(), peer);
            if !matches!(served, Served::Idle) {
                self.far_outcome = Some(served);
            }
        }
        std::thread::sleep(Duration::from_micros(200));
    }

    /// Turns until `done`.
    #[track_caller]
    fn until(&mut self, done: impl Fn(&Ends) -> bool) {
        let start = Instant::now();
        while !done(self) {
            assert!(
                start.elapsed() < PATIENCE,
                "{:?} {:?}",
                self.outcome,
                self.far_outcome
            );
            self.turn();
        }
    }

    fn peer(&self) -> PeerId {
        self.accepted.unwrap()
    }
}

fn why(served: &Option<Served>) -> String {
    match served {
        Some(Served::Lost(why)) => why.to_string(),
        other => format!("{other:?}"),
    }
}

#[test]
fn messages_of_every_size_pass_in_both_directions() {
    let directory = tempfile::tempdir().unwrap();
    let [west, east] = pair_keys(directory.path());
    for (near, far) in [(Some(west), Some(east)), (None, None)] {
        let mut ends = Ends::new(near, far);
        ends.until(|ends| matches!(ends.outcome, Some(Served::Connected)));
        ends.until(|ends| ends.accepted.is_some());
        let (dialled, peer) = (ends.dialled, ends.peer());
        ends.near.establish(dialled);
        ends.far.establish(peer);
        let beat = Message::Heartbeat { seq: 7, heard: 3 };
        let pages = |count: u64| Message::ClonePages {
            pages: (0..count)
                .map(|gfn| Page::of(gfn, &[gfn as u8 | 1; 4096]))
                .collect(),
        };
        let all = [beat.clone(), pages(8), pages(500), beat.clone()];
        for message in &all {
            ends.near.send(dialled, message);
        }
        let mut heard = Vec::new();
        let start = Instant::now();
        while heard.len() < all.len() {
            assert!(start.elapsed() < PATIENCE);
            ends.turn();
            while let Some(message) = ends.far.next_message(peer).unwrap() {
                heard.push(message);
            }
        }
        assert!(heard == all);
        assert_eq!(ends.near.backlog_bytes_max(), 0);
        // And by a side door, from the other end.
        let door = ends.far.side_door(peer).unwrap();
        let frame = encode(&pages(8)).unwrap();
        let mut sent = 0;
        let mut heard = 0;
        while heard < 100 {
            assert!(start.elapsed() < PATIENCE);
            if sent < 100 && door.send(&frame) == Sent::Yes {
                sent += 1;
            }
            ends.turn();
            while let Some(message) = ends.near.next_message(dialled).unwrap() {
                assert!(message == pages(8));
                heard += 1;
            }
        }
        // A goodbye is told from a cut.
        ends.outcome = None;
        ends.far.close(ends.poll.registry(), peer);
        ends.until(|ends| ends.outcome.is_some());
        assert_eq!(why(&ends.outcome), LinkLoss::Closed.to_string());
    }
}

#[test]
fn who_has_no_key_of_the_pair_is_turned_down_and_both_sides_say_so() {
    let directory = tempfile::tempdir().unwrap();
    let [west, east] = pair_keys(&directory.path().join("one"));
    let [stranger, _] = pair_keys(&directory.path().join("other"));
    for (near, far, near_says, far_says) in [
        (
            Some(stranger),
            Some(east.clone()),
            "its key is not of this pair",
            "takes this host's key for one of another pair",
        ),
        (
            None,
            Some(east),
            "it encrypts the channel, but this host does not",
            "it does not encrypt the channel",
        ),
        (
            Some(west),
            None,
            "the connection was closed",
            "it encrypts the channel, but this host does not",
        ),
    ] {
        let plain = near.is_none();
        let mut ends = Ends::new(near, far);
        if plain {
            ends.until(|ends| matches!(ends.outcome, Some(Served::Connected)));
            let dialled = ends.dialled;
            ends.near
                .send(dialled, &Message::Heartbeat { seq: 1, heard: 0 });
        }
        ends.until(|ends| {
            let lost = |served: &Option<Served>| matches!(served, Some(Served::Lost(_)));
            lost(&ends.far_outcome) && lost(&ends.outcome)
        });
        let (near, far) = (why(&ends.outcome), why(&ends.far_outcome));
        assert!(near.contains(near_says), "near: {near}; far: {far}");
        assert!(far.contains(far_says), "near: {near}; far: {far}");
        let peer = ends.peer();
        assert_eq!(ends.far.next_message(peer), Ok(None));
    }
}

#[test]
fn who_shows_no_certificate_is_turned_down() {
    let directory = tempfile::tempdir().unwrap();
    let [_, east] = pair_keys(directory.path());
    // A host that trusts the pair's authority, but has no key.
    let anonymous = east.without_key(&directory.path().join("west.pem"));
    let mut ends = Ends::new(Some(anonymous), Some(east));
    ends.until(|ends| matches!(ends.far_outcome, Some(Served::Lost(_))));
    let far = why(&ends.far_outcome);
    assert!(far.contains("it shows no key"), "{far}");
}

#[test]
fn a_connection_that_is_cut_is_no_goodbye() {
    let directory = tempfile::tempdir().unwrap();
    let [west, east] = pair_keys(directory.path());
    let mut ends = Ends::new(Some(west), Some(east));
    ends.until(|ends| matches!(ends.outcome, Some(Served::Connected)));
    let peer = ends.peer();
    // As by a process that is killed, or by somebody on the way.
    ends.far.links.remove(&peer);
    ends.accepted = None;
    ends.until(|ends| matches!(ends.outcome, Some(Served::Lost(_))));
    let lost = matches!(&ends.outcome, Some(Served::Lost(LinkLoss::Broken(_))));
    assert!(lost, "{:?}", ends.outcome);
}

#[test]
fn whoever_says_nothing_or_nonsense_keeps_nobody_waiting() {
    let directory = tempfile::tempdir().unwrap();
    let [_, east] = pair_keys(directory.path());
    let poll = Poll::new().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = listener.local_addr().unwrap();
    let mut links = Links::new(1, Some(east));
    let mut silent = std::net::TcpStream::connect(address).unwrap();
    let mut endless = std::net::TcpStream::connect(address).unwrap();
    let start = Instant::now();
    let mut peers = Vec::new();
    while peers.len() < 2 {
        assert!(start.elapsed() < PATIENCE);
        peers.extend(links.accept(poll.registry(), &listener));
    }
    // Half of a record's header, and then nothing.
    silent.write_all(&[0x16, 0x03, 0x01]).unwrap();
    // Records of a handshake message that claims to be very long.
    let mut record = vec![0x16, 0x03, 0x03, 0x40, 0x00, 0x01, 0xff, 0xff, 0xff];
    record.resize(5 + 0x4000, 0);
    endless.set_nonblocking(true).unwrap();
    let mut sent = 0;
    let mut lost = None;
    while lost.is_none() {
        assert!(start.elapsed() < PATIENCE);
        sent += endless.write(&record).unwrap_or(0);
        for peer in &peers {
            match links.serve(poll.registry(), *peer) {
                Served::Idle => {}
                served => lost = Some((*peer, served)),
            }
        }
    }
    assert!(lost.is_some_and(|(peer, _)| peer == peers[1]));
    assert!(sent < 1 << 20, "{sent}");
    assert!(matches!(
        links.serve(poll.registry(), peers[0]),
        Served::Idle
    ));
}

#[test]
fn a_crowd_waits_at_the_door() {
    let poll = Poll::new().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = listener.local_addr().unwrap();
    let mut links = Links::new(1, None);
    let crowd: Vec<_> = (0..40)
        .map(|_| std::net::TcpStream::connect(address).unwrap())
        .collect();
    let start = Instant::now();
    let mut let_in = 0;
    while links.accept_at().is_none() {
        let_in += links.accept(poll.registry(), &listener).len();
        assert!(start.elapsed() < PATIENCE);
    }
    let most = 17 + start.elapsed().as_millis() as usize / 50;
    assert!((16..=most).contains(&let_in), "{let_in}");
    while let_in < crowd.len() {
        let_in += links.accept(poll.registry(), &listener).len();
        assert!(start.elapsed() < PATIENCE);
        std::thread::sleep(Duration::from_millis(1));
    }
    // Twenty a second.
    assert!(start.elapsed() > Duration::from_secs(1));
}

/// Not a promise, but a number to know: run with --nocapture.
#[test]
fn what_tls_adds_to_a_round_trip() {
    let directory = tempfile::tempdir().unwrap();
    let [west, east] = pair_keys(directory.path());
    let mut medians = Vec::new();
    for (near, far) in [(None, None), (Some(west), Some(east))] {
        let mut ends = Ends::new(near, far);
        ends.until(|ends| matches!(ends.outcome, Some(Served::Connected)));
        ends.until(|ends| ends.accepted.is_some());
        let (dialled, peer) = (ends.dialled, ends.peer());
        let beat = Message::Heartbeat { seq: 1, heard: 0 };
        let mut times: Vec<Duration> = (0..2000)
            .map(|_| {
                let start = Instant::now();
                ends.near.send(dialled, &beat);
                while ends.far.next_message(peer).unwrap().is_none() {
                    ends.far.serve(ends.poll.registry(), peer);
                }
                ends.far.send(peer, &beat);
                while ends.near.next_message(dialled).unwrap().is_none() {
                    ends.near.serve(ends.poll.registry(), dialled);
                }
                start.elapsed()
            })
            .collect();
        times.sort();
        medians.push(times[times.len() / 2]);
    }
    println!(
        "a round trip: {:?} plain, {:?} with TLS",
        medians[0], medians[1]
    );
    assert!(
        medians[1] < medians[0] + Duration::from_millis(5),
        "{medians:?}"
    );
}
