//! What came of scenarios, as JSON.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::lanes::Lane;
use super::{Mark, median, sorted};
use crate::drill::capture::speakers::Speech;
use crate::drill::ledger::ClientReport;
use crate::drill::ledger::book::Gap;
use crate::drill::scenario::Title;

/// A stop of the guest at a live clone.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct CloneStop {
    /// How long it stood, in milliseconds.
    pub ms: f64,
    /// Whether the client wrote at that time.
    pub loaded: bool,
}

/// A scenario, conducted once.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Run {
    /// Which scenario.
    pub scenario: Title,
    /// Which time, from 1.
    pub number: u32,
    /// Which build of the program: the start of its file's BLAKE3.
    pub build: String,
    /// Whether nothing at all was wrong.
    pub ok: bool,
    /// Why it is not ok.
    pub problems: Vec<String>,
    /// Writes acknowledged to the client.
    pub acked_writes: u64,
    /// Of these, writes that were gone or older when read back.
    pub acked_lost: u64,
    /// Writes that took effect twice, and values nobody wrote.
    pub doubled_writes: u64,
    /// Writes that the guest refused.
    pub refused_writes: u64,
    /// How often two copies were live; `None` when nothing was captured.
    pub two_live: Option<u64>,
    /// TCP connections of the client that broke.
    pub tcp_connections_broken: u64,
    /// Those that ended because the guest itself did, in a scenario that makes it start again.
    pub connections_ended: u64,
    /// Guest frames for which it can't be shown that they left after their acknowledgement; `None` when
    /// nothing was captured.
    pub output_released_before_ack: Option<u64>,
    /// Guest frames that were judged.
    pub outputs_judged: u64,
    /// 1 if the backup went live.
    pub failovers: u64,
    /// How long the other side had been silent when it was taken for lost, in milliseconds.
    pub detection_ms: Option<f64>,
    /// From there to the guest running on (backup) or the arbiter won (primary), in milliseconds.
    pub go_live_ms: Option<f64>,
    /// The longest time the client waited for an answer from the first thing that was done on, in milliseconds.
    pub client_gap_ms: Option<f64>,
    /// The longest time it waited before, in milliseconds.
    pub gap_before_ms: Option<f64>,
    /// The gap that `client_gap_ms` measures.
    pub gap: Option<Gap>,
    /// Each live clone.
    pub clone_stops: Vec<CloneStop>,
    /// Divergences that either side found.
    pub divergences: u64,
    /// When it began, in nanoseconds since 1970.
    pub started_unix_ns: u64,
    /// When the first thing was done to a host.
    pub fault_unix_ns: Option<u64>,
    /// The client's report.
    pub client: Option<ClientReport>,
    /// What happened when.
    pub timeline: Vec<Mark>,
    /// What each side was when.
    pub lanes: Vec<Lane>,
    /// From which host the guest was heard when.
    pub speeches: Vec<Speech>,
}

/// All runs of a scenario.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// Its name.
    pub scenario: String,
    /// How often it was conducted.
    pub runs: u64,
    /// How often all was well.
    pub passed: u64,
    /// Sum.
    pub acked_writes: u64,
    /// Sum.
    pub acked_lost: u64,
    /// Sum; `None` when a run was not captured.
    pub two_live: Option<u64>,
    /// Sum.
    pub tcp_connections_broken: u64,
    /// Sum; `None` when a run was not captured.
    pub output_released_before_ack: Option<u64>,
    /// Sum.
    pub outputs_judged: u64,
    /// Median.
    pub client_gap_ms_median: Option<f64>,
    /// Largest.
    pub client_gap_ms_max: Option<f64>,
    /// Median.
    pub go_live_ms_median: Option<f64>,
}

/// All runs of all scenarios.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Scenarios {
    /// Whether every run is ok.
    pub ok: bool,
    /// How many scenarios.
    pub scenarios: u64,
    /// How many runs, of all.
    pub runs: u64,
    /// How many builds of the program they were conducted with.
    pub builds: u64,
    /// How many of them are ok.
    pub passed: u64,
    /// Sum.
    pub acked_writes: u64,
    /// Sum.
    pub acked_lost: u64,
    /// Sum; `None` when a run was not captured.
    pub two_live: Option<u64>,
    /// Sum.
    pub tcp_connections_broken: u64,
    /// Sum; `None` when a run was not captured.
    pub output_released_before_ack: Option<u64>,
    /// Sum.
    pub outputs_judged: u64,
    /// Sum.
    pub divergences: u64,
    /// Median of the runs in which a host's power was cut and nothing else was done.
    pub client_gap_ms_median: Option<f64>,
    /// Median stop of a guest that was cloned while no client wrote.
    pub clone_stop_ms_idle: Option<f64>,
    /// Median stop of one that was cloned while the client wrote.
    pub clone_stop_ms_load: Option<f64>,
    /// A line a scenario.
    pub table: Vec<Row>,
}

impl Scenarios {
    /// Sums and medians over runs.
    pub fn of(runs: &[Run]) -> Self {
        let mut names: Vec<&str> = Vec::new();
        for run in runs {
            if !names.contains(&run.scenario.name.as_str()) {
                names.push(&run.scenario.name);
            }
        }
        let table: Vec<Row> = names.iter().map(|name| row(name, runs)).collect();
        let sum = |field: fn(&Row) -> u64| table.iter().map(field).sum();
        let stops = |loaded: bool| {
            let stops = runs.iter().flat_map(|run| &run.clone_stops);
            median(&sorted(
                stops
                    .filter(|stop| stop.loaded == loaded)
                    .map(|stop| stop.ms),
            ))
        };
        let counted = runs.iter().filter(|run| run.scenario.gap_counts);
        Scenarios {
            ok: !runs.is_empty() && runs.iter().all(|run| run.ok),
            scenarios: table.len() as u64,
            runs: runs.len() as u64,
            builds: runs
                .iter()
                .map(|run| &run.build)
                .collect::<BTreeSet<_>>()
                .len() as u64,
            passed: sum(|row| row.passed),
            acked_writes: sum(|row| row.acked_writes),
            acked_lost: sum(|row| row.acked_lost),
            two_live: table.iter().map(|row| row.two_live).sum(),
            tcp_connections_broken: sum(|row| row.tcp_connections_broken),
            output_released_before_ack: table
                .iter()
                .map(|row| row.output_released_before_ack)
                .sum(),
            outputs_judged: sum(|row| row.outputs_judged),
            divergences: runs.iter().map(|run| run.divergences).sum(),
            client_gap_ms_median: median(&sorted(counted.filter_map(|run| run.client_gap_ms))),
            clone_stop_ms_idle: stops(false),
            clone_stop_ms_load: stops(true),
            table,
        }
    }
}

fn row(name: &str, runs: &[Run]) -> Row {
    let mine: Vec<&Run> = runs
        .iter()
        .filter(|run| run.scenario.name == name)
        .collect();
    let sum = |field: fn(&Run) -> u64| mine.iter().map(|run| field(run)).sum();
    let numbers = |field: fn(&Run) -> Option<f64>| sorted(mine.iter().filter_map(|run| field(run)));
    let gaps = numbers(|run| run.client_gap_ms);
    Row {
        scenario: name.to_owned(),
        runs: mine.len() as u64,
        passed: sum(|run| u64::from(run.ok)),
        acked_writes: sum(|run| run.acked_writes),
        acked_lost: sum(|run| run.acked_lost),
        two_live: mine.iter().map(|run| run.two_live).sum(),
        tcp_connections_broken: sum(|run| run.tcp_connections_broken),
        output_released_before_ack: mine.iter().map(|run| run.output_released_before_ack).sum(),
        outputs_judged: sum(|run| run.outputs_judged),
        client_gap_ms_median: median(&gaps),
        client_gap_ms_max: gaps.last().copied(),
        go_live_ms_median: median(&numbers(|run| run.go_live_ms)),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn run(name: &str, number: u32, gap_ms: f64) -> Run {
        let at = |ms: u64| 1_700_000_000_000_000_000 + ms * 1_000_000;
        Run {
            scenario: Title {
                name: name.into(),
                about: format!("What {name} does & how."),
                gap_counts: name == "host-power-cut",
            },
            number,
            ok: true,
            acked_writes: 100,
            two_live: Some(0),
            output_released_before_ack: Some(0),
            outputs_judged: 50,
            client_gap_ms: Some(gap_ms),
            clone_stops: vec![CloneStop {
                ms: gap_ms / 10.0,
                loaded: name == "join-during-load",
            }],
            started_unix_ns: at(0),
            fault_unix_ns: Some(at(20_000)),
            gap: Some(Gap {
                from_unix_ns: at(20_000),
                to_unix_ns: at(20_000) + (gap_ms * 1e6) as u64,
            }),
            client: Some(ClientReport {
                started_unix_ns: at(10_000),
                last_answer_unix_ns: at(24_000),
                series: vec![5; 280],
                series_ms: 50,
                ..ClientReport::default()
            }),
            timeline: vec![Mark {
                t_unix_ns: at(20_000),
                who: "drill".into(),
                what: "something <odd> happens".into(),
            }],
            ..Run::default()
        }
    }

    #[test]
    fn runs_are_summed_by_scenario_and_gaps_count_where_they_are_to() {
        let mut bad = run("link-cut", 1, 9000.0);
        bad.ok = false;
        bad.acked_lost = 3;
        bad.two_live = Some(2);
        let all = [
            run("host-power-cut", 1, 400.0),
            run("host-power-cut", 2, 500.0),
            bad,
            run("join-during-load", 1, 700.0),
        ];
        let sums = Scenarios::of(&all);
        assert!(!sums.ok);
        assert_eq!((sums.scenarios, sums.runs, sums.passed), (3, 4, 3));
        assert_eq!((sums.acked_lost, sums.two_live), (3, Some(2)));
        assert_eq!(sums.client_gap_ms_median, Some(450.0));
        assert_eq!(sums.clone_stop_ms_idle, Some(50.0));
        assert_eq!(sums.clone_stop_ms_load, Some(70.0));
        assert_eq!((sums.table[0].runs, sums.table[0].passed), (2, 2));
        assert_eq!(sums.table[0].client_gap_ms_max, Some(500.0));
        assert_eq!(
            (sums.table[1].scenario.as_str(), sums.table[1].passed),
            ("link-cut", 0)
        );
        assert!(!Scenarios::of(&[]).ok, "no run shows nothing");
    }

    #[test]
    fn what_was_not_captured_leaves_sums_open() {
        let mut blind = run("link-cut", 1, 1.0);
        blind.two_live = None;
        blind.output_released_before_ack = None;
        let sums = Scenarios::of(&[run("hand-over", 1, 1.0), blind]);
        assert_eq!(
            (sums.two_live, sums.output_released_before_ack),
            (None, None)
        );
    }

    #[test]
    fn the_json_has_what_is_promised() {
        let runs = [
            run("host-power-cut", 1, 4.0),
            run("join-during-load", 1, 5.0),
        ];
        let json = serde_json::to_value(Scenarios::of(&runs)).expect("json");
        for field in [
            "scenarios",
            "runs",
            "acked_lost",
            "two_live",
            "tcp_connections_broken",
            "output_released_before_ack",
            "client_gap_ms_median",
            "clone_stop_ms_idle",
            "clone_stop_ms_load",
            "table",
        ] {
            assert!(
                json.get(field).is_some_and(|value| !value.is_null()),
                "{field}"
            );
        }
    }
}
