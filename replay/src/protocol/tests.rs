//! Cores one event at a time.

use proptest::prelude::*;

use super::link::MS;
use super::*;
use crate::codec::EncodedEpoch;
use crate::entry::{Epoch, Page};

const PEER: PeerId = PeerId(1);

fn facts() -> Facts {
    Facts {
        vm_id: "shop".to_owned(),
        cpu_model: "baseline-v1".to_owned(),
        ram_bytes: 1 << 20,
        machine_digest: [7; 32],
        disks: vec![DiskFacts {
            capacity_bytes: 1 << 30,
            shared: true,
        }],
        image_id: vec![1, 2, 3],
    }
}

fn hello() -> Hello {
    Hello {
        protocol_version: PROTOCOL_VERSION,
        features: 0,
        host: "east".to_owned(),
        generation: 0,
        wants: Join::Clone,
        facts: facts(),
    }
}

fn welcome() -> Welcome {
    Welcome {
        protocol_version: PROTOCOL_VERSION,
        features: 0,
        host: "west".to_owned(),
        generation: 4,
        commit: Commit::Received,
        detect_ms: 300,
        heartbeat_ms: 50,
    }
}

/// The first byte is the tag of a snapshot, or of a power button.
fn epoch(epoch: Epoch, snapshot: bool) -> EncodedEpoch {
    EncodedEpoch {
        epoch,
        bytes: vec![if snapshot { 8 } else { 6 }; 100],
        entries: 1,
    }
}

fn ack(received: Epoch, executed: Epoch) -> Message {
    Message::Ack(Ack {
        received,
        executed,
        ..Ack::default()
    })
}

/// A core, its time, and what it wants done.
struct Side {
    core: Core,
    now_ms: u64,
}

impl Side {
    fn new(start: Start) -> Self {
        let core = Core::new(Config::new(start, "here", facts()), 0);
        Side { core, now_ms: 0 }
    }

    /// What an event leads to, but for heartbeats and notes.
    fn on(&mut self, event: Event) -> Vec<Action> {
        let mut actions = self.on_all(event);
        actions.retain(|action| {
            let beat = matches!(
                action,
                Action::Send {
                    message: Message::Heartbeat { .. },
                    ..
                }
            );
            !beat && !matches!(action, Action::Note(_))
        });
        actions
    }

    fn on_all(&mut self, event: Event) -> Vec<Action> {
        let mut actions = Vec::new();
        self.core.handle(self.now_ms * MS, event, &mut actions);
        actions
    }

    /// A message from the one peer.
    fn says(&mut self, message: Message) -> Vec<Action> {
        self.on(Event::Message {
            peer: PEER,
            message,
        })
    }

    /// Lets time pass in steps of 10 ms.
    fn wait(&mut self, ms: u64) -> Vec<Action> {
        let mut all = Vec::new();
        for _ in 0..ms / 10 {
            self.now_ms += 10;
            all.append(&mut self.on(Event::Tick));
        }
        all
    }

    fn answer(&mut self, asked: Generation, answer: ArbiterAnswer) -> Vec<Action> {
        self.on(Event::Arbiter { asked, answer })
    }

    fn broken(&mut self) -> Vec<Action> {
        let why = LinkLoss::Broken("cable".to_owned());
        self.on(Event::PeerDisconnected { peer: PEER, why })
    }

    fn closed(&mut self) -> Vec<Action> {
        let why = LinkLoss::Closed;
        self.on(Event::PeerDisconnected { peer: PEER, why })
    }

    /// A live copy of generation 4 without a backup.
    fn alone() -> Self {
        let mut side = Side::new(Start::Primary { generation: 3 });
        assert_eq!(side.on(Event::Tick), [Action::AskArbiter { generation: 4 }]);
        let actions = side.answer(4, ArbiterAnswer::Won);
        assert_eq!(actions, [Action::GoAlone { generation: 4 }]);
        side
    }

    fn greeted(mut self, hello: Hello) -> (Self, Vec<Action>) {
        let peer = PEER;
        let dialled = false;
        assert_eq!(self.on(Event::PeerConnected { peer, dialled }), []);
        let actions = self.says(Message::Hello(Box::new(hello)));
        (self, actions)
    }

    /// A live copy that has sent epoch 1 to a joiner, unanswered.
    fn unacked() -> Self {
        let (mut side, actions) = Side::alone().greeted(hello());
        let peer = PEER;
        assert!(actions.contains(&Action::StartClone { peer }));
        let actions = side.on(Event::CloneReady { peer, first: 1 });
        assert_eq!(actions[0], Action::HoldOutputs { from: 1 });
        let epoch = epoch(1, true);
        let actions = side.on(Event::EpochClosed(epoch.clone()));
        assert_eq!(actions, [Action::SendEpoch { peer, epoch }]);
        side
    }

    /// A live copy with a backup that has acknowledged epoch 1.
    fn primary() -> Self {
        let mut side = Side::unacked();
        let actions = side.says(ack(1, 1));
        assert_eq!(actions, [Action::ReleaseOutputs { through: 1 }]);
        side
    }

    /// A joiner that was welcomed.
    fn cloning() -> Self {
        let mut side = Side::new(Start::Backup);
        assert_eq!(side.on(Event::Tick), [Action::Connect]);
        let peer = PEER;
        let dialled = true;
        let actions = side.on(Event::PeerConnected { peer, dialled });
        assert!(matches!(
            actions[..],
            [Action::Send {
                message: Message::Hello(_),
                ..
            }]
        ));
        let actions = side.says(Message::Welcome(welcome()));
        assert_eq!(actions, [Action::Established { peer }]);
        side
    }

    /// A joiner that was given the epoch that completes its clone.
    fn cloned() -> Self {
        let mut side = Side::cloning();
        let pages = vec![Page {
            gfn: 1,
            data: Vec::new(),
        }];
        let actions = side.says(Message::ClonePages {
            pages: pages.clone(),
        });
        assert_eq!(actions, [Action::ApplyPages(pages)]);
        assert_eq!(side.says(Message::CloneDone { first: 8 }), []);
        let actions = side.says(Message::Epoch(epoch(8, true)));
        assert_eq!(actions, [Action::DeliverEpoch(epoch(8, true))]);
        side
    }

    /// A backup of generation 4 that has executed epoch 8.
    fn backup() -> Self {
        let mut side = Side::cloned();
        let actions = side.on(Event::Executed {
            epoch: 8,
            virtual_now: 80,
        });
        assert!(matches!(
            actions[..],
            [Action::Send {
                message: Message::Ack(Ack {
                    received: 8,
                    executed: 8,
                    executed_at: 80,
                    ..
                }),
                ..
            }]
        ));
        assert_eq!(side.core.role(), Role::Backup);
        side
    }
}

fn lost() -> ArbiterAnswer {
    ArbiterAnswer::Lost {
        generation: 5,
        by: "other".to_owned(),
    }
}

fn unreachable() -> ArbiterAnswer {
    ArbiterAnswer::Unreachable {
        why: "disk".to_owned(),
    }
}

#[test]
fn a_primary_that_loses_its_first_generation_never_starts_the_guest() {
    let mut side = Side::new(Start::Primary { generation: 0 });
    side.on(Event::Tick);
    let actions = side.answer(1, lost());
    assert!(matches!(
        actions[..],
        [Action::Halt {
            why: HaltReason::Lost { generation: 5, .. }
        }]
    ));
    assert_eq!(side.core.role(), Role::Halted);
    assert_eq!(side.on(Event::EpochClosed(epoch(1, false))), []);
}

#[test]
fn outputs_go_out_at_once_when_alone_and_by_acknowledgement_when_not() {
    let mut side = Side::alone();
    let actions = side.on(Event::EpochClosed(epoch(1, false)));
    assert_eq!(actions, [Action::ReleaseOutputs { through: 1 }]);

    let mut side = Side::primary();
    assert!(side.core.status().protected);
    assert!(matches!(
        side.on(Event::EpochClosed(epoch(2, false)))[..],
        [Action::SendEpoch { .. }]
    ));
    let release = Action::ReleaseOutputs { through: 2 };
    assert_eq!(side.says(ack(2, 1)), [release]);
    assert_eq!(side.core.status().lag_bytes, 100);
}

#[test]
fn a_stale_acknowledgement_waits_for_a_fresh_heartbeat() {
    let mut side = Side::primary();
    let beat = |actions: Vec<Action>| {
        let is_beat = |action| match action {
            Action::Send {
                message: Message::Heartbeat { seq, .. },
                ..
            } => Some(seq),
            _ => None,
        };
        actions.into_iter().filter_map(is_beat).last()
    };
    side.on(Event::EpochClosed(epoch(2, false)));
    // The process stands still for a second; then it reads an acknowledgement from before.
    side.now_ms += 1000;
    let message = ack(2, 2);
    let peer = PEER;
    let actions = side.on_all(Event::Message { peer, message });
    assert!(!actions.contains(&Action::ReleaseOutputs { through: 2 }));
    assert_eq!(side.core.role(), Role::Primary);
    let heard = beat(actions).unwrap();
    side.now_ms += 1;
    let fresh = Ack {
        received: 2,
        executed: 2,
        heard,
        ..Ack::default()
    };
    let actions = side.says(Message::Ack(fresh));
    assert_eq!(actions, [Action::ReleaseOutputs { through: 2 }]);
}

#[test]
fn its_own_standstill_is_not_the_peers_silence() {
    for mut side in [Side::primary(), Side::backup()] {
        let role = side.core.role();
        side.now_ms += 5000;
        side.on(Event::Tick);
        assert_eq!(side.core.role(), role);
        assert!(side.core.status().protected);
        let actions = side.wait(300);
        let silent = |action: &Action| matches!(action, Action::Disconnect { .. });
        assert!(actions.iter().any(silent));
        assert!(!side.core.status().protected);
    }
}

#[test]
fn a_bad_acknowledgement_ends_the_connection_and_releases_nothing() {
    for message in [ack(2, 1), ack(1, 2), ack(0, 0)] {
        let mut side = Side::primary();
        let actions = side.says(message);
        let why = DisconnectReason::Protocol(ProtocolError::BadAck);
        let disconnect = Action::Disconnect { peer: PEER, why };
        let ask = Action::AskArbiter { generation: 5 };
        assert_eq!(actions, [disconnect, ask]);
    }
}

#[test]
fn a_primary_without_its_backup_holds_everything_until_it_has_won() {
    for mut side in [Side::primary(), Side::unacked()] {
        let ask = Action::AskArbiter { generation: 5 };
        assert_eq!(side.closed(), [ask.clone()]);
        assert_eq!(side.on(Event::EpochClosed(epoch(2, false))), []);
        // What the lost backup still says counts for nothing.
        assert_eq!(side.says(ack(2, 2)), []);
        assert_eq!(side.answer(5, unreachable()), []);
        assert_eq!(side.wait(190), []);
        assert_eq!(side.wait(20), [ask]);
        let actions = side.answer(5, ArbiterAnswer::Won);
        assert_eq!(actions, [Action::GoAlone { generation: 5 }]);
        assert_eq!(side.core.role(), Role::Alone);
    }
    let mut side = Side::primary();
    side.closed();
    assert!(matches!(side.answer(5, lost())[..], [Action::Halt { .. }]));
}

#[test]
fn an_answer_to_another_question_decides_nothing() {
    let mut side = Side::primary();
    side.closed();
    assert_eq!(side.answer(4, ArbiterAnswer::Won), []);
    assert_eq!(side.answer(6, lost()), []);
    assert_eq!(side.core.role(), Role::Primary);
}

#[test]
fn a_joiner_lost_before_its_clone_is_complete_needs_no_arbiter() {
    let (mut side, _) = Side::alone().greeted(hello());
    let peer = PEER;
    assert_eq!(side.closed(), [Action::StopClone { peer }]);
    assert_eq!(side.core.role(), Role::Alone);
    // The clone's end was under way.
    let actions = side.on(Event::CloneReady { peer, first: 1 });
    assert_eq!(actions, [Action::StopClone { peer }]);
}

#[test]
fn a_backup_that_leaves_in_order_needs_no_arbiter() {
    let mut side = Side::primary();
    let reason = ByeReason::Stopped;
    let actions = side.says(Message::Bye { reason });
    assert_eq!(actions[1], Action::GoAlone { generation: 4 });
    assert_eq!(side.core.role(), Role::Alone);
}

#[test]
fn too_much_log_ahead_of_the_backup_stops_the_guest() {
    let mut side = Side::primary();
    let large = |number| {
        let mut epoch = epoch(number, false);
        epoch.bytes.resize(16 << 20, 6);
        Event::EpochClosed(epoch)
    };
    for number in 2..6 {
        assert!(!side.on(large(number)).contains(&Action::StopGuest));
    }
    assert!(side.on(large(6)).contains(&Action::StopGuest));
    assert_eq!(
        side.says(ack(6, 3)),
        [Action::ReleaseOutputs { through: 6 }]
    );
    assert_eq!(side.says(ack(6, 4)), [Action::ResumeGuest]);
}

#[test]
fn a_joiner_never_goes_live() {
    for mut side in [Side::cloning(), Side::cloned()] {
        assert_eq!(side.closed(), [Action::DropGuest]);
        assert_eq!(side.core.role(), Role::Joining);
        // Late word of the copy that was dropped.
        let epoch = 8;
        let virtual_now = 1;
        assert_eq!(side.on(Event::Executed { epoch, virtual_now }), []);
        assert_eq!(side.wait(600), [Action::Connect]);
    }
}

#[test]
fn a_backup_executes_all_it_was_sent_before_it_goes_live() {
    let mut side = Side::backup();
    for number in 9..=10 {
        let actions = side.says(Message::Epoch(epoch(number, false)));
        assert!(matches!(
            &actions[..],
            [Action::DeliverEpoch(_), Action::Send { .. }]
        ));
    }
    assert_eq!(side.closed(), [Action::AskArbiter { generation: 5 }]);
    assert_eq!(side.answer(5, ArbiterAnswer::Won), []);
    let executed = |epoch| Event::Executed {
        epoch,
        virtual_now: 0,
    };
    assert_eq!(side.on(executed(9)), []);
    let actions = side.on(executed(10));
    assert_eq!(actions, [Action::GoLive { generation: 5 }]);
    assert_eq!(side.core.role(), Role::Alone);
    assert_eq!(side.core.generation(), 5);
    assert_eq!(side.core.status().epoch, 10);
}

#[test]
fn a_backup_gives_a_primary_that_may_live_all_its_time() {
    let mut side = Side::backup();
    side.wait(100);
    side.says(Message::Heartbeat { seq: 1, heard: 0 });
    side.wait(100);
    assert_eq!(side.broken(), []);
    assert_eq!(side.wait(190), []);
    let ask = Action::AskArbiter { generation: 5 };
    assert_eq!(side.wait(20), [ask]);
    assert_eq!(side.answer(5, lost()), [Action::DropGuest]);
    assert_eq!(side.core.role(), Role::Joining);
    assert_eq!(side.core.generation(), 5);
}

#[test]
fn a_missing_a_doubled_and_an_early_epoch_end_the_connection() {
    for number in [8, 10] {
        let mut side = Side::backup();
        let actions = side.says(Message::Epoch(epoch(number, false)));
        let why = DisconnectReason::Protocol(ProtocolError::EpochOrder {
            found: number,
            expected: 9,
        });
        assert_eq!(actions, [Action::Disconnect { peer: PEER, why }]);
        assert_eq!(side.core.role(), Role::Backup);
    }
    let mut side = Side::cloning();
    let actions = side.says(Message::Epoch(epoch(8, true)));
    assert!(matches!(actions[0], Action::Disconnect { .. }));
    let mut side = Side::cloning();
    side.says(Message::CloneDone { first: 8 });
    let actions = side.says(Message::Epoch(epoch(8, false)));
    let why = DisconnectReason::Protocol(ProtocolError::NoSnapshot(8));
    assert_eq!(actions[0], Action::Disconnect { peer: PEER, why });
}

#[test]
fn a_primary_that_does_not_wait_fills_no_memory() {
    let mut side = Side::backup();
    let mut number = 9;
    let actions = loop {
        let mut large = epoch(number, false);
        large.bytes.resize(16 << 20, 6);
        let actions = side.says(Message::Epoch(large));
        if !matches!(actions[0], Action::DeliverEpoch(_)) {
            break actions;
        }
        number += 1;
    };
    assert!(number <= 17);
    let why = DisconnectReason::Protocol(ProtocolError::TooFarAhead);
    assert_eq!(actions[0], Action::Disconnect { peer: PEER, why });
}

#[test]
fn a_diverged_backup_promises_not_to_go_live_and_joins_again() {
    let mut side = Side::backup();
    let epoch = 8;
    let actions = side.on(Event::Diverged {
        epoch,
        fatal: false,
    });
    let reason = ByeReason::Diverged;
    let peer = PEER;
    let message = Message::Bye { reason };
    let why = DisconnectReason::Diverged(8);
    assert_eq!(
        actions,
        [
            Action::Send { peer, message },
            Action::Disconnect { peer, why },
            Action::DropGuest
        ]
    );
    assert_eq!(side.core.role(), Role::Joining);
    // The last copy there is goes on if it can.
    let mut side = Side::backup();
    side.says(Message::Epoch(super::tests::epoch(9, false)));
    side.closed();
    assert_eq!(
        side.on(Event::Diverged {
            epoch: 9,
            fatal: false
        }),
        []
    );
    side.answer(5, ArbiterAnswer::Won);
    let why = HaltReason::ReplayFailed(9);
    let actions = side.on(Event::Diverged {
        epoch: 9,
        fatal: true,
    });
    assert_eq!(actions, [Action::Halt { why }]);
}

#[test]
fn the_guests_own_end_ends_both_sides() {
    let reason = EndReason::PowerOff;
    let halt = Action::Halt {
        why: HaltReason::GuestEnded(reason),
    };
    let mut side = Side::primary();
    let actions = side.on(Event::GuestEnded { reason });
    let message = Message::GuestEnded { reason };
    let send = Action::Send {
        peer: PEER,
        message: message.clone(),
    };
    assert_eq!(actions, [send, halt.clone()]);
    for mut side in [Side::backup(), Side::cloning()] {
        assert_eq!(side.says(message.clone()), [halt.clone()]);
    }
}

#[test]
fn a_stopped_primary_hands_over_and_a_stopped_backup_leaves() {
    for mut side in [Side::primary(), Side::backup()] {
        let actions = side.on(Event::Stop);
        let reason = ByeReason::Stopped;
        let message = Message::Bye { reason };
        let why = HaltReason::Stopped;
        let peer = PEER;
        assert_eq!(
            actions,
            [Action::Send { peer, message }, Action::Halt { why }]
        );
    }
    let mut side = Side::backup();
    let reason = ByeReason::Stopped;
    let actions = side.says(Message::Bye { reason });
    assert_eq!(actions[1], Action::AskArbiter { generation: 5 });
}

#[test]
fn each_difference_is_turned_down_with_its_reason() {
    let cases: [(fn(&mut Hello), &str); 10] = [
        (
            |h| h.protocol_version = 9,
            "protocol version 1, this backup 9",
        ),
        (
            |h| h.facts.vm_id = "till".to_owned(),
            "\"shop\", this backup is for \"till\"",
        ),
        (
            |h| h.facts.cpu_model = "v2".to_owned(),
            "\"baseline-v1\" on the primary and \"v2\"",
        ),
        (
            |h| h.facts.ram_bytes = 5,
            "1048576 bytes of RAM on the primary and 5",
        ),
        (|h| h.facts.disks.clear(), "1 disk(s) on the primary and 0"),
        (
            |h| h.facts.disks[0].capacity_bytes = 512,
            "disk 0 has 1073741824 bytes",
        ),
        (
            |h| h.facts.disks[0].shared = false,
            "disk 0 is shared on one",
        ),
        (|h| h.facts.image_id.clear(), "different disk images"),
        (
            |h| h.facts.machine_digest[0] = 0,
            "devices, kernel or command line",
        ),
        (|h| h.generation = 9, "at generation 4, but generation 9"),
    ];
    for (change, text) in cases {
        let mut hello = hello();
        change(&mut hello);
        let (side, actions) = Side::alone().greeted(hello);
        let [
            Action::Send {
                message: Message::Reject(reason),
                ..
            },
            Action::Disconnect { .. },
        ] = &actions[..]
        else {
            panic!("{text}: {actions:?}");
        };
        assert!(reason.to_string().contains(text), "{reason}");
        assert_eq!(side.core.role(), Role::Alone);
    }
}

#[test]
fn a_second_backup_a_busy_primary_and_a_backup_turn_joiners_down() {
    let reason_of = |mut side: Side| {
        let peer = PeerId(2);
        let dialled = false;
        side.on(Event::PeerConnected { peer, dialled });
        let message = Message::Hello(Box::new(hello()));
        match &side.on(Event::Message { peer, message })[0] {
            Action::Send {
                message: Message::Reject(reason),
                ..
            } => reason.clone(),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(reason_of(Side::primary()), RejectReason::HasBackup);
    assert_eq!(reason_of(Side::backup()), RejectReason::NotPrimary);
    let mut side = Side::primary();
    side.closed();
    assert!(matches!(reason_of(side), RejectReason::Busy { .. }));
}

#[test]
fn a_joiner_that_is_turned_down_retries_only_when_that_can_help() {
    let greeting = || {
        let mut side = Side::new(Start::Backup);
        side.on(Event::Tick);
        let peer = PEER;
        let dialled = true;
        side.on(Event::PeerConnected { peer, dialled });
        side
    };
    let mut side = greeting();
    side.says(Message::Reject(RejectReason::HasBackup));
    assert_eq!(side.wait(600), [Action::Connect]);
    let mut side = greeting();
    let actions = side.says(Message::Reject(RejectReason::Image));
    assert!(matches!(actions[..], [Action::Halt { .. }]));
}

#[test]
fn a_superseded_primary_is_not_joined() {
    let mut side = Side::backup();
    side.closed();
    side.answer(5, lost());
    side.wait(600);
    let peer = PEER;
    let dialled = true;
    side.on(Event::PeerConnected { peer, dialled });
    let actions = side.says(Message::Welcome(welcome()));
    let why = DisconnectReason::Superseded {
        theirs: 4,
        known: 5,
    };
    assert_eq!(actions, [Action::Disconnect { peer, why }]);
}

#[test]
fn visitors_must_introduce_themselves_in_time_and_be_few() {
    let mut side = Side::primary();
    let dialled = false;
    for visitor in 10..27 {
        let peer = PeerId(visitor);
        let actions = side.on(Event::PeerConnected { peer, dialled });
        assert_eq!(actions.len(), usize::from(visitor == 26));
    }
    let peer = PeerId(10);
    let message = ack(1, 1);
    let actions = side.on(Event::Message { peer, message });
    assert!(matches!(actions[..], [Action::Disconnect { .. }]));
    let mut dismissed = 0;
    for _ in 0..350 {
        side.says(ack(1, 1));
        dismissed += side.wait(10).len();
    }
    assert_eq!(dismissed, 15);
    assert_eq!(side.core.role(), Role::Primary);
}

fn any_message() -> impl Strategy<Value = Message> {
    let number = prop_oneof![0..12u64, Just(u64::MAX), Just(1 << 62)];
    let epoch_number = number.clone();
    prop_oneof![
        Just(Message::Hello(Box::new(hello()))),
        (number.clone(), any::<u32>(), any::<u32>()).prop_map(|(generation, detect, beat)| {
            Message::Welcome(Welcome {
                generation,
                detect_ms: detect,
                heartbeat_ms: beat,
                ..welcome()
            })
        }),
        Just(Message::Welcome(welcome())),
        Just(Message::Reject(RejectReason::HasBackup)),
        Just(Message::ClonePages { pages: Vec::new() }),
        number
            .clone()
            .prop_map(|first| Message::CloneDone { first }),
        (epoch_number, any::<bool>())
            .prop_map(|(number, snapshot)| Message::Epoch(epoch(number, snapshot))),
        (
            number.clone(),
            number.clone(),
            number.clone(),
            number.clone()
        )
            .prop_map(|(received, executed, verified, heard)| Message::Ack(Ack {
                received,
                executed,
                verified,
                executed_at: heard,
                heard,
            })),
        (number.clone(), number).prop_map(|(seq, heard)| Message::Heartbeat { seq, heard }),
        Just(Message::GuestEnded {
            reason: EndReason::Reset
        }),
        Just(Message::Bye {
            reason: ByeReason::Failed
        }),
    ]
}

fn any_event() -> impl Strategy<Value = Event> {
    let peer = || (1..4u64).prop_map(PeerId);
    let number = || prop_oneof![0..12u64, Just(u64::MAX >> 1)];
    let answer = prop_oneof![Just(ArbiterAnswer::Won), Just(lost()), Just(unreachable())];
    prop_oneof![
        4 => Just(Event::Tick),
        3 => (peer(), any::<bool>())
            .prop_map(|(peer, dialled)| Event::PeerConnected { peer, dialled }),
        1 => peer().prop_map(|peer| Event::PeerHeard { peer }),
        12 => (peer(), any_message()).prop_map(|(peer, message)| Event::Message { peer, message }),
        1 => peer().prop_map(|peer| Event::PeerDisconnected { peer, why: LinkLoss::Closed }),
        2 => number().prop_map(|number| Event::EpochClosed(epoch(number, true))),
        2 => number().prop_map(|epoch| Event::Executed { epoch, virtual_now: 0 }),
        1 => number().prop_map(|epoch| Event::Verified { epoch }),
        1 => (number(), any::<bool>()).prop_map(|(epoch, fatal)| Event::Diverged { epoch, fatal }),
        2 => (peer(), number()).prop_map(|(peer, first)| Event::CloneReady { peer, first }),
        1 => peer().prop_map(|peer| Event::CloneFailed { peer, why: String::new() }),
        4 => (number(), answer).prop_map(|(asked, answer)| Event::Arbiter { asked, answer }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    /// A core may be told anything in any order: it never panics, never asks for a tick in the
    /// past for ever, and a halted one stays so.
    #[test]
    fn nothing_a_core_is_told_makes_it_panic(
        start in prop_oneof![Just(Start::Primary { generation: 0 }), Just(Start::Backup)],
        events in prop::collection::vec((any_event(), 0..400u64), 0..80),
    ) {
        let mut side = Side::new(start);
        let mut halted = false;
        for (event, ms) in events {
            side.now_ms += ms;
            let actions = side.on_all(event);
            let only_closes = actions.iter().all(|a| matches!(a, Action::Disconnect { .. }));
            prop_assert!(!halted || only_closes);
            halted = side.core.role() == Role::Halted;
            prop_assert!(side.core.next_tick() > side.now_ms * MS);
            side.core.status();
        }
    }
}
