//! What a joiner says of the RAM that it has.

use super::*;

/// Frame numbers of the RAM that [`facts`] has.
const PAGES: u64 = 256;

fn hashes(first_gfn: u64, count: usize, last: bool) -> PageHashes {
    PageHashes {
        key: [0; 16],
        first_gfn,
        hashes: vec![PageHash([1; 16]); count],
        last,
    }
}

/// A live copy with a joiner that tells what it has.
fn told_by() -> Side {
    let hello = Hello {
        // One bit that this build knows, and one that it does not.
        features: FEATURE_PAGE_HASHES | 1 << 63,
        ..hello()
    };
    let (side, actions) = Side::alone().greeted(hello);
    let welcomed = actions.iter().find_map(|action| match action {
        Action::Send {
            message: Message::Welcome(welcome),
            ..
        } => Some(welcome.features),
        _ => None,
    });
    assert_eq!(welcomed, Some(FEATURE_PAGE_HASHES));
    assert_eq!(actions.last(), Some(&Action::StartClone { peer: PEER }));
    side
}

/// What a live copy does about each of these, one after the other.
fn taken(said: &[PageHashes]) -> Vec<Vec<Action>> {
    let mut side = told_by();
    let says = |hashes: &PageHashes| side.says(Message::PageHashes(hashes.clone()));
    said.iter().map(says).collect()
}

#[test]
fn what_rises_and_lies_within_ram_is_taken() {
    let said = [
        hashes(0, 3, false),
        hashes(3, 100, false),
        hashes(200, 56, false),
        hashes(PAGES, 0, true),
    ];
    for (said, actions) in said.iter().zip(taken(&said)) {
        let (peer, hashes) = (PEER, said.clone());
        assert_eq!(actions, [Action::TakeHashes { peer, hashes }]);
    }
    for said in [hashes(0, 0, true), hashes(0, 256, true)] {
        let actions = taken(std::slice::from_ref(&said));
        assert!(matches!(actions[0][..], [Action::TakeHashes { .. }]));
    }
}

#[test]
fn what_belongs_nowhere_ends_the_clone_and_the_connection() {
    let cases: [&[PageHashes]; 10] = [
        &[hashes(0, 10, false), hashes(9, 1, false)],
        &[hashes(5, 10, false), hashes(4, 1, true)],
        &[hashes(0, 10, false), hashes(0, 10, false)],
        &[hashes(250, 7, false)],
        &[hashes(PAGES, 1, true)],
        &[hashes(PAGES + 1, 0, true)],
        &[hashes(u64::MAX, 2, false)],
        // Empty ones could go on for ever.
        &[hashes(0, 0, false)],
        // All was said.
        &[hashes(0, 1, true), hashes(1, 1, false)],
        &[hashes(0, 0, true), hashes(0, 0, true)],
    ];
    for case in cases {
        let mut side = told_by();
        let (bad, good) = case.split_last().unwrap();
        for hashes in good {
            let actions = side.says(Message::PageHashes(hashes.clone()));
            assert!(matches!(actions[..], [Action::TakeHashes { .. }]));
        }
        let actions = side.says(Message::PageHashes(bad.clone()));
        let (peer, first_gfn) = (PEER, bad.first_gfn);
        let why = DisconnectReason::Protocol(ProtocolError::BadHashes { first_gfn });
        let stop = Action::StopClone { peer };
        assert_eq!(actions, [stop, Action::Disconnect { peer, why }], "{bad:?}");
        assert_eq!(side.core.role(), Role::Alone);
    }
}

#[test]
fn one_message_holds_so_many_pages_and_no_more() {
    let ram_bytes = 1 << 30;
    let mut told = super::super::told::Told::begin(FEATURES, PEER, &mut Vec::new());
    let most = hashes(0, PageHashes::MAX, false);
    assert_eq!(told.take(&most, ram_bytes), Ok(()));
    let more = hashes(most.end(), PageHashes::MAX + 1, false);
    assert!(told.take(&more, ram_bytes).is_err());
}

#[test]
fn a_joiner_without_the_feature_has_zeros_and_must_not_say_otherwise() {
    let (mut side, actions) = Side::alone().greeted(hello());
    let nothing = Action::TakeHashes {
        peer: PEER,
        hashes: hashes(0, 0, true),
    };
    assert_eq!(
        actions[actions.len() - 2..],
        [Action::StartClone { peer: PEER }, nothing]
    );
    let actions = side.says(Message::PageHashes(hashes(0, 1, true)));
    assert!(matches!(
        actions[..],
        [Action::StopClone { .. }, Action::Disconnect { .. }]
    ));
}

#[test]
fn a_joiner_tells_when_the_primary_understands_it() {
    for features in [0, FEATURE_PAGE_HASHES, 1 << 63, u64::MAX] {
        let mut side = Side::new(Start::Backup);
        side.on(Event::Tick);
        let (peer, dialled) = (PEER, true);
        let actions = side.on(Event::PeerConnected { peer, dialled });
        let [
            Action::Send {
                message: Message::Hello(hello),
                ..
            },
        ] = &actions[..]
        else {
            panic!("{actions:?}");
        };
        assert_eq!(hello.features, FEATURE_PAGE_HASHES);
        let actions = side.says(Message::Welcome(Welcome {
            features,
            ..welcome()
        }));
        let tells = actions.contains(&Action::TellHashes { peer });
        assert_eq!(tells, features & FEATURE_PAGE_HASHES != 0, "{actions:?}");
        // It is the joiner that tells, and nobody else.
        let actions = side.says(Message::PageHashes(hashes(0, 1, true)));
        assert_eq!(actions.last(), Some(&Action::DropGuest));
    }
}

#[test]
fn a_backup_says_nothing_more_of_its_ram() {
    let mut side = Side::primary();
    let actions = side.says(Message::PageHashes(hashes(0, 1, true)));
    assert!(matches!(actions[0], Action::Disconnect { .. }));
}
