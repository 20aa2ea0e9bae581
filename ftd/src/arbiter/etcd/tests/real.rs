//! The same with a real etcd, where one is installed (Debian's etcd-server).

use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::{arbiter, lost_to};
use crate::arbiter::etcd::EtcdArbiter;
use crate::arbiter::{Arbiter, ArbiterError, Sign, Verdict};

struct Real {
    directory: tempfile::TempDir,
    ports: [u16; 2],
    child: Option<Child>,
}

impl Real {
    fn start() -> Option<Real> {
        if !Path::new("/usr/bin/etcd").exists() {
            eprintln!("SKIPPED: etcd is not installed");
            return None;
        }
        let free = || TcpListener::bind("127.0.0.1:0").unwrap();
        let ports = [free(), free()].map(|one| one.local_addr().unwrap().port());
        let mut real = Real {
            directory: tempfile::tempdir().unwrap(),
            ports,
            child: None,
        };
        real.start_again();
        Some(real)
    }

    fn start_again(&mut self) {
        let [clients, peers] = self.ports.map(|port| format!("http://127.0.0.1:{port}"));
        let child = Command::new("/usr/bin/etcd")
            .args(["--name", "test", "--unsafe-no-fsync", "--data-dir"])
            .arg(self.directory.path().join("data"))
            .args([
                "--listen-client-urls",
                &clients,
                "--advertise-client-urls",
                &clients,
            ])
            .args([
                "--listen-peer-urls",
                &peers,
                "--initial-advertise-peer-urls",
                &peers,
            ])
            .args(["--initial-cluster", &format!("test={peers}")])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        self.child = Some(child);
        let start = Instant::now();
        while let Err(error) = EtcdArbiter::open(&self.name(), "vm", "nobody") {
            assert!(start.elapsed() < Duration::from_secs(60), "{error:?}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    fn name(&self) -> String {
        format!("etcd:http://127.0.0.1:{}/a/b", self.ports[0])
    }
}

impl Drop for Real {
    fn drop(&mut self) {
        self.kill();
    }
}

#[test]
fn real_etcd_decides_once_and_remembers_over_its_own_death() {
    let Some(mut etcd) = Real::start() else {
        return;
    };
    let (mut east, mut west) = (arbiter(&etcd.name(), "east"), arbiter(&etcd.name(), "west"));
    let mut candidates =
        ["south", "north"].map(|host| EtcdArbiter::open(&etcd.name(), "of-three", host).unwrap());
    let [south, north] = &mut candidates;
    south.test_and_set(1).unwrap();
    crate::arbiter::candidate::tests::know_each_other(south, north);
    let bids: Vec<Verdict> = std::thread::scope(|scope| {
        let threads = [&mut east, &mut west].map(|bidder| scope.spawn(|| bidder.test_and_set(1)));
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap().unwrap())
            .collect()
    });
    let (winner, loser) = match bids[0] {
        Verdict::Won => (&mut east, &mut west),
        Verdict::Lost { .. } => (&mut west, &mut east),
    };
    let lost = bids.iter().find(|bid| **bid != Verdict::Won).unwrap();
    assert!(bids.contains(&Verdict::Won) && *lost == lost_to(&winner.host_id));

    let sign = Sign {
        generation: 1,
        ..Sign::new("here", None, 300)
    };
    winner.sign(&sign).unwrap();
    assert_eq!(loser.sign_of(1).unwrap(), Some(sign.clone()));
    assert!(!winner.is_superseded(1).unwrap());

    etcd.kill();
    let start = Instant::now();
    assert!(matches!(
        loser.test_and_set(2),
        Err(ArbiterError::Etcd { .. })
    ));
    assert!(matches!(winner.sign(&sign), Err(ArbiterError::Etcd { .. })));
    assert!(start.elapsed() < Duration::from_secs(4));
    etcd.start_again();
    assert_eq!(winner.test_and_set(1).unwrap(), Verdict::Won);
    assert_eq!(loser.test_and_set(1).unwrap(), *lost);
    assert_eq!(loser.sign_of(1).unwrap(), Some(sign));

    assert_eq!(loser.test_and_set(2).unwrap(), Verdict::Won);
    assert!(winner.is_superseded(1).unwrap());
    assert_eq!(winner.current_generation().unwrap(), 2);
    assert_eq!(loser.test_and_set(5).unwrap(), Verdict::Won);
    let passed = winner.test_and_set(4);
    assert!(
        matches!(passed, Err(ArbiterError::Superseded { newest: 5, .. })),
        "{passed:?}"
    );
    let sign = Sign {
        generation: 5,
        ..Sign::new("there", None, 300)
    };
    loser.sign(&sign).unwrap();
    assert_eq!(winner.sign_of(1).unwrap(), None, "an old sign is removed");
    assert_eq!(winner.sign_of(5).unwrap(), Some(sign));
}
