//! Outputs that a quorum of the backups has acknowledged.

use super::several::{SECOND, ask};
use super::*;

fn known(number: u64) -> Message {
    Message::QuorumKnown { number }
}

fn release(through: Epoch) -> Action {
    Action::ReleaseOutputs { through }
}

fn quorum(peer: PeerId, number: u64, voices: u32) -> Action {
    let message = Message::Quorum { number, voices };
    Action::Send { peer, message }
}

impl Side {
    /// A primary of generation 4 with two backups that know that it takes both their voices to take over.
    fn by_quorum() -> Side {
        let mut side = Side::of_two(Release::Quorum);
        side.hears(SECOND, known(1));
        side.hears(SECOND, ack(2, 2));
        side.hears(PEER, known(1));
        side.hears(PEER, ack(2, 2));
        side
    }

    fn stood(&mut self, asked: Generation, decided: bool, through: &[Epoch]) -> Vec<Action> {
        let through = through.to_vec();
        let answer = StandAnswer::Heard { decided, through };
        self.on(Event::Standing { asked, answer })
    }
}

#[test]
fn more_than_half_of_all_copies_have_what_is_let_out() {
    for backups in 1..=9 {
        let voices = Release::Quorum.voices(backups) as usize;
        // Whose acknowledgement does, so that those who take over can't miss all of them.
        let acknowledge = backups - voices + 1;
        assert!(2 * (acknowledge + 1) > backups + 1, "{backups}");
        assert!(
            2 * acknowledge <= backups + 1,
            "{backups}: no more than needed"
        );
        assert_eq!(Release::All.voices(backups), 1);
    }
}

#[test]
fn an_output_waits_for_one_of_two_once_both_know_that_neither_may_bid_alone() {
    let mut side = Side::of_two(Release::Quorum);
    side.hears(SECOND, known(1));
    // Nobody counts on the second before it has a copy, so the first would still take over by itself.
    side.on(Event::EpochClosed(epoch(3, false)));
    let actions = side.hears(SECOND, ack(3, 3));
    assert_eq!(actions, [quorum(PEER, 1, 2)]);
    // It had acknowledged epoch 1 and no more.
    assert_eq!(side.hears(PEER, known(1)), [release(3)]);
    // From now on either will do, and nothing goes out twice.
    side.on(Event::EpochClosed(epoch(4, false)));
    assert_eq!(side.hears(PEER, ack(4, 4)), [release(4)]);
    assert_eq!(side.hears(SECOND, ack(4, 4)), []);
    // A number that was never told is no word of a backup's.
    let actions = side.hears(PEER, known(7));
    assert!(matches!(actions[0], Action::Disconnect { .. }));
}

#[test]
fn a_lost_backup_holds_nothing_up_and_the_other_is_then_all_there_is() {
    let mut side = Side::by_quorum();
    let keep = Message::Keep {
        generation: 5,
        voices: 1,
    };
    let message = keep;
    let peer = PEER;
    assert!(side.core.status().protected);
    assert_eq!(side.loses(SECOND), [Action::Send { peer, message }]);
    // It would still wait for the other one's voice.
    assert!(!side.core.status().protected);
    side.on(Event::EpochClosed(epoch(3, false)));
    assert_eq!(side.hears(PEER, ack(3, 3)), [release(3)]);
    side.hears(PEER, Message::Kept { generation: 5 });
    let actions = side.answer(5, ArbiterAnswer::Won);
    assert!(actions.contains(&quorum(PEER, 2, 1)), "{actions:?}");
    side.hears(PEER, known(2));
    assert!(side.core.status().protected);
    side.on(Event::EpochClosed(epoch(4, false)));
    assert_eq!(side.hears(PEER, ack(4, 4)), [release(4)]);
}

#[test]
fn a_primary_that_may_have_counted_as_gone_lets_nothing_out_before_it_has_won() {
    let mut side = Side::by_quorum();
    side.loses(SECOND);
    assert_eq!(side.on(Event::Lapsed), [], "it asks already");
    side.on(Event::EpochClosed(epoch(3, false)));
    assert_eq!(side.hears(PEER, ack(3, 3)), []);
    side.hears(PEER, Message::Kept { generation: 5 });
    let actions = side.answer(5, ArbiterAnswer::Won);
    assert!(actions.contains(&release(3)), "{actions:?}");
}

#[test]
fn one_that_may_hold_itself_for_the_only_one_is_waited_for() {
    let mut side = Side::by_quorum();
    // Should 5 be won, the first knows of nobody else, and so may bid alone.
    side.loses(SECOND);
    side.on(Event::EpochClosed(epoch(3, false)));
    side.hears(PEER, Message::Kept { generation: 5 });
    assert_eq!(side.loses(PEER), []);
    // Both are gone; the arbiter decides.
    let actions = side.answer(5, ArbiterAnswer::Won);
    assert!(actions.contains(&ask(6)), "{actions:?}");
    assert!(!actions.contains(&release(3)));
}

/// A backup with the log up to epoch 8, whose primary is lost.
fn candidate() -> Side {
    let mut side = Side::backup();
    let say = Action::Send {
        peer: PEER,
        message: known(1),
    };
    let actions = side.says(Message::Quorum {
        number: 1,
        voices: 2,
    });
    assert_eq!(actions, [say]);
    let stand = Action::Stand {
        generation: 5,
        through: 8,
    };
    assert_eq!(side.closed(), [stand]);
    side
}

#[test]
fn a_backup_bids_when_it_knows_of_enough_others_that_have_no_more() {
    let mut side = candidate();
    assert_eq!(side.stood(5, false, &[8]), []);
    let stand = Action::Stand {
        generation: 5,
        through: 8,
    };
    assert_eq!(side.wait(50), std::slice::from_ref(&stand));
    // The other one has more: that one is to have the guest.
    assert_eq!(side.stood(5, false, &[8, 9]), []);
    assert_eq!(side.wait(50), std::slice::from_ref(&stand));
    // What was asked about another generation counts for nothing.
    assert_eq!(side.stood(4, false, &[8, 8]), []);
    assert_eq!(side.stood(5, false, &[8, 7]), [ask(5)]);
    let live = Action::GoLive {
        generation: 5,
        released: 0,
    };
    assert_eq!(side.answer(5, ArbiterAnswer::Won), [live]);
}

#[test]
fn an_arbiter_that_is_away_is_asked_again() {
    let mut side = candidate();
    let why = "disk".to_owned();
    let answer = StandAnswer::Unreachable { why };
    assert_eq!(side.on(Event::Standing { asked: 5, answer }), []);
    assert!(side.core.status().asking_arbiter);
    assert_eq!(side.wait(100), []);
    assert!(matches!(side.wait(100)[..], [Action::Stand { .. }]));
}

#[test]
fn a_generation_that_is_decided_is_bid_for_only_to_hear_whose_it_is() {
    let mut side = candidate();
    assert_eq!(side.stood(5, true, &[]), [ask(5)]);
    let mut kept = side.core.clone();
    assert_eq!(side.answer(5, lost()), [Action::DropGuest]);
    // Had it been told that it stays, the next one is between it and those that stay, too.
    let mut actions = Vec::new();
    let answer = ArbiterAnswer::Lost {
        generation: 5,
        by: "west-1".to_owned(),
    };
    kept.handle(
        side.now_ms * MS,
        Event::Arbiter { asked: 5, answer },
        &mut actions,
    );
    assert!(actions.contains(&Action::DropGuest));

    let mut side = Side::backup();
    side.says(Message::Quorum {
        number: 1,
        voices: 2,
    });
    side.says(Message::Keep {
        generation: 5,
        voices: 1,
    });
    side.closed();
    assert_eq!(side.stood(5, true, &[8]), [ask(5)]);
    let by = "west-1".to_owned();
    let answer = ArbiterAnswer::Lost { generation: 5, by };
    assert_eq!(side.answer(5, answer), [ask(6)]);
}

#[test]
fn the_last_word_on_voices_goes_whatever_is_won() {
    let mut side = Side::backup();
    let says = |side: &mut Side, number, voices| side.says(Message::Quorum { number, voices });
    says(&mut side, 1, 3);
    side.says(Message::Keep {
        generation: 5,
        voices: 1,
    });
    says(&mut side, 2, 2);
    side.says(Message::Renewed { generation: 5 });
    let stand = Action::Stand {
        generation: 6,
        through: 8,
    };
    assert_eq!(side.closed(), [stand]);
}

#[test]
fn a_guest_that_is_handed_over_is_taken_without_asking_around() {
    let mut side = Side::backup();
    side.says(Message::Quorum {
        number: 1,
        voices: 2,
    });
    let actions = side.says(Message::HandOver);
    assert!(actions.contains(&ask(5)), "{actions:?}");
}
