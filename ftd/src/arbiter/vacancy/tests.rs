use super::*;
use crate::arbiter::directory::DirectoryArbiter;
use crate::arbiter::sign::Process;

/// The storage, the host that had the guest, and one that wants to start it.
struct Scene {
    _directory: tempfile::TempDir,
    holder: DirectoryArbiter,
    starter: DirectoryArbiter,
}

fn scene() -> Scene {
    let directory = tempfile::tempdir().unwrap();
    let open = |host| DirectoryArbiter::open(directory.path(), "vm", host).unwrap();
    let (mut holder, starter) = (open("west"), open("east"));
    for generation in 1..=2 {
        holder.test_and_set(generation).unwrap();
    }
    Scene {
        holder,
        starter,
        _directory: directory,
    }
}

fn sign(process: Process) -> Sign {
    Sign {
        generation: 2,
        process,
        ..Sign::new("west", Some("192.0.2.1:7777".to_owned()), 300)
    }
}

/// What comes of it, with `meanwhile` at the third look; and how long it would have waited.
fn ask(
    scene: &mut Scene,
    mut meanwhile: impl FnMut(&mut DirectoryArbiter),
) -> (Result<u64, String>, Duration) {
    let (mut looks, mut all) = (0, Duration::ZERO);
    let holder = &mut scene.holder;
    let outcome = wait_until_vacant(&mut scene.starter, |_, patience| {
        looks += 1;
        all = patience;
        if looks == 3 {
            meanwhile(holder);
        }
        // Nothing else happens then: the rest need not be waited for.
        if looks > 3 { patience } else { Duration::ZERO }
    });
    (outcome.map_err(|occupied| occupied.to_string()), all)
}

#[test]
fn a_guest_that_never_ran_is_started_at_once() {
    let directory = tempfile::tempdir().unwrap();
    let mut east = DirectoryArbiter::open(directory.path(), "vm", "east").unwrap();
    let started = wait_until_vacant(&mut east, |_, _| panic!("it waits"));
    assert_eq!(started.unwrap(), 0);
}

#[test]
fn a_live_holder_on_this_host_is_seen_at_once() {
    let mut scene = scene();
    scene.holder.sign(&sign(Process::this())).unwrap();
    let (outcome, waited) = ask(&mut scene, |_| {});
    let said = outcome.unwrap_err();
    assert!(
        said.contains("west") && said.contains("generation 2"),
        "{said}"
    );
    assert!(
        said.contains("'ftd backup --log-from 192.0.2.1:7777'"),
        "{said}"
    );
    assert_eq!(waited, Duration::ZERO);
}

#[test]
fn a_live_holder_elsewhere_is_seen_by_its_next_sign() {
    let mut scene = scene();
    let mut sign = sign(Process::elsewhere());
    scene.holder.sign(&sign).unwrap();
    let (outcome, _) = ask(&mut scene, |holder| {
        sign.beat += 1;
        holder.sign(&sign).unwrap();
    });
    assert!(outcome.unwrap_err().contains("runs on west"));
}

#[test]
fn a_holder_that_is_gone_is_waited_for_only_if_it_cannot_be_seen_that_it_is() {
    let mut scene = scene();
    // It died before its first sign.
    assert_eq!(ask(&mut scene, |_| {}), (Ok(2), SILENCE));
    scene.holder.sign(&sign(Process::elsewhere())).unwrap();
    assert_eq!(ask(&mut scene, |_| {}), (Ok(2), SILENCE));
    scene.holder.sign(&sign(Process::gone())).unwrap();
    assert_eq!(ask(&mut scene, |_| {}), (Ok(2), Duration::ZERO));
    let ended = Sign {
        ended: true,
        ..sign(Process::elsewhere())
    };
    scene.holder.sign(&ended).unwrap();
    assert_eq!(ask(&mut scene, |_| {}), (Ok(2), Duration::ZERO));
}

#[test]
fn a_backup_is_given_the_time_to_take_over() {
    let mut scene = scene();
    let protected = Sign {
        may_pass: true,
        ..sign(Process::gone())
    };
    scene.holder.sign(&protected).unwrap();
    let patience = SILENCE + Duration::from_millis(600);
    assert_eq!(ask(&mut scene, |_| {}), (Ok(2), patience));
    let (outcome, _) = ask(&mut scene, |backup| {
        backup.test_and_set(3).unwrap();
    });
    let said = outcome.unwrap_err();
    assert!(
        said.contains("just taken the guest over (generation 3)"),
        "{said}"
    );
    // The same after the primary left in order: its backup takes over.
    let mut scene = self::scene();
    let left = Sign {
        ended: true,
        ..protected
    };
    scene.holder.sign(&left).unwrap();
    let (outcome, _) = ask(&mut scene, |backup| {
        backup.test_and_set(3).unwrap();
        let live = Sign {
            generation: 3,
            listen: Some("0.0.0.0:7001".to_owned()),
            ..sign(Process::elsewhere())
        };
        backup.sign(&live).unwrap();
    });
    assert!(outcome.unwrap_err().contains("--log-from west:7001"));
}

#[test]
fn a_holder_that_ends_while_it_is_looked_at_makes_room() {
    let mut scene = scene();
    scene.holder.sign(&sign(Process::elsewhere())).unwrap();
    let (outcome, _) = ask(&mut scene, |holder| {
        let ended = Sign {
            ended: true,
            beat: 9,
            ..sign(Process::elsewhere())
        };
        holder.sign(&ended).unwrap();
    });
    assert_eq!(outcome, Ok(2));
}
