//! Starting, alone and primary; and how both sides end.

use super::*;

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
    let status = side.core.status();
    assert_eq!((status.lag_bytes, status.link), (100, Some(PEER)));
    assert_eq!(status.behind_since_ns, Some(side.now_ms * 1_000_000));
    side.now_ms += 1;
    side.says(ack(2, 2));
    assert_eq!(side.core.status().behind_since_ns, None);
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
        actions.into_iter().filter_map(is_beat).next_back()
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
        assert!(side.closed().contains(&ask));
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
fn another_connection_acknowledges_nothing() {
    let mut side = Side::primary();
    side.on(Event::EpochClosed(epoch(2, false)));
    let peer = PeerId(9);
    let message = ack(2, 2);
    assert_eq!(side.on(Event::Message { peer, message }), []);
    let why = LinkLoss::Closed;
    assert_eq!(side.on(Event::PeerDisconnected { peer, why }), []);
    assert!(side.core.status().protected);
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
        let actions = side.says(message.clone());
        assert_eq!(actions, std::slice::from_ref(&halt));
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
fn a_live_copy_that_another_host_has_superseded_ends() {
    let later = |generation| Event::Superseded { generation };
    let halt = Action::Halt {
        why: HaltReason::Lost {
            generation: 5,
            by: "another host".to_owned(),
        },
    };
    for mut side in [Side::alone(), Side::primary()] {
        assert_eq!(side.on(later(4)), [], "its own generation");
        assert_eq!(side.on(later(5)), std::slice::from_ref(&halt));
    }
    // It has bid for that itself, and may have won: the answer tells.
    let mut side = Side::primary();
    assert_eq!(side.closed(), [Action::AskArbiter { generation: 5 }]);
    assert_eq!(side.on(later(5)), []);
    let actions = side.answer(5, ArbiterAnswer::Won);
    assert_eq!(actions, [Action::GoAlone { generation: 5 }]);
    // Nothing is live here.
    assert_eq!(Side::backup().on(later(9)), []);
    assert_eq!(Side::cloning().on(later(9)), []);
}

#[test]
fn a_copy_that_may_have_counted_as_gone_lets_nothing_out_before_it_has_won_anew() {
    let peer = PEER;
    let (mut cloning, _) = Side::alone().greeted(hello());
    let actions = cloning.on(Event::Lapsed);
    assert_eq!(actions[0], Action::StopClone { peer });
    assert!(matches!(actions[1], Action::Disconnect { .. }));
    let ask = Action::AskArbiter { generation: 5 };
    let hold = Action::HoldOutputs { from: 1 };
    assert_eq!(actions[2..], [hold.clone(), ask.clone()]);

    let mut side = Side::alone();
    assert_eq!(side.on(Event::Lapsed), [hold, ask.clone()]);
    assert_eq!(side.on(Event::Lapsed), [], "it asks already");
    assert_eq!(side.on(Event::EpochClosed(epoch(1, false))), []);
    assert_eq!(side.answer(5, unreachable()), []);
    assert_eq!(side.wait(1000), [ask]);
    let mut loser = side.core.clone();
    let actions = side.answer(5, ArbiterAnswer::Won);
    assert_eq!(actions, [Action::GoAlone { generation: 5 }]);

    let (asked, answer) = (5, lost());
    let mut actions = Vec::new();
    loser.handle(u64::MAX, Event::Arbiter { asked, answer }, &mut actions);
    assert_eq!(loser.role(), Role::Halted);
}

/// A primary whose guest waits: its backup has had epoch 2 for 250 ms and not executed it.
fn waiting_primary() -> Side {
    let mut side = Side::primary();
    side.on(Event::EpochClosed(epoch(2, false)));
    assert_eq!(side.wait(150), []);
    let actions = side.says(ack(2, 1));
    assert_eq!(actions, [Action::ReleaseOutputs { through: 2 }]);
    assert_eq!(side.wait(100), []);
    assert_eq!(side.says(ack(2, 1)), [Action::StopGuest]);
    assert!(side.core.status().guest_stopped);
    side
}

#[test]
fn the_guest_waits_for_a_backup_that_is_behind() {
    let mut side = waiting_primary();
    assert_eq!(side.says(ack(2, 2)), [Action::ResumeGuest]);
    assert!(!side.core.status().guest_stopped);
}

#[test]
fn a_backup_that_is_waited_for_too_long_is_given_up() {
    let mut side = waiting_primary();
    let mut actions = Vec::new();
    for _ in 0..110 {
        actions.extend(side.wait(100));
        actions.extend(side.says(ack(2, 1)));
    }
    // It keeps its connection until it can no longer take over.
    assert_eq!(actions, [Action::AskArbiter { generation: 5 }]);
    let peer = PEER;
    let why = DisconnectReason::TooSlow { ms: 10_000 };
    assert_eq!(
        side.answer(5, ArbiterAnswer::Won),
        [
            Action::Disconnect { peer, why },
            Action::GoAlone { generation: 5 },
            Action::ResumeGuest,
        ]
    );
    assert_eq!(side.core.role(), Role::Alone);
}
