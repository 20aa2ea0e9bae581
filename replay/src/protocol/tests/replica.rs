//! Joining and backup.

use super::*;

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
    assert!(side.core.status().behind_since_ns.is_some());
    assert_eq!(side.closed(), [Action::AskArbiter { generation: 5 }]);
    assert_eq!(side.answer(5, ArbiterAnswer::Won), []);
    let executed = |epoch| Event::Executed {
        epoch,
        virtual_now: 0,
    };
    assert_eq!(side.on(executed(9)), []);
    let actions = side.on(executed(10));
    let live = Action::GoLive {
        generation: 5,
        released: 9,
    };
    assert_eq!(actions, [live]);
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
fn with_other_backups_beside_it_gives_it_a_heartbeat_more() {
    let ask = Action::AskArbiter { generation: 5 };
    for (count, more) in [(1, 0), (2, 50)] {
        let mut side = Side::backup();
        side.says(Message::Backups { count });
        assert_eq!(side.broken(), []);
        assert_eq!(side.wait(290 + more), []);
        assert_eq!(side.wait(20), std::slice::from_ref(&ask));
    }
    // It is not there for sure.
    let mut side = Side::backup();
    side.says(Message::Backups { count: 2 });
    assert_eq!(side.closed(), [ask]);
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
    // Twice the 64 MiB at which a primary waits, and the guest's RAM.
    for number in 9..=16 {
        let mut large = epoch(number, false);
        large.bytes.resize(16 << 20, 6);
        let actions = side.says(Message::Epoch(large));
        assert!(matches!(actions[0], Action::DeliverEpoch(_)));
    }
    let mut large = epoch(17, false);
    large.bytes.resize(16 << 20, 6);
    let actions = side.says(Message::Epoch(large));
    let why = DisconnectReason::Protocol(ProtocolError::TooFarAhead);
    assert_eq!(actions[0], Action::Disconnect { peer: PEER, why });
}

#[test]
fn a_diverged_backup_promises_not_to_go_live_and_joins_again() {
    let mut side = Side::backup();
    let actions = side.on(Event::Diverged {
        epoch: 8,
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
    side.says(Message::Epoch(epoch(9, false)));
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
