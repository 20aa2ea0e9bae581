//! Planned hand-overs.

use super::*;

/// An acknowledgement of a backup that has executed and compared all of it.
fn whole(through: Epoch) -> Message {
    Message::Ack(Ack {
        received: through,
        executed: through,
        verified: through,
        ..Ack::default()
    })
}

fn ask() -> Action {
    Action::AskArbiter { generation: 5 }
}

/// A primary that has offered its guest.
fn offering() -> Side {
    let mut side = Side::primary();
    assert_eq!(side.says(whole(1)), []);
    let offer = Action::Send {
        peer: PEER,
        message: Message::HandOver,
    };
    assert_eq!(side.on(Event::HandOver), [offer]);
    assert!(side.core.status().offered.is_some() && !side.core.status().protected);
    side
}

#[test]
fn nobody_is_offered_a_guest_that_he_does_not_have_all_of() {
    for mut side in [Side::alone(), Side::unacked(), Side::backup()] {
        assert_eq!(side.on(Event::HandOver), []);
        assert_eq!(side.core.status().offered, None);
    }
    let mut side = Side::primary();
    side.on(Event::EpochClosed(epoch(2, false)));
    for message in [ack(1, 1), ack(2, 1), ack(2, 2)] {
        side.says(message);
        assert_eq!(side.on(Event::HandOver), []);
    }
    side.says(whole(2));
    assert!(matches!(
        side.on(Event::HandOver)[..],
        [Action::Send { .. }]
    ));
    // Once is enough.
    assert_eq!(side.on(Event::HandOver), []);
}

#[test]
fn who_has_offered_the_guest_lets_nothing_out_and_gives_the_other_time() {
    let mut side = offering();
    // Its guest should stand; if it does not, nothing of it goes out.
    assert_eq!(side.on(Event::EpochClosed(epoch(2, false))), []);
    assert_eq!(side.says(whole(2)), []);
    assert_eq!(side.closed(), []);
    assert_eq!(side.wait(590), []);
    assert_eq!(side.wait(10), [ask()]);
    assert!(matches!(
        side.answer(5, lost())[..],
        [Action::Halt {
            why: HaltReason::Lost { generation: 5, .. }
        }]
    ));
}

#[test]
fn a_guest_that_is_not_taken_goes_on_where_it_was() {
    let mut side = offering();
    assert_eq!(side.wait(600), [ask()]);
    let why = DisconnectReason::TakenBack;
    let actions = side.answer(5, ArbiterAnswer::Won);
    let back = [
        Action::GoAlone { generation: 5 },
        Action::Disconnect { peer: PEER, why },
    ];
    assert_eq!(actions, back);
    assert_eq!(side.core.status().offered, None);
}

#[test]
fn who_sees_that_the_guest_was_taken_ends_unless_it_may_have_won_it_itself() {
    let mut side = offering();
    let taken = Event::Superseded { generation: 5 };
    assert!(matches!(side.on(taken.clone())[..], [Action::Halt { .. }]));
    let mut side = offering();
    side.wait(600);
    assert_eq!(side.on(taken), []);
    let actions = side.answer(5, ArbiterAnswer::Won);
    assert_eq!(actions[0], Action::GoAlone { generation: 5 });
}

#[test]
fn a_backup_that_is_offered_the_guest_bids_at_once_and_executes_the_rest() {
    let mut side = Side::backup();
    side.says(Message::Epoch(epoch(9, false)));
    let why = DisconnectReason::HandedOver;
    let disconnect = Action::Disconnect { peer: PEER, why };
    assert_eq!(side.says(Message::HandOver), [disconnect, ask()]);
    assert_eq!(side.answer(5, ArbiterAnswer::Won), []);
    let executed = Event::Executed {
        epoch: 9,
        virtual_now: 90,
    };
    // What the primary let out before it said so is all there is.
    let live = Action::GoLive {
        generation: 5,
        released: 9,
    };
    assert_eq!(side.on(executed), [live]);
}

#[test]
fn a_backup_that_comes_too_late_drops_its_copy() {
    let mut side = Side::backup();
    side.says(Message::HandOver);
    assert_eq!(side.answer(5, lost()), [Action::DropGuest]);
    assert_eq!(side.core.role(), Role::Joining);
    // A joiner has no copy to go live with.
    let mut side = Side::cloning();
    let actions = side.says(Message::HandOver);
    assert!(matches!(actions[0], Action::Disconnect { .. }));
    assert!(!side.wait(2000).contains(&ask()));
}
