//! Each defect of the server must show in the report, and a faultless one must show none.

use std::time::Duration;

use super::client::{ClientOptions, ClientReport, run_client};
use super::fake::{Defect, serve};
use super::plan::Seed;

fn options(defects: &[Defect]) -> ClientOptions {
    ClientOptions {
        writes_max: 200,
        seed: Seed(0xfeed),
        answer_timeout: Duration::from_millis(400),
        ready_timeout: Duration::from_secs(5),
        duration_max: Duration::from_secs(5),
        ..ClientOptions::new(serve(defects))
    }
}

fn run(defects: &[Defect]) -> ClientReport {
    run_client(options(defects)).expect("the client runs")
}

#[test]
fn a_faultless_server_passes_on_one_connection_and_on_many() {
    let report = run(&[]);
    assert!(report.ok, "{report:?}");
    assert_eq!(report.acked_writes, 200);
    assert_eq!(report.series.iter().sum::<u32>(), 200);

    let report = run_client(ClientOptions {
        connections: 4,
        depth: 8,
        ..options(&[])
    })
    .expect("runs");
    assert!(report.ok, "{report:?}");
    assert_eq!(report.acked_writes, 200);
}

#[test]
fn a_server_that_loads_its_data_is_read_back_once_it_has() {
    let report = run_client(ClientOptions {
        duration_max: Duration::from_millis(200),
        pause: Duration::from_millis(1),
        ..options(&[Defect::Load(20, Duration::from_millis(400))])
    })
    .expect("runs");
    assert!(report.checked && report.refused > 0, "{report:?}");
    assert_eq!(report.acked_lost, 0, "{report:?}");
}

#[test]
fn a_forgotten_write_of_each_kind_is_lost() {
    // The last turn of the hot key's slot, or a later write would hide the loss.
    for (turn, n) in [("fresh", 41), ("count", 42), ("push", 43), ("hot", 200)] {
        let report = run(&[Defect::Forget(n)]);
        assert!(!report.ok, "{turn}");
        assert!(report.acked_lost >= 1, "{turn}: {report:?}");
    }
}

#[test]
fn a_doubled_increment_or_push_is_found() {
    for (turn, n) in [("count", 42), ("push", 43)] {
        let report = run(&[Defect::Double(n)]);
        assert!(!report.ok, "{turn}");
        assert_eq!(
            (report.doubled, report.acked_lost),
            (1, 0),
            "{turn}: {report:?}"
        );
        assert_eq!(
            report.wrong_answers, 1,
            "{turn}: the next answer is one too high"
        );
    }
}

#[test]
fn a_fail_over_to_an_old_copy_shows_as_lost_writes() {
    let report = run(&[Defect::RollBack(101, 8)]);
    assert!(!report.ok);
    // Of the eight writes rolled back, two each were fresh, counts and pushes; the hot ones were
    // written over since.
    assert_eq!(report.acked_lost, 6, "{report:?}");
    assert!(report.wrong_answers >= 2, "counter and list stepped back");
}

#[test]
fn a_broken_connection_is_counted_and_its_write_is_not_called_lost() {
    let report = run(&[Defect::Close(50)]);
    assert!(!report.ok, "a broken connection is no success");
    assert_eq!(report.tcp_connections_broken, 1);
    assert_eq!(
        (report.acked_lost, report.doubled, report.unknown),
        (0, 0, 1),
        "{report:?}"
    );
    assert_eq!(report.acked_writes, 199);
}

#[test]
fn silence_is_measured_and_breaks_the_connection_when_too_long() {
    let report = run(&[Defect::Silence(50, Duration::from_millis(250))]);
    assert!(report.ok, "{report:?}");
    assert!(
        (250.0..400.0).contains(&report.client_gap_ms),
        "{}",
        report.client_gap_ms
    );
    assert!(report.gap_to_unix_ns > report.gap_from_unix_ns);

    let report = run(&[Defect::Silence(50, Duration::from_millis(700))]);
    assert_eq!(report.tcp_connections_broken, 1);
    assert!(report.client_gap_ms >= 400.0, "{}", report.client_gap_ms);
}

#[test]
fn an_error_answer_and_a_garbled_value_are_found() {
    let report = run(&[Defect::Refuse(42)]);
    assert!(!report.ok);
    assert_eq!((report.refused, report.acked_lost), (1, 0), "{report:?}");

    let report = run(&[Defect::Garble(41)]);
    assert_eq!((report.acked_lost, report.foreign), (1, 1), "{report:?}");
}

#[test]
fn a_server_that_never_comes_back_loses_everything() {
    let report = run_client(ClientOptions {
        duration_max: Duration::from_millis(800),
        ..options(&[Defect::Vanish(50)])
    })
    .expect("runs");
    assert!(!report.ok && !report.checked);
    assert_eq!((report.acked_writes, report.acked_lost), (49, 49));
    assert!(report.client_gap_ms >= 400.0);
}

#[test]
fn the_file_holds_a_line_for_each_acknowledged_write() {
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("ledger");
    let options = ClientOptions {
        ledger: Some(path.clone()),
        ..options(&[])
    };
    run_client(options.clone()).expect("runs");
    let text = std::fs::read_to_string(&path).expect("ledger");
    assert_eq!(text.lines().count(), 200);
    assert!(text.starts_with("0 0 F "), "{text}");
    assert!(
        run_client(options).is_err(),
        "a ledger is never written over"
    );
}

#[test]
fn the_stop_file_ends_the_writing() {
    let folder = tempfile::tempdir().expect("folder");
    let stop = folder.path().join("stop");
    std::fs::write(&stop, "").expect("stop file");
    let start = std::time::Instant::now();
    let options = ClientOptions {
        stop_file: Some(stop),
        writes_max: 1 << 40,
        ..options(&[])
    };
    run_client(options).expect("runs");
    assert!(start.elapsed() < Duration::from_secs(2));
}
