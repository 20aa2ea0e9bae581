//! A core may be told anything in any order.

use proptest::prelude::*;

use super::*;

fn any_message() -> impl Strategy<Value = Message> {
    let number = prop_oneof![0..12u64, Just(u64::MAX), Just(1 << 62)];
    let epoch_number = number.clone();
    prop_oneof![
        Just(Message::Hello(Box::new(hello()))),
        Just(Message::Hello(Box::new(Hello {
            features: FEATURES,
            ..hello()
        }))),
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
        (0..300u64, 0..300usize, any::<bool>()).prop_map(|(first_gfn, count, last)| {
            Message::PageHashes(PageHashes {
                key: [0; 16],
                first_gfn,
                hashes: vec![PageHash::ZEROS; count],
                last,
            })
        }),
        Just(Message::HandOver),
        Just(Message::Frame { bytes: vec![7; 60] }),
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

    /// It never panics, always asks for a tick in the future, and a halted one stays so.
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
