use std::io::Write;
use std::time::{Duration, Instant};

use mio::Poll;
use replay::frame::encode;

use super::*;

#[test]
fn what_a_peer_said_before_its_connection_was_reset_is_heard() {
    let poll = Poll::new().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let mut links = Links::new(1);
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
