use std::collections::BTreeMap;
use std::path::Path;
use std::sync::mpsc::{Receiver, Sender, SyncSender, TrySendError, channel, sync_channel};

use clap::Parser;
use mio::{Poll, Token, Waker};
use replay::frame::{FrameDecoder, MAX_FRAME_BYTES};
use replay::protocol::{HashKey, PageHash, PeerId};
use vm_memory::{Bytes, GuestAddress};
use vmm::guest::Guest;

use super::telling::{ZEROS, hash_of};
use super::*;
use crate::cli::GuestOptions;
use crate::host::disk::{Disk, DiskOptions, DiskPages};
use crate::setup::{DisksAre, Shell};

#[derive(Parser)]
struct Line {
    #[command(flatten)]
    guest: GuestOptions,
}

/// A guest that never runs; `None` (and a word about it) without KVM.
fn guest() -> Option<Guest> {
    if !Path::new("/dev/kvm").exists() {
        println!("not run: there is no /dev/kvm");
        return None;
    }
    let line = Line::parse_from(["t", "--kernel", "none", "--memory", "32"]);
    let shell = Shell::open(&line.guest, DisksAre::Own).unwrap();
    Some(shell.empty_guest().unwrap())
}

const KEY: HashKey = [5; 16];

/// The other end of the clone.
struct Joiner {
    _poll: Poll,
    outbox: Arc<Outbox>,
    inbox: Arc<Inbox>,
    frames: Option<SyncSender<Vec<u8>>>,
    /// Where it says what it has.
    said: Option<Sender<PageHashes>>,
    received: Receiver<Vec<u8>>,
    pages: BTreeMap<u64, Vec<u8>>,
    sent: usize,
    /// Of the guest, if the joiner has its own.
    disks: Option<DiskPages>,
}

impl Joiner {
    fn new() -> Joiner {
        let poll = Poll::new().unwrap();
        let waker = Waker::new(poll.registry(), Token(0)).unwrap();
        let (frames, received) = sync_channel(2);
        Joiner {
            _poll: poll,
            outbox: Arc::new(Outbox::new(waker)),
            inbox: Arc::default(),
            frames: Some(frames),
            said: None,
            received,
            pages: BTreeMap::new(),
            sent: 0,
            disks: None,
        }
    }

    /// Of one that has no RAM yet.
    fn start(&mut self, guest: &Guest) -> Cloning {
        let cloning = self.start_silent(guest);
        self.says(0, &[], true);
        cloning
    }

    fn says(&self, first_gfn: u64, hashes: &[PageHash], last: bool) {
        let said = PageHashes {
            key: KEY,
            first_gfn,
            hashes: hashes.to_vec(),
            last,
        };
        self.said.as_ref().unwrap().send(said).unwrap();
    }

    /// Of one that is to say what it has.
    fn start_silent(&mut self, guest: &Guest) -> Cloning {
        let (inbox, outbox) = (Arc::clone(&self.inbox), Arc::clone(&self.outbox));
        let frames = self.frames.take().unwrap();
        let send = move |frame: &[u8]| match frames.try_send(frame.to_vec()) {
            Ok(()) => Sent::Yes,
            Err(TrySendError::Full(_)) => Sent::Later,
            Err(TrySendError::Disconnected(_)) => Sent::Gone,
        };
        let (said, theirs) = channel();
        self.said = Some(said);
        let copied = Copied {
            ram: guest.dirty_ram(),
            disks: self.disks.clone(),
        };
        Cloning::start(copied, PeerId(1), 9, theirs, Box::new(send), inbox, outbox).unwrap()
    }

    fn take(&mut self) {
        for frame in self.received.try_iter() {
            let mut decoder = FrameDecoder::new();
            decoder.set_limit(MAX_FRAME_BYTES);
            decoder.push(&frame);
            let Ok(Some(Message::ClonePages { pages })) = decoder.next() else {
                panic!("not a frame with pages");
            };
            self.sent += pages.len();
            for page in pages {
                self.pages.insert(page.gfn, page.data);
            }
        }
    }

    /// Takes pages until the guest is to be stopped; the pages that are left then.
    fn finish(&mut self) -> PageSet {
        let start = Instant::now();
        loop {
            self.take();
            if let Some(order) = self.inbox.take_order() {
                self.take();
                let Order::BeginLog {
                    first: 9, pages, ..
                } = order
                else {
                    panic!("{order:?}");
                };
                return pages;
            }
            assert!(start.elapsed() < Duration::from_secs(60));
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

fn fill(guest: &Guest, gfns: impl Iterator<Item = u64>, value: u8) {
    for gfn in gfns {
        let at = GuestAddress(gfn * PAGE_BYTES);
        guest.memory().write_slice(&[value; 4096], at).unwrap();
    }
}

#[test]
fn what_the_guest_has_goes_out_once_and_zeros_not_at_all() {
    let Some(guest) = guest() else { return };
    fill(&guest, 100..1000, 1);
    // Touched, but zeros.
    fill(&guest, 2000..3000, 0);
    let mut joiner = Joiner::new();
    let mut cloning = joiner.start(&guest);
    let left = joiner.finish();
    assert!(left.is_empty(), "nobody wrote meanwhile");
    let all: Vec<u64> = joiner.pages.keys().copied().collect();
    assert_eq!(all, (100..1000).collect::<Vec<_>>());
    assert!(joiner.pages.values().all(|data| *data == [1; 4096]));
    let done = cloning.join().unwrap();
    assert_eq!((done.rounds, done.pages_sent, done.left), (1, 900, 0));
    assert_eq!(done.pages_equal, 0);
}

#[test]
fn what_is_written_meanwhile_is_sent_again_or_left_to_the_stop() {
    let Some(guest) = guest() else { return };
    fill(&guest, 0..4096, 1);
    let mut joiner = Joiner::new();
    let mut cloning = joiner.start(&guest);
    while joiner.sent == 0 {
        joiner.take();
    }
    // 2000 pages are too many for the stop; they go out in a further round. Zeros too, now.
    fill(&guest, 0..1999, 2);
    fill(&guest, 1999..2000, 0);
    let left = joiner.finish();
    assert!(left.is_empty());
    for (gfn, data) in &joiner.pages {
        match *gfn {
            0..1999 => assert_eq!(*data, [2; 4096], "{gfn}"),
            1999 => assert!(data.is_empty()),
            _ => assert_eq!(*data, [1; 4096], "{gfn}"),
        }
    }
    let done = cloning.join().unwrap();
    assert_eq!(joiner.pages.len(), 4096);
    // The page of zeros may have been skipped in the first round.
    assert!(
        done.rounds == 2 && [6095, 6096].contains(&done.pages_sent),
        "{done:?}"
    );
}

#[test]
fn a_clone_that_is_given_up_ends_and_stops_nobody() {
    let Some(guest) = guest() else { return };
    fill(&guest, 0..4096, 1);
    let mut joiner = Joiner::new();
    let mut cloning = joiner.start(&guest);
    cloning.give_up();
    let start = Instant::now();
    while cloning
        .thread
        .as_ref()
        .is_some_and(|thread| !thread.is_finished())
    {
        joiner.take();
        assert!(start.elapsed() < Duration::from_secs(60));
    }
    assert!(cloning.join().is_none());
    assert!(joiner.inbox.take_order().is_none());
}

#[test]
fn a_clone_whose_connection_is_gone_ends_and_stops_nobody() {
    let Some(guest) = guest() else { return };
    fill(&guest, 0..4096, 1);
    let mut joiner = Joiner::new();
    let mut cloning = joiner.start(&guest);
    let inbox = Arc::clone(&joiner.inbox);
    drop(joiner);
    assert!(cloning.join().is_none());
    assert!(inbox.take_order().is_none());
}

fn hash_of_all(value: u8) -> PageHash {
    hash_of(&[value; 4096], &KEY)
}

#[test]
fn only_what_differs_goes_out() {
    let Some(guest) = guest() else { return };
    fill(&guest, 100..200, 1);
    fill(&guest, 300..400, 1);
    // Touched, but zeros.
    fill(&guest, 500..510, 0);
    let mut joiner = Joiner::new();
    let mut cloning = joiner.start_silent(&guest);
    // It lacks 199 and 300 to 309, has 150 and 310 otherwise, and something where zeros are now: in
    // 501 and in 8191, which the guest never touched.
    let mut hashes = vec![hash_of_all(1); 99];
    hashes[50] = hash_of_all(2);
    joiner.says(100, &hashes, false);
    let mut hashes = vec![hash_of_all(1); 90];
    hashes[0] = PageHash([7; 16]);
    joiner.says(310, &hashes, false);
    joiner.says(501, &[hash_of_all(3)], false);
    joiner.says(8191, &[hash_of_all(3)], true);
    let left = joiner.finish();
    assert!(left.is_empty());
    let mut expected = vec![150, 199];
    expected.extend(300..=310);
    expected.extend([501, 8191]);
    let all: Vec<u64> = joiner.pages.keys().copied().collect();
    assert_eq!(all, expected);
    for (gfn, data) in &joiner.pages {
        assert_eq!(data.is_empty(), *gfn > 500, "{gfn}");
    }
    let done = cloning.join().unwrap();
    let counts = (done.rounds, done.pages_sent, done.pages_equal);
    assert_eq!(counts, (1, 15, 98 + 89));
}

#[test]
fn nothing_goes_out_of_which_nothing_was_said_yet() {
    let Some(guest) = guest() else { return };
    fill(&guest, 0..100, 1);
    let mut joiner = Joiner::new();
    let mut cloning = joiner.start_silent(&guest);
    std::thread::sleep(Duration::from_millis(100));
    joiner.take();
    assert_eq!(joiner.sent, 0);
    joiner.says(0, &[PageHash::ZEROS; 50], false);
    while joiner.sent < 48 {
        joiner.take();
    }
    std::thread::sleep(Duration::from_millis(100));
    joiner.take();
    assert!(joiner.pages.keys().all(|gfn| *gfn < 50));
    joiner.says(50, &[hash_of_all(1); 40], true);
    assert!(joiner.finish().is_empty());
    let all: Vec<u64> = joiner.pages.keys().copied().collect();
    let expected: Vec<u64> = (0..50).chain(90..100).collect();
    assert_eq!(all, expected);
    assert_eq!(cloning.join().unwrap().pages_equal, 40);
}

#[test]
fn what_is_written_after_it_was_found_equal_is_sent_all_the_same() {
    let Some(guest) = guest() else { return };
    fill(&guest, 0..2000, 1);
    let mut joiner = Joiner::new();
    let mut cloning = joiner.start_silent(&guest);
    joiner.says(0, &[hash_of_all(1); 1999], false);
    // Nothing is to be sent so far; it waits for more to be said, and all of it is compared soon.
    std::thread::sleep(Duration::from_millis(500));
    joiner.take();
    assert_eq!(joiner.sent, 0);
    fill(&guest, 0..1000, 2);
    joiner.says(1999, &[], true);
    let left = joiner.finish();
    assert!(left.is_empty());
    for gfn in 0..1000 {
        assert_eq!(joiner.pages[&gfn], [2; 4096], "{gfn}");
    }
    assert_eq!(joiner.pages[&1999], [1; 4096]);
    assert_eq!(joiner.pages.len(), 1001);
    let done = cloning.join().unwrap();
    assert_eq!((done.rounds, done.pages_sent), (2, 1001));
}

#[test]
fn disks_go_the_same_way_behind_ram() {
    let Some(guest) = guest() else { return };
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("disk");
    // Pages 0 and 2 hold something.
    std::fs::write(&path, [[1; 4096], [0; 4096], [2; 4096], [0; 4096]].concat()).unwrap();
    let disk = Arc::new(Disk::open(&path, &DiskOptions::default()).unwrap());
    let mut joiner = Joiner::new();
    let disks = DiskPages::new(&[disk]);
    joiner.disks = Some(disks.clone());
    let mut cloning = joiner.start_silent(&guest);
    // It has 0, and something else in 1 and 2; of 3 it says nothing, which is zeros.
    const RAM: u64 = 32 << 8;
    joiner.says(RAM, &[1, 3, 4].map(hash_of_all), false);
    std::thread::sleep(Duration::from_millis(300));
    joiner.take();
    // The guest writes while it is cloned.
    disks.write(0, &[5; 4096]).unwrap();
    joiner.says(RAM + 3, &[], true);
    let left = joiner.finish();
    let few: Vec<u64> = left.iter().collect();
    assert_eq!(few, [RAM], "it goes with the snapshot");
    // How far it had compared by then is chance.
    let sent = joiner.pages.keys().copied().filter(|page| *page != RAM);
    assert_eq!(sent.collect::<Vec<_>>(), [RAM + 1, RAM + 2]);
    assert!(joiner.pages[&(RAM + 1)].is_empty(), "zeros");
    assert_eq!(joiner.pages[&(RAM + 2)], [2; 4096]);
    assert!(cloning.join().unwrap().pages_equal <= 1);
}

#[test]
fn a_clone_ends_when_the_joiner_says_no_more() {
    let Some(guest) = guest() else { return };
    let mut joiner = Joiner::new();
    let mut cloning = joiner.start_silent(&guest);
    joiner.says(0, &[PageHash::ZEROS], false);
    joiner.said = None;
    assert!(cloning.join().is_none());
    assert!(joiner.inbox.take_order().is_none());
}

#[test]
fn zeros_have_a_hash_of_their_own() {
    assert_eq!(hash_of(&ZEROS, &KEY), PageHash::ZEROS);
    assert_ne!(hash_of_all(1), hash_of_all(2));
}

#[test]
fn rounds_end() {
    let last = (0..).find(|number| round(*number).is_none()).unwrap();
    let rounds: Vec<Round> = (0..last).filter_map(round).collect();
    assert!((5..20).contains(&rounds.len()));
    // Each is at least as eager as the one before.
    assert!(rounds.is_sorted_by(|a, b| a.nice >= b.nice && a.few <= b.few));
}
