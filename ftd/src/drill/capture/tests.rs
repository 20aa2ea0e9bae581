//! Captures made by hand, with the daemon's own encoder on the channel: what is planted must be
//! found, and the two implementations of the format must agree.

use std::path::{Path, PathBuf};

use devices::{Console, DiskError, DiskOutcome, Effect, Input};
use replay::codec::EpochBuilder;
use replay::frame;
use replay::protocol::{Ack, Commit, Message, Welcome};
use replay::{Digest, Event, Page, Point, Position, RamShare, RegisterSum, Snapshot};

use super::judge::Verdict;
use super::{CaptureError, Evidence, LanCapture, judge};

const GUEST_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
const PORT: u16 = 7777;

/// An Ethernet frame with a TCP segment from 10.0.0.`from` to 10.0.0.`to`, the port being 7777 at
/// host 1 and 40000 at host 2.
pub fn tcp(
    from: u8,
    to: u8,
    sequence: u32,
    acknowledged: Option<u32>,
    syn: bool,
    payload: &[u8],
) -> Vec<u8> {
    let port = |host| if host == 1 { PORT } else { 40_000 };
    let mut frame = vec![0; 12];
    frame.extend_from_slice(&0x0800u16.to_be_bytes());
    frame.extend_from_slice(&[0x45, 0]);
    frame.extend_from_slice(&(40 + payload.len() as u16).to_be_bytes());
    frame.extend_from_slice(&[0, 0, 0x40, 0, 64, 6, 0, 0, 10, 0, 0, from, 10, 0, 0, to]);
    frame.extend_from_slice(&port(from).to_be_bytes());
    frame.extend_from_slice(&port(to).to_be_bytes());
    frame.extend_from_slice(&sequence.to_be_bytes());
    frame.extend_from_slice(&acknowledged.unwrap_or(0).to_be_bytes());
    let flags = if syn { 2 } else { 0 } | if acknowledged.is_some() { 0x10 } else { 0 };
    frame.extend_from_slice(&[0x50, flags, 0, 0, 0, 0, 0, 0]);
    frame.extend_from_slice(payload);
    frame
}

/// A frame of the guest's with this number in it.
fn guest_frame(number: u8) -> Vec<u8> {
    let mut frame = vec![0xff; 6];
    frame.extend_from_slice(&GUEST_MAC);
    frame.extend_from_slice(&0x0800u16.to_be_bytes());
    frame.extend_from_slice(&[0x45, 0, 0, 200, 0, 0, 0, 0, 64, 17, 0, 0, 10, 77, 2, 100]);
    frame.extend_from_slice(&[number; 184]);
    frame
}

fn arp_of_guest() -> Vec<u8> {
    let mut frame = guest_frame(0)[..12].to_vec();
    frame.extend_from_slice(&[8, 6, 0, 1, 8, 0, 6, 4, 0, 2]);
    frame.extend_from_slice(&GUEST_MAC);
    frame.extend_from_slice(&[10, 77, 2, 100, 0, 0, 0, 0, 0, 0, 10, 77, 2, 254]);
    frame
}

fn output(frame: Vec<u8>) -> Event {
    let effect = postcard::to_allocvec(&Effect::NetTx { frame }).expect("postcard");
    Event::Output {
        crc: crc32c::crc32c(&effect),
    }
}

fn epoch(number: u64, events: Vec<Event>) -> Message {
    let mut builder = EpochBuilder::new(number);
    let mut exit = 0;
    for event in events {
        builder.push(Position::Exit(exit), &event).expect("push");
        exit += 100;
    }
    let point = Point {
        branches: 300,
        rip: 0xffff_ffff_8100_0000,
        rflags: 0x246,
        registers: RegisterSum { crc: 7, marks: 1 },
        stack: 9,
    };
    let mut digest = Digest::default();
    if number.is_multiple_of(2) {
        digest.ram = RamShare {
            first: 500,
            pages: 20,
            sum: 9,
            weighted: 10,
        };
    }
    let at = Position::Counted { exits: exit, point };
    Message::Epoch(builder.close(at, digest).expect("close"))
}

fn ack(received: u64) -> Message {
    Message::Ack(Ack {
        received,
        ..Ack::default()
    })
}

/// A site of two hosts whose captures are written as they go.
struct Site {
    folder: tempfile::TempDir,
    log: Vec<(u64, Vec<u8>)>,
    lan: [Vec<(u64, Vec<u8>)>; 2],
    sequence: [u32; 2],
    alone_from: Vec<u64>,
}

impl Site {
    fn new() -> Self {
        let mut site = Site {
            folder: tempfile::tempdir().expect("folder"),
            log: Vec::new(),
            lan: [Vec::new(), Vec::new()],
            sequence: [1000, 2000],
            alone_from: Vec::new(),
        };
        site.log.push((0, tcp(2, 1, 1999, None, true, b"")));
        site.log.push((0, tcp(1, 2, 999, None, true, b"")));
        site
    }

    /// Sends a message in segments of 100 bytes; returns them instead of capturing them.
    fn segments(&mut self, from: u8, message: &Message) -> Vec<Vec<u8>> {
        let bytes = frame::encode(message).expect("encode");
        let sequence = &mut self.sequence[usize::from(from) - 1];
        let mut segments = Vec::new();
        for part in bytes.chunks(100) {
            segments.push(tcp(from, 3 - from, *sequence, None, false, part));
            *sequence = sequence.wrapping_add(part.len() as u32);
        }
        segments
    }

    fn send(&mut self, at: u64, from: u8, message: &Message) {
        let segments = self.segments(from, message);
        self.log
            .extend(segments.into_iter().map(|segment| (at, segment)));
    }

    fn guest(&mut self, at: u64, host: usize, frame: Vec<u8>) {
        self.lan[host - 1].push((at, frame));
    }

    fn judge(&self) -> Result<Verdict, CaptureError> {
        let path = |name: &str| self.folder.path().join(name);
        write_pcap(&path("log"), &self.log);
        write_pcap(&path("lan1"), &self.lan[0]);
        write_pcap(&path("lan2"), &self.lan[1]);
        judge(&Evidence {
            log: vec![path("log")],
            log_port: PORT,
            lan: vec![
                LanCapture {
                    path: path("lan1"),
                    of_primary: true,
                },
                LanCapture {
                    path: path("lan2"),
                    of_primary: false,
                },
            ],
            guest: [10, 77, 2, 100].into(),
            alone_from_unix_ns: self.alone_from.clone(),
            backup_won_unix_ns: None,
        })
    }
}

fn write_pcap(path: &PathBuf, packets: &[(u64, Vec<u8>)]) {
    let mut file = vec![0x4d, 0x3c, 0xb2, 0xa1, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    file.extend_from_slice(&[0, 0, 4, 0, 1, 0, 0, 0]);
    for (at, bytes) in packets {
        let length = bytes.len() as u32;
        for word in [
            (at / 1_000_000_000) as u32,
            (at % 1_000_000_000) as u32,
            length,
            length,
        ] {
            file.extend_from_slice(&word.to_le_bytes());
        }
        file.extend_from_slice(bytes);
    }
    std::fs::write(path, file).expect("write");
}

/// Boot alone, a backup joins, two epochs with outputs released in time.
fn good() -> Site {
    let mut site = Site::new();
    site.guest(10, 1, guest_frame(1));
    site.send(100, 1, &epoch(1, vec![]));
    site.send(110, 2, &ack(1));
    site.send(
        200,
        1,
        &epoch(2, vec![output(guest_frame(2)), output(arp_of_guest())]),
    );
    site.send(210, 2, &ack(2));
    site.guest(220, 1, guest_frame(2));
    site.guest(221, 1, arp_of_guest());
    site.send(300, 1, &epoch(3, vec![output(guest_frame(3))]));
    site.send(310, 2, &ack(3));
    site.guest(320, 1, guest_frame(3));
    site
}

#[test]
fn outputs_after_their_acknowledgement_pass() {
    let verdict = good().judge().expect("judged");
    assert_eq!(verdict.released_before_ack(), 0, "{verdict:?}");
    assert_eq!((verdict.judged, verdict.unjudged_alone), (3, 1));
    assert_eq!(
        (verdict.epochs, verdict.acks, verdict.outputs_recorded),
        (3, 3, 3)
    );
}

#[test]
fn an_output_before_its_acknowledgement_is_found() {
    // At the very time of the acknowledgement, before it, before its record, and never acknowledged.
    for (record, acknowledged) in [
        (400, Some(420)),
        (400, Some(430)),
        (425, Some(430)),
        (400, None),
    ] {
        let mut site = good();
        site.send(record, 1, &epoch(4, vec![output(guest_frame(4))]));
        if let Some(at) = acknowledged {
            site.send(at, 2, &ack(4));
        }
        site.guest(420, 1, guest_frame(4));
        let verdict = site.judge().expect("judged");
        assert_eq!(
            verdict.violations, 1,
            "{record} {acknowledged:?} {verdict:?}"
        );
        assert_eq!(verdict.findings.len(), 1);
    }
}

#[test]
fn a_frame_that_no_epoch_records_is_found_while_protected() {
    let mut site = good();
    site.guest(330, 1, guest_frame(9));
    let verdict = site.judge().expect("judged");
    assert_eq!((verdict.unmatched, verdict.released_before_ack()), (1, 1));
}

#[test]
fn the_same_content_twice_needs_two_records() {
    let mut site = good();
    site.send(400, 1, &epoch(4, vec![output(arp_of_guest())]));
    site.guest(405, 1, arp_of_guest());
    site.send(410, 2, &ack(4));
    assert_eq!(
        site.judge().expect("judged").violations,
        1,
        "the first record is used up"
    );
}

#[test]
fn what_was_said_alone_takes_no_later_record() {
    let mut site = good();
    site.guest(5, 1, guest_frame(7));
    site.send(400, 1, &epoch(4, vec![output(guest_frame(7))]));
    site.send(410, 2, &ack(4));
    site.guest(420, 1, guest_frame(7));
    let verdict = site.judge().expect("judged");
    assert_eq!((verdict.judged, verdict.unjudged_alone), (4, 2));
    assert_eq!(verdict.released_before_ack(), 0);
}

#[test]
fn a_frame_padded_by_the_hosts_card_is_recognized() {
    let mut site = good();
    site.lan[0][2].1.resize(60, 0);
    assert_eq!(site.judge().expect("judged").released_before_ack(), 0);
}

#[test]
fn after_the_arbiter_the_survivor_speaks_alone() {
    for host in [1, 2] {
        let mut site = good();
        site.alone_from = vec![500];
        site.send(400, 1, &epoch(4, vec![output(guest_frame(4))]));
        site.guest(510, host, guest_frame(4));
        site.guest(520, host, guest_frame(5));
        let verdict = site.judge().expect("judged");
        assert_eq!(verdict.released_before_ack(), 0, "{verdict:?}");
        assert_eq!(verdict.unjudged_alone, 3);

        site.guest(490, host, guest_frame(4));
        assert_eq!(
            site.judge().expect("judged").released_before_ack(),
            1,
            "too early"
        );
    }
}

#[test]
fn a_primary_that_lost_its_backup_is_judged_again_once_another_has_joined() {
    let mut site = good();
    site.alone_from = vec![500];
    site.guest(510, 1, guest_frame(5));
    site.send(600, 1, &epoch(4, vec![]));
    site.guest(605, 1, guest_frame(6));
    site.send(610, 2, &ack(4));
    site.guest(620, 1, guest_frame(7));
    let verdict = site.judge().expect("judged");
    assert_eq!(
        (verdict.unjudged_alone, verdict.unmatched),
        (3, 1),
        "{verdict:?}"
    );
}

#[test]
fn the_commit_level_of_the_welcome_counts() {
    for (commit, violations) in [
        (Commit::Received, 0),
        (Commit::Executed, 3),
        (Commit::Verified, 3),
    ] {
        let mut site = Site::new();
        site.send(
            50,
            1,
            &Message::Welcome(Welcome {
                protocol_version: 1,
                features: 0,
                host: "host1".into(),
                generation: 1,
                bidder: "west-1".to_owned(),
                commit,
                detect_ms: 300,
                heartbeat_ms: 100,
            }),
        );
        let acks = |received, executed, verified| {
            Message::Ack(Ack {
                received,
                executed,
                verified,
                ..Ack::default()
            })
        };
        site.send(100, 1, &epoch(1, vec![]));
        site.send(110, 2, &acks(1, 1, 1));
        for number in 2..5 {
            let at = u64::from(number) * 100;
            site.send(
                at,
                1,
                &epoch(number.into(), vec![output(guest_frame(number))]),
            );
            site.send(
                at + 10,
                2,
                &acks(number.into(), if number > 2 { 2 } else { 1 }, 1),
            );
            site.guest(at + 20, 1, guest_frame(number));
        }
        // Epoch 2 is executed by the time of the second acknowledgement, after its frame left.
        let verdict = site.judge().expect("judged");
        assert_eq!(verdict.violations, violations, "{commit:?} {verdict:?}");
    }
}

#[test]
fn every_kind_of_entry_is_stepped_over() {
    let page = |gfn, data: Vec<u8>| Page { gfn, data };
    let events = vec![
        Event::Input(Input::Clock { now: 5_000_000_000 }),
        Event::Input(Input::Clock { now: 4_000 }),
        Event::Input(Input::NetRx {
            frame: vec![9; 300],
        }),
        Event::Input(Input::DiskDone {
            disk: 1,
            id: 900,
            outcome: DiskOutcome::Done,
        }),
        Event::Input(Input::DiskDone {
            disk: 0,
            id: 2,
            outcome: DiskOutcome::Read(vec![10; 512]),
        }),
        Event::Input(Input::DiskDone {
            disk: 0,
            id: 3,
            outcome: DiskOutcome::Failed(DiskError::Unsupported),
        }),
        Event::Input(Input::ConsoleIn {
            console: Console::Virtio,
            bytes: b"ls\n".to_vec(),
        }),
        Event::Input(Input::Entropy {
            bytes: vec![10; 32],
        }),
        Event::Input(Input::PowerButton),
        Event::Pages(vec![page(3, vec![10; 4096]), page(900, vec![])]),
        Event::Snapshot(Box::new(Snapshot {
            cpu: vec![10; 200],
            machine: vec![9; 100],
            pages: vec![page(5, vec![]), page(1, vec![9; 4096])],
        })),
        output(guest_frame(4)),
    ];
    let mut site = good();
    site.send(400, 1, &epoch(4, events));
    site.send(410, 2, &ack(4));
    site.guest(420, 1, guest_frame(4));
    let verdict = site.judge().expect("judged");
    assert_eq!(
        (verdict.released_before_ack(), verdict.outputs_recorded),
        (0, 4),
        "{verdict:?}"
    );
}

#[test]
fn bytes_missing_in_the_capture_are_told_and_the_next_frame_is_found() {
    let mut site = good();
    let lost = site.segments(1, &epoch(4, vec![output(guest_frame(4))]));
    drop(lost);
    site.send(402, 1, &epoch(5, vec![output(guest_frame(5))]));
    let acknowledged = site.sequence[0];
    site.log.push((
        405,
        tcp(2, 1, site.sequence[1], Some(acknowledged), false, b""),
    ));
    site.send(410, 2, &ack(5));
    site.guest(420, 1, guest_frame(4));
    site.guest(421, 1, guest_frame(5));
    let verdict = site.judge().expect("judged");
    assert_eq!(verdict.capture_losses, 1);
    assert_eq!(
        (verdict.unmatched, verdict.violations),
        (1, 0),
        "{verdict:?}"
    );
}

#[test]
fn a_channel_that_is_not_understood_is_an_error() {
    let mut site = good();
    let sequence = site.sequence[0];
    site.log
        .push((400, tcp(1, 2, sequence, None, false, &[7; 40])));
    let error = site.judge().expect_err("encrypted");
    assert!(matches!(error, CaptureError::Channel { .. }), "{error}");

    let mut site = good();
    site.lan = [Vec::new(), Vec::new()];
    assert_eq!(site.judge().expect("no guest").judged, 0);

    let missing = Evidence {
        log: vec![Path::new("/nonexistent/log.pcap").into()],
        log_port: 1,
        lan: Vec::new(),
        guest: [10, 77, 2, 100].into(),
        alone_from_unix_ns: Vec::new(),
        backup_won_unix_ns: None,
    };
    assert!(matches!(judge(&missing), Err(CaptureError::File { .. })));
}
