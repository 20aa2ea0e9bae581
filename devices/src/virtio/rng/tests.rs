use super::super::error::VirtioError;
use super::super::spec::interrupt;
use super::super::testing::Guest;
use super::super::{DeviceState, rng};
use super::ENTROPY_BATCH_BYTES;
use crate::{Effect, Input};

fn start() -> Guest {
    Guest::start(rng(), 0)
}

fn entropy(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i % 249) as u8 + 1).collect()
}

#[test]
fn one_batch_answers_many_small_requests() {
    let mut guest = start();
    guest.add(0, &[], &[64]);
    guest.notify(0);
    let wanted = Effect::EntropyWanted {
        len: ENTROPY_BATCH_BYTES,
    };
    assert_eq!(guest.take_effects(), std::slice::from_ref(&wanted));
    assert_eq!(guest.device.entropy_wanted(), Some(ENTROPY_BATCH_BYTES));
    // Asked once, however many requests wait.
    guest.add(0, &[], &[64]);
    guest.notify(0);
    assert_eq!(guest.take_effects(), []);
    assert_eq!(guest.used(0), []);

    let batch = entropy(ENTROPY_BATCH_BYTES as usize);
    guest
        .input(Input::Entropy {
            bytes: batch.clone(),
        })
        .unwrap();
    assert_eq!(guest.device.entropy_wanted(), None);
    assert_eq!(guest.used(0), [(0, 64), (1, 64)]);
    assert_eq!(guest.take_interrupt(), interrupt::USED_BUFFER);
    let mut given = Vec::new();
    for _ in 2..16 {
        let (_, addresses) = guest.add(0, &[], &[60, 4]);
        guest.notify(0);
        assert_eq!(guest.used(0)[0].1, 64);
        assert_eq!(guest.take_effects(), []);
        given.push([guest.bytes(addresses[0], 60), guest.bytes(addresses[1], 4)].concat());
    }
    // Every byte is given once.
    given.reverse();
    assert_eq!(given.concat(), batch[..14 * 64]);
    guest.add(0, &[], &[64]);
    guest.notify(0);
    assert_eq!(guest.take_effects(), [wanted]);
}

#[test]
fn a_large_request_gets_what_there_is() {
    let mut guest = start();
    guest.add(0, &[], &[4096]);
    guest.add(0, &[], &[10]);
    guest.notify(0);
    guest.take_effects();
    // Fewer bytes than wanted will do.
    guest
        .input(Input::Entropy {
            bytes: entropy(256),
        })
        .unwrap();
    assert_eq!(guest.used(0), [(0, 256)]);
    assert_eq!(
        guest.take_effects().len(),
        1,
        "the second request needs another batch"
    );
    guest.input(Input::Entropy { bytes: entropy(1) }).unwrap();
    assert_eq!(guest.used(0), [(1, 1)]);
}

#[test]
fn requests_without_room_are_faults() {
    let mut guest = start();
    guest.add(0, &[b"not for reading"], &[]);
    guest.notify(0);
    guest.input(Input::Entropy { bytes: entropy(8) }).unwrap();
    assert!(guest.device.fault().is_some());
}

#[test]
fn entropy_nobody_asked_for_is_an_error() {
    let mut guest = start();
    let error = guest.input(Input::Entropy { bytes: vec![0] });
    assert_eq!(
        error,
        Err(VirtioError::EntropyLength {
            found: 1,
            wanted: 0
        })
    );
    guest.add(0, &[], &[64]);
    guest.notify(0);
    let wanted = ENTROPY_BATCH_BYTES;
    for found in [0, wanted as usize + 1] {
        let error = guest.input(Input::Entropy {
            bytes: vec![0; found],
        });
        assert_eq!(error, Err(VirtioError::EntropyLength { found, wanted }));
    }
    let error = guest.input(Input::PowerButton);
    assert_eq!(
        error,
        Err(VirtioError::Misrouted {
            device: "virtio-rng"
        })
    );
}

#[test]
fn an_answer_that_comes_after_a_reset_is_kept() {
    let mut guest = start();
    guest.add(0, &[], &[64]);
    guest.notify(0);
    guest.initialize(0);
    guest
        .input(Input::Entropy {
            bytes: entropy(100),
        })
        .unwrap();
    assert_eq!(guest.used(0), []);
    guest.add(0, &[], &[64]);
    guest.notify(0);
    assert_eq!(guest.used(0), [(0, 64)]);
}

#[test]
fn a_saved_source_goes_on_and_impossible_states_are_refused() {
    let mut guest = start();
    guest.add(0, &[], &[64]);
    guest.notify(0);
    guest.move_to(rng());
    guest
        .input(Input::Entropy {
            bytes: entropy(100),
        })
        .unwrap();
    guest.move_to(rng());
    guest.add(0, &[], &[64]);
    guest.notify(0);
    assert_eq!(guest.used(0), [(0, 64), (1, 36)]);

    for (field, pool, wanted) in [("pool", 2000, 0), ("wanted", 0, 7), ("wanted", 1, 1024)] {
        let mut state = guest.device.save();
        state.device = DeviceState::Rng(super::RngState {
            pool: vec![0; pool],
            wanted,
        });
        let message = rng().restore(state).unwrap_err().to_string();
        assert!(
            message.contains(&format!("virtio-rng: field {field} ")),
            "{message}"
        );
    }
}
