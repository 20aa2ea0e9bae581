//! More than one backup.

use super::*;

pub(super) const SECOND: PeerId = PeerId(2);
const RENEW: Action = Action::Renew {
    generation: 5,
    late: false,
};

impl Side {
    pub(super) fn hears(&mut self, peer: PeerId, message: Message) -> Vec<Action> {
        self.on(Event::Message { peer, message })
    }

    pub(super) fn loses(&mut self, peer: PeerId) -> Vec<Action> {
        let why = LinkLoss::Closed;
        self.on(Event::PeerDisconnected { peer, why })
    }

    /// A primary of generation 4 with two backups, that have both acknowledged epoch 2.
    fn with_two() -> Side {
        let mut side = Side::of_two(Release::All);
        let actions = side.hears(SECOND, ack(2, 2));
        assert_eq!(actions, [Action::ReleaseOutputs { through: 2 }]);
        assert_eq!(side.core.status().backups.len(), 2);
        side
    }

    /// Lets time pass in steps of 10 ms, in which `peers` answer each heartbeat.
    fn beat(&mut self, peers: &[PeerId], ms: u64) {
        for _ in 0..ms / 10 {
            self.now_ms += 10;
            for action in self.on_all(Event::Tick) {
                let Action::Send { peer, message } = action else {
                    continue;
                };
                if let (Message::Heartbeat { seq, .. }, true) = (message, peers.contains(&peer)) {
                    self.on(Event::PeerHeard { peer });
                    self.hears(peer, Message::Heartbeat { seq, heard: seq });
                }
            }
        }
    }

    /// The same before the second has said anything.
    pub(super) fn of_two(release: Release) -> Side {
        let mut config = Config::new(Start::Primary { generation: 3 }, "here", facts());
        config.backups_max = 2;
        config.release = release;
        let core = Core::new(config, 0);
        let mut side = Side { core, now_ms: 0 };
        side.on(Event::Tick);
        side.answer(4, ArbiterAnswer::Won);
        for (peer, first) in [(PEER, 1), (SECOND, 2)] {
            let dialled = false;
            side.on(Event::PeerConnected { peer, dialled });
            let actions = side.hears(peer, Message::Hello(Box::new(hello())));
            assert!(
                actions.contains(&Action::StartClone { peer }),
                "{actions:?}"
            );
            side.on(Event::CloneReady { peer, first });
            side.on(Event::EpochClosed(epoch(first, true)));
            side.hears(PEER, ack(first, first));
        }
        side
    }
}

fn keep(peer: PeerId, generation: Generation) -> Action {
    let message = Message::Keep {
        generation,
        voices: 1,
    };
    Action::Send { peer, message }
}

fn renewed(peer: PeerId, generation: Generation) -> Action {
    let message = Message::Renewed { generation };
    Action::Send { peer, message }
}

pub(super) fn ask(generation: Generation) -> Action {
    Action::AskArbiter { generation }
}

#[test]
fn a_second_clone_is_sent_while_outputs_wait_for_the_first_backup() {
    let mut side = Side::with_two();
    let actions = side.on(Event::EpochClosed(epoch(3, false)));
    assert!(matches!(
        actions[..],
        [
            Action::SendEpoch { peer: PEER, .. },
            Action::SendEpoch { peer: SECOND, .. }
        ]
    ));
    // Nothing is out before both have said so, in either order.
    assert_eq!(side.hears(SECOND, ack(3, 2)), []);
    assert_eq!(
        side.hears(PEER, ack(3, 3)),
        [Action::ReleaseOutputs { through: 3 }]
    );
    let status = side.core.status();
    assert_eq!((status.received, status.executed), (3, 2));
    assert_eq!(status.lag_bytes, 100);
}

#[test]
fn a_third_is_turned_down_and_so_is_a_second_while_the_first_is_being_cloned_to() {
    let mut side = Side::with_two();
    let joins = |side: &mut Side, peer| {
        let dialled = false;
        side.on(Event::PeerConnected { peer, dialled });
        side.hears(peer, Message::Hello(Box::new(hello())))
    };
    let reason = RejectReason::HasBackup;
    let message = Message::Reject(reason);
    let peer = PeerId(3);
    assert!(joins(&mut side, peer).contains(&Action::Send { peer, message }));
    // One leaves in order, and two come for its place.
    let reason = ByeReason::Stopped;
    let actions = side.hears(PEER, Message::Bye { reason });
    assert!(
        !actions
            .iter()
            .any(|action| matches!(action, Action::GoAlone { .. }))
    );
    assert_eq!(side.core.role(), Role::Primary);
    let peer = PeerId(4);
    assert!(joins(&mut side, peer).contains(&Action::StartClone { peer }));
    let actions = joins(&mut side, PeerId(5));
    assert!(matches!(
        actions[..],
        [
            Action::Send {
                message: Message::Reject(RejectReason::HasBackup),
                ..
            },
            Action::Disconnect { .. }
        ]
    ));
}

#[test]
fn a_lost_backup_is_ruled_out_once_the_other_knows_that_it_is_kept() {
    let mut side = Side::with_two();
    assert_eq!(side.loses(SECOND), [keep(PEER, 5)]);
    side.on(Event::EpochClosed(epoch(3, false)));
    // Its acknowledgement alone counts for nothing as long as the other may take over.
    assert_eq!(side.hears(PEER, ack(3, 3)), []);
    let kept = |generation| Message::Kept { generation };
    assert_eq!(side.hears(PEER, kept(5)), [ask(5)]);
    let actions = side.answer(5, ArbiterAnswer::Won);
    let release = Action::ReleaseOutputs { through: 3 };
    assert_eq!(actions, [RENEW, renewed(PEER, 5), release]);
    assert_eq!(side.core.role(), Role::Primary);
    assert_eq!(side.core.generation(), 5);
    // The last one is ruled out by the generation after that.
    assert_eq!(side.loses(PEER), [ask(6)]);
    let alone = Action::GoAlone { generation: 6 };
    assert_eq!(side.answer(6, ArbiterAnswer::Won), [alone]);
}

#[test]
fn one_that_is_lost_after_it_was_told_is_ruled_out_by_a_generation_of_its_own() {
    for said in [false, true] {
        let mut side = Side::with_two();
        side.on(Event::EpochClosed(epoch(3, false)));
        side.loses(SECOND);
        if said {
            assert_eq!(side.hears(PEER, Message::Kept { generation: 5 }), [ask(5)]);
            assert_eq!(side.loses(PEER), []);
        } else {
            assert_eq!(side.loses(PEER), [ask(5)]);
        }
        // It may have heard that it is kept in 5, and bid for 6.
        let actions = side.answer(5, ArbiterAnswer::Won);
        assert_eq!(actions, [RENEW, ask(6)]);
        let mut loser = side.core.clone();
        let alone = Action::GoAlone { generation: 6 };
        assert_eq!(side.answer(6, ArbiterAnswer::Won), [alone]);
        let mut actions = Vec::new();
        let answer = ArbiterAnswer::Lost {
            generation: 6,
            by: "other".to_owned(),
        };
        loser.handle(
            side.now_ms * MS,
            Event::Arbiter { asked: 6, answer },
            &mut actions,
        );
        assert_eq!(loser.role(), Role::Halted);
    }
}

#[test]
fn one_that_does_not_say_that_it_knows_is_lost_too() {
    let mut side = Side::with_two();
    side.loses(SECOND);
    let mut actions = Vec::new();
    for _ in 0..4 {
        actions.extend(side.wait(100));
        actions.extend(side.hears(PEER, ack(2, 2)));
    }
    let why = DisconnectReason::Protocol(ProtocolError::NotKept);
    assert_eq!(actions, [Action::Disconnect { peer: PEER, why }, ask(5)]);
    // What it was not told it can't say.
    let mut side = Side::with_two();
    let actions = side.hears(PEER, Message::Kept { generation: 5 });
    assert!(matches!(actions[0], Action::Disconnect { .. }));
}

#[test]
fn the_slowest_is_given_up_and_the_others_stay() {
    let mut side = Side::with_two();
    side.on(Event::EpochClosed(epoch(3, false)));
    side.hears(PEER, ack(3, 3));
    let mut actions = Vec::new();
    while !actions.contains(&keep(PEER, 5)) && side.now_ms < 20_000 {
        actions.extend(side.wait(100));
        actions.extend(side.hears(PEER, ack(3, 3)));
        actions.extend(side.hears(SECOND, ack(3, 2)));
    }
    assert!(actions.contains(&Action::StopGuest) && side.now_ms > 10_000);
    assert_eq!(side.hears(PEER, Message::Kept { generation: 5 }), [ask(5)]);
    let actions = side.answer(5, ArbiterAnswer::Won);
    let why = DisconnectReason::TooSlow { ms: 10_000 };
    let peer = SECOND;
    assert_eq!(
        actions,
        [
            Action::Disconnect { peer, why },
            RENEW,
            renewed(PEER, 5),
            Action::ResumeGuest
        ]
    );
}

#[test]
fn a_guest_is_offered_to_one_of_them_and_goes_on_with_the_other_if_it_is_not_taken() {
    let mut side = Side::with_two();
    let whole = Ack {
        received: 2,
        executed: 2,
        verified: 2,
        ..Ack::default()
    };
    side.hears(SECOND, Message::Ack(whole));
    let message = Message::HandOver;
    let peer = SECOND;
    let actions = side.on(Event::HandOver);
    assert_eq!(actions, [Action::Send { peer, message }, keep(PEER, 5)]);
    side.hears(PEER, Message::Kept { generation: 5 });
    let mut actions = Vec::new();
    for _ in 0..6 {
        actions.extend(side.wait(100));
        actions.extend(side.hears(PEER, ack(2, 2)));
    }
    assert_eq!(actions, [ask(5)]);
    let why = DisconnectReason::TakenBack;
    let actions = side.answer(5, ArbiterAnswer::Won);
    assert_eq!(
        actions,
        [RENEW, Action::Disconnect { peer, why }, renewed(PEER, 5)]
    );
}

#[test]
fn a_backup_that_is_kept_asks_for_the_next_generation_and_no_other_does() {
    let won_by = |by: &str| ArbiterAnswer::Lost {
        generation: 5,
        by: by.to_owned(),
    };
    let mut side = Side::backup();
    let message = Message::Kept { generation: 5 };
    let say = Action::Send {
        peer: PEER,
        message,
    };
    assert_eq!(
        side.says(Message::Keep {
            generation: 5,
            voices: 1
        }),
        [say]
    );
    assert_eq!(side.closed(), [ask(5)]);
    let mut other = side.core.clone();
    assert_eq!(side.answer(5, won_by("west-1")), [ask(6)]);
    assert_eq!(side.answer(6, lost()), [Action::DropGuest]);
    let mut actions = Vec::new();
    let answer = won_by("another backup");
    other.handle(
        side.now_ms * MS,
        Event::Arbiter { asked: 5, answer },
        &mut actions,
    );
    assert_eq!(actions[1], Action::DropGuest);
    // One that was not told is the one that was ruled out.
    let mut side = Side::backup();
    assert_eq!(side.closed(), [ask(5)]);
    assert_eq!(side.answer(5, won_by("west-1")), [Action::DropGuest]);
    // One that was told what came of it need not ask.
    let mut side = Side::backup();
    side.says(Message::Keep {
        generation: 5,
        voices: 1,
    });
    side.says(Message::Renewed { generation: 5 });
    assert_eq!(side.closed(), [ask(6)]);
    let live = Action::GoLive {
        generation: 6,
        released: 0,
    };
    assert_eq!(side.answer(6, ArbiterAnswer::Won), [live]);
}

#[test]
fn a_new_generation_out_of_the_blue_is_no_word_of_the_primarys() {
    let mut side = Side::backup();
    let actions = side.says(Message::Renewed { generation: 5 });
    assert!(matches!(actions[0], Action::Disconnect { .. }));
}

#[test]
fn a_generation_that_is_won_late_lets_nothing_out() {
    let mut side = Side::with_two();
    side.loses(SECOND);
    side.on(Event::EpochClosed(epoch(3, false)));
    assert_eq!(side.hears(PEER, Message::Kept { generation: 5 }), [ask(5)]);
    side.beat(&[PEER], 4_100);
    side.hears(PEER, ack(3, 3));
    let actions = side.answer(5, ArbiterAnswer::Won);
    let renew = Action::Renew {
        generation: 5,
        late: true,
    };
    assert_eq!(actions, [renew, renewed(PEER, 5), keep(PEER, 6)]);
    assert_eq!(side.hears(PEER, Message::Kept { generation: 6 }), [ask(6)]);
    let actions = side.answer(6, ArbiterAnswer::Won);
    let release = Action::ReleaseOutputs { through: 3 };
    assert!(actions.contains(&release), "{actions:?}");
}

#[test]
fn a_backup_that_never_says_that_it_has_its_copy_is_given_up() {
    let mut side = Side::of_two(Release::All);
    // It is there, but its disk takes its time.
    side.beat(&[PEER, SECOND], 9_900);
    assert!(!side.core.status().asking_arbiter);
    side.beat(&[PEER, SECOND], 200);
    assert!(side.core.status().asking_arbiter);
}

#[test]
fn each_is_told_how_many_there_are() {
    let told = |actions: Vec<Action>| -> Vec<(PeerId, u32)> {
        let told = actions.into_iter().filter_map(|action| match action {
            Action::Send {
                peer,
                message: Message::Backups { count },
            } => Some((peer, count)),
            _ => None,
        });
        told.collect()
    };
    let mut side = Side::of_two(Release::All);
    let (peer, message) = (SECOND, ack(2, 2));
    let actions = side.on_all(Event::Message { peer, message });
    assert_eq!(told(actions), [(PEER, 2)]);
    let (peer, message) = (SECOND, ack(2, 2));
    assert_eq!(told(side.on_all(Event::Message { peer, message })), []);
    // One that is lost may have a copy until it is ruled out.
    let (peer, why) = (SECOND, LinkLoss::Closed);
    assert_eq!(told(side.on_all(Event::PeerDisconnected { peer, why })), []);
    side.hears(PEER, Message::Kept { generation: 5 });
    let (asked, answer) = (5, ArbiterAnswer::Won);
    let actions = side.on_all(Event::Arbiter { asked, answer });
    assert_eq!(told(actions), [(PEER, 1)]);
}
