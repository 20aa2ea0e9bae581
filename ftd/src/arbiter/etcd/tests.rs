//! The arbiter against something that keeps keys as etcd does. Real etcd: `tests/tests/etcd.rs`.

mod fake;
mod real;

use std::time::{Duration, Instant};

use super::*;
use crate::arbiter::open;
use fake::{Fake, Mood};

fn arbiter(name: &str, host: &str) -> EtcdArbiter {
    EtcdArbiter::open(name, "vm", host).unwrap()
}

fn lost_to(winner: &str) -> Verdict {
    Verdict::Lost {
        winner: winner.to_owned(),
    }
}

#[test]
fn one_bidder_wins_and_asking_again_gives_the_same_answer() {
    let etcd = Fake::start();
    let (mut east, mut west) = (arbiter(&etcd.name(), "east"), arbiter(&etcd.name(), "west"));
    assert_eq!(east.current_generation().unwrap(), 0);
    assert_eq!(east.test_and_set(1).unwrap(), Verdict::Won);
    assert_eq!(west.test_and_set(1).unwrap(), lost_to("east"));
    assert_eq!(west.test_and_set(2).unwrap(), Verdict::Won);
    for _ in 0..2 {
        assert_eq!(east.test_and_set(1).unwrap(), Verdict::Won);
        assert_eq!(east.test_and_set(2).unwrap(), lost_to("west"));
    }
    assert_eq!(east.current_generation().unwrap(), 2);
    assert!(matches!(
        east.test_and_set(0),
        Err(ArbiterError::GenerationZero)
    ));
}

#[test]
fn many_bidders_agree_on_every_generation() {
    let etcd = Fake::start();
    let bid = |host: &str| -> Vec<String> {
        let mut arbiter = arbiter(&etcd.name(), host);
        let winner = |generation| match arbiter.test_and_set(generation) {
            Ok(Verdict::Won) => host.to_owned(),
            Ok(Verdict::Lost { winner }) => winner,
            Err(error) => panic!("{error}"),
        };
        (1..=30).map(winner).collect()
    };
    let answers: Vec<Vec<String>> = std::thread::scope(|scope| {
        let threads = ["a", "b", "c"].map(|host| scope.spawn(move || bid(host)));
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .collect()
    });
    assert!(answers.iter().all(|answer| *answer == answers[0]));
}

#[test]
fn a_generation_that_was_passed_over_can_not_be_won_later() {
    let etcd = Fake::start();
    let (mut east, mut west) = (arbiter(&etcd.name(), "east"), arbiter(&etcd.name(), "west"));
    assert_eq!(east.test_and_set(3).unwrap(), Verdict::Won);
    let passed = west.test_and_set(2);
    assert!(
        matches!(passed, Err(ArbiterError::Superseded { newest: 3, .. })),
        "{passed:?}"
    );
}

#[test]
fn machines_do_not_meddle() {
    let etcd = Fake::start();
    for (vm, prefix) in [
        ("a", "/x"),
        ("b", "/x"),
        ("a", "/y"),
        ("a/generation", "/x"),
    ] {
        let name = format!("{}{prefix}", etcd.name());
        let mut arbiter = EtcdArbiter::open(&name, vm, "east").unwrap();
        assert_eq!(arbiter.current_generation().unwrap(), 0, "{vm} in {prefix}");
        assert_eq!(arbiter.test_and_set(1).unwrap(), Verdict::Won);
    }
}

#[test]
fn signs_are_read_back_and_old_ones_go() {
    let etcd = Fake::start();
    let (mut east, mut west) = (arbiter(&etcd.name(), "east"), arbiter(&etcd.name(), "west"));
    west.test_and_set(1).unwrap();
    assert_eq!(east.sign_of(1).unwrap(), None);
    assert!(!west.is_superseded(1).unwrap());
    let mut sign = Sign::new("west", None, 300);
    for beat in [1, 1_000_000, 2] {
        (sign.generation, sign.beat) = (1, beat);
        west.sign(&sign).unwrap();
        assert_eq!(east.sign_of(1).unwrap(), Some(sign.clone()));
    }
    assert_eq!(
        east.current_generation().unwrap(),
        1,
        "a sign is no decision"
    );
    east.test_and_set(2).unwrap();
    assert!(west.is_superseded(1).unwrap() && !east.is_superseded(2).unwrap());
    sign.generation = 2;
    east.sign(&sign).unwrap();
    assert_eq!(west.sign_of(2).unwrap(), Some(sign));
    assert_eq!(west.sign_of(1).unwrap(), None);
    assert_eq!(etcd.keys(), 3, "two decisions, one sign");
}

#[test]
fn candidates_know_each_other() {
    let etcd = Fake::start();
    let (mut east, mut west) = (arbiter(&etcd.name(), "east"), arbiter(&etcd.name(), "west"));
    east.test_and_set(1).unwrap();
    crate::arbiter::candidate::tests::know_each_other(&mut east, &mut west);
    assert_eq!(etcd.keys(), 3, "two decisions, one candidate");
}

#[test]
fn data_that_were_lost_are_noticed() {
    let etcd = Fake::start();
    let mut east = arbiter(&etcd.name(), "east");
    east.test_and_set(1).unwrap();
    etcd.forget();
    let error = east.is_superseded(1).unwrap_err().to_string();
    assert!(error.contains("data lost"), "{error}");
}

#[test]
fn a_member_that_is_down_or_hangs_or_has_no_leader_is_passed_over() {
    let (good, other) = (Fake::start(), Fake::start());
    let down = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap()
    };
    for mood in [Mood::Hangs, Mood::NoLeader, Mood::Nonsense] {
        other.set(mood);
        let (bad, good) = (other.address(), good.address());
        for names in [[bad, good], [good, bad], [down, good]] {
            let [first, second] = names;
            let name = format!("etcd:http://{first},http://{second}");
            let mut arbiter = arbiter(&name, "east");
            let start = Instant::now();
            assert_eq!(arbiter.test_and_set(1).unwrap(), Verdict::Won);
            assert!(start.elapsed() < Duration::from_secs(3));
        }
    }
}

#[test]
fn no_answer_is_an_error_within_a_lease_and_says_who_was_asked() {
    let etcd = Fake::start();
    let mut east = arbiter(&etcd.name(), "east");
    for (mood, words) in [
        (Mood::Hangs, "does not answer"),
        (Mood::NoLeader, "no leader"),
        (Mood::Nonsense, "is it etcd"),
    ] {
        etcd.set(mood);
        let start = Instant::now();
        let error = east.test_and_set(1).unwrap_err();
        assert!(start.elapsed() < crate::arbiter::vacancy::LEASE);
        let said = format!("{:#}", anyhow::Error::new(error));
        assert!(
            said.contains(words) && said.contains(&etcd.address().to_string()),
            "{said}"
        );
    }
    etcd.set(Mood::Well);
    assert_eq!(east.test_and_set(1).unwrap(), Verdict::Won);
}

#[test]
fn an_answer_that_got_lost_is_given_again() {
    let etcd = Fake::start();
    let (mut east, mut west) = (arbiter(&etcd.name(), "east"), arbiter(&etcd.name(), "west"));
    etcd.set(Mood::LosesAnswers);
    assert!(east.test_and_set(1).is_err());
    etcd.set(Mood::Well);
    assert_eq!(west.test_and_set(1).unwrap(), lost_to("east"));
    assert_eq!(east.test_and_set(1).unwrap(), Verdict::Won);
}

#[test]
fn the_name_of_an_etcd_opens_one() {
    let etcd = Fake::start();
    let slot = crate::arbiter::HostSlot::new(0).unwrap();
    let mut arbiter = open(etcd.name().as_ref(), "vm", "east", slot).unwrap();
    assert_eq!(arbiter.test_and_set(1).unwrap(), Verdict::Won);
    let error = open("etcd:east:2379".as_ref(), "vm", "east", slot).map(|_| ());
    assert!(
        matches!(error, Err(ArbiterError::BadEtcd { .. })),
        "{error:?}"
    );
}
