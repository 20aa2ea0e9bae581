//! What came of drills: as JSON, for people ([`text`]), and as a page to look at ([`page`], with [`chart`]).
//! The same for scenarios: [`scenarios`], [`table`], [`booklet`] with [`story`], drawn from [`lanes`]; [`kept`] in a file.

pub mod booklet;
pub mod chart;
pub mod kept;
pub mod lanes;
pub mod page;
pub mod scenarios;
pub mod story;
pub mod table;
pub mod text;

use serde::{Deserialize, Serialize};

use super::capture::judge::Verdict;
use super::ledger::ClientReport;
use super::ledger::book::Gap;
use super::plan::{Kill, Role};

/// Something that happened at a time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    /// When, by this host's clock, in nanoseconds since 1970.
    pub t_unix_ns: u64,
    /// `drill`, `primary`, `backup` or `client`.
    pub who: String,
    /// What, in a few words.
    pub what: String,
}

/// One drill.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Whether nothing at all was wrong.
    pub ok: bool,
    /// Which drill of the run, from 1.
    pub number: u32,
    /// `testbed` or `local`.
    pub site: String,
    /// Who was killed.
    pub kill: Role,
    /// How.
    pub signal: Kill,
    /// 1 if the backup went live.
    pub failovers: u64,
    /// How long the other side had been silent when it was taken for lost, in milliseconds.
    pub detection_ms: Option<f64>,
    /// From there to the guest running on (backup) or the arbiter won (primary), in milliseconds.
    pub go_live_ms: Option<f64>,
    /// The longest time the client waited for an answer from the kill on, in milliseconds.
    pub client_gap_ms: Option<f64>,
    /// The longest time it waited before, as while a backup joined, in milliseconds.
    pub gap_before_kill_ms: Option<f64>,
    /// The gap that `client_gap_ms` measures.
    pub gap: Option<Gap>,
    /// Writes acknowledged to the client.
    pub acked_writes: u64,
    /// Of these, writes that were gone or older when read back.
    pub acked_lost: u64,
    /// Writes that took effect twice, and values nobody wrote.
    pub doubled_writes: u64,
    /// TCP connections of the client that broke.
    pub tcp_connections_broken: u64,
    /// Guest frames for which it can't be shown that they left after their acknowledgement; `None`
    /// when nothing was captured.
    pub output_released_before_ack: Option<u64>,
    /// Divergences that either side found.
    pub divergences: u64,
    /// The clock that gave positions.
    pub clock: String,
    /// The hosts' KVM.
    pub host_kvm: String,
    /// How long the live clone took, in milliseconds.
    pub clone_ms: Option<f64>,
    /// When the drill began, in nanoseconds since 1970.
    pub started_unix_ns: u64,
    /// When the side died, as well as it is known: when the kill was ordered, or later if it was
    /// still heard.
    pub killed_unix_ns: Option<u64>,
    /// Why it is not ok.
    pub problems: Vec<String>,
    /// The judge's verdict on the captures.
    pub capture: Option<Verdict>,
    /// The client's report.
    pub client: Option<ClientReport>,
    /// What happened when.
    pub timeline: Vec<Mark>,
}

/// All drills of a run: sums of counts, medians of times, and the drills themselves.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// Whether every drill is ok.
    pub ok: bool,
    /// How many there were.
    pub count: u64,
    /// Sum.
    pub failovers: u64,
    /// Median.
    pub detection_ms: Option<f64>,
    /// Median.
    pub go_live_ms: Option<f64>,
    /// Largest.
    pub go_live_ms_max: Option<f64>,
    /// Median.
    pub client_gap_ms: Option<f64>,
    /// Largest.
    pub client_gap_ms_max: Option<f64>,
    /// Sum.
    pub acked_writes: u64,
    /// Sum.
    pub acked_lost: u64,
    /// Sum.
    pub doubled_writes: u64,
    /// Sum.
    pub tcp_connections_broken: u64,
    /// Sum; `None` when a drill was not captured.
    pub output_released_before_ack: Option<u64>,
    /// Outputs the rule was judged on; sum.
    pub outputs_judged: u64,
    /// Sum.
    pub divergences: u64,
    /// As the first drill has it.
    pub clock: String,
    /// As the first drill has it.
    pub host_kvm: String,
    /// As the first drill has it.
    pub site: String,
    /// Each drill.
    pub drills: Vec<Report>,
}

impl Summary {
    /// Sums and medians over drills.
    pub fn of(drills: Vec<Report>) -> Self {
        let sum = |field: fn(&Report) -> u64| drills.iter().map(field).sum();
        let numbers = |field: fn(&Report) -> Option<f64>| sorted(drills.iter().filter_map(field));
        let first =
            |field: fn(&Report) -> &String| drills.first().map(field).cloned().unwrap_or_default();
        let go_live = numbers(|drill| drill.go_live_ms);
        let gaps = numbers(|drill| drill.client_gap_ms);
        Summary {
            ok: !drills.is_empty() && drills.iter().all(|drill| drill.ok),
            count: drills.len() as u64,
            failovers: sum(|drill| drill.failovers),
            detection_ms: median(&numbers(|drill| drill.detection_ms)),
            go_live_ms: median(&go_live),
            go_live_ms_max: go_live.last().copied(),
            client_gap_ms: median(&gaps),
            client_gap_ms_max: gaps.last().copied(),
            acked_writes: sum(|drill| drill.acked_writes),
            acked_lost: sum(|drill| drill.acked_lost),
            doubled_writes: sum(|drill| drill.doubled_writes),
            tcp_connections_broken: sum(|drill| drill.tcp_connections_broken),
            output_released_before_ack: drills.iter().map(|d| d.output_released_before_ack).sum(),
            outputs_judged: sum(|drill| drill.capture.as_ref().map_or(0, |c| c.judged)),
            divergences: sum(|drill| drill.divergences),
            clock: first(|drill| &drill.clock),
            host_kvm: first(|drill| &drill.host_kvm),
            site: first(|drill| &drill.site),
            drills,
        }
    }
}

fn sorted(numbers: impl Iterator<Item = f64>) -> Vec<f64> {
    let mut numbers: Vec<f64> = numbers.collect();
    numbers.sort_by(f64::total_cmp);
    numbers
}

/// The middle one, or the mean of the two in the middle.
fn median(sorted: &[f64]) -> Option<f64> {
    let high = *sorted.get(sorted.len() / 2)?;
    Some(if sorted.len() % 2 == 1 {
        high
    } else {
        (sorted[sorted.len() / 2 - 1] + high) / 2.0
    })
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A drill that passed, with everything in it.
    pub(crate) fn sample(number: u32, gap_ms: f64) -> Report {
        let start = 1_700_000_000_000_000_000;
        let at = |ms: f64| start + (ms * 1e6) as u64;
        let mark = |ms, who: &str, what: &str| Mark {
            t_unix_ns: at(ms),
            who: who.into(),
            what: what.into(),
        };
        let mut series = vec![20; 120];
        series[60..60 + (gap_ms / 50.0) as usize].fill(0);
        Report {
            ok: true,
            number,
            site: "testbed".into(),
            kill: Role::Primary,
            signal: Kill::PowerCut,
            failovers: 1,
            detection_ms: Some(310.0),
            go_live_ms: Some(42.5),
            client_gap_ms: Some(gap_ms),
            gap_before_kill_ms: Some(31.0),
            gap: Some(Gap {
                from_unix_ns: at(18_000.0),
                to_unix_ns: at(18_000.0 + gap_ms),
            }),
            acked_writes: 5000,
            acked_lost: 0,
            doubled_writes: 0,
            tcp_connections_broken: 0,
            output_released_before_ack: Some(0),
            divergences: 0,
            clock: "exit".into(),
            host_kvm: "kvm_amd".into(),
            clone_ms: Some(900.0),
            started_unix_ns: start,
            killed_unix_ns: Some(at(18_000.0)),
            problems: Vec::new(),
            capture: Some(Verdict {
                judged: 6000,
                margin_us_min: Some(80),
                ..Verdict::default()
            }),
            client: Some(ClientReport {
                ok: true,
                checked: true,
                started_unix_ns: at(15_000.0),
                ready_unix_ns: at(15_010.0),
                acked_writes: 5000,
                client_gap_ms: gap_ms,
                gap_from_unix_ns: at(18_000.0),
                gap_to_unix_ns: at(18_000.0 + gap_ms),
                last_answer_unix_ns: at(21_000.0),
                series,
                series_ms: 50,
                ..ClientReport::default()
            }),
            timeline: vec![
                mark(5_000.0, "drill", "hosts are on"),
                mark(6_000.0, "primary", "guest powered on"),
                mark(15_010.0, "client", "the guest answers; writing begins"),
                mark(
                    16_000.0,
                    "primary",
                    "protected: the backup follows (900 ms)",
                ),
                mark(18_000.0, "drill", "primary killed (power cut)"),
                mark(
                    18_310.0,
                    "backup",
                    "the other side is lost: silent for (310 ms)",
                ),
                mark(18_350.0, "backup", "live: the guest goes on here (42 ms)"),
                mark(
                    18_000.0 + gap_ms,
                    "client",
                    "first answer after the gap & <more>",
                ),
            ],
        }
    }

    #[test]
    fn counts_are_summed_and_times_are_medians() {
        let mut bad = sample(3, 900.0);
        bad.ok = false;
        bad.acked_lost = 4;
        bad.go_live_ms = None;
        let summary = Summary::of(vec![sample(1, 500.0), sample(2, 600.0), bad]);
        assert!(!summary.ok);
        assert_eq!(
            (summary.count, summary.failovers, summary.acked_lost),
            (3, 3, 4)
        );
        assert_eq!(
            (summary.client_gap_ms, summary.client_gap_ms_max),
            (Some(600.0), Some(900.0))
        );
        assert_eq!(summary.go_live_ms, Some(42.5));
        assert_eq!(
            (summary.output_released_before_ack, summary.outputs_judged),
            (Some(0), 18_000)
        );
        assert!(Summary::of(vec![sample(1, 500.0)]).ok);
        assert!(!Summary::of(Vec::new()).ok, "no drill shows nothing");
    }

    #[test]
    fn a_drill_without_capture_leaves_the_sum_open() {
        let mut blind = sample(1, 500.0);
        blind.output_released_before_ack = None;
        assert_eq!(
            Summary::of(vec![blind, sample(2, 1.0)]).output_released_before_ack,
            None
        );
    }

    #[test]
    fn the_json_has_what_is_promised() {
        let json = serde_json::to_value(Summary::of(vec![sample(1, 500.0)])).expect("json");
        for field in [
            "ok",
            "failovers",
            "detection_ms",
            "go_live_ms",
            "client_gap_ms",
            "acked_writes",
            "acked_lost",
            "tcp_connections_broken",
            "output_released_before_ack",
            "divergences",
            "clock",
            "host_kvm",
            "drills",
        ] {
            assert!(
                json.get(field).is_some_and(|value| !value.is_null()),
                "{field}"
            );
        }
        assert_eq!(json["drills"][0]["signal"], "power-cut");
    }
}
