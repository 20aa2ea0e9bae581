//! Who is let in.

use super::*;

/// A change to a good greeting, and what is said about it.
type Case = (fn(&mut Hello), &'static str);

#[test]
fn each_difference_is_turned_down_with_its_reason() {
    let cases: [Case; 10] = [
        (
            |h| h.protocol_version = PROTOCOL_VERSION + 1,
            "protocol version 11, this backup 12",
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
