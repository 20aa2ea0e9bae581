//! From a scenario's evidence to what came of it.

use super::conclude::{chain, gaps, phrase};
use super::evidence::Evidence;
use crate::drill::capture::CaptureError;
use crate::drill::capture::judge::Verdict;
use crate::drill::capture::speakers::{Speech, Win, two_live};
use crate::drill::ledger::ClientReport;
use crate::drill::plan::Role;
use crate::drill::report::Mark;
use crate::drill::report::lanes;
use crate::drill::report::scenarios::{CloneStop, Run};
use crate::drill::scenario::Scenario;

const BOTH: [Role; 2] = [Role::Primary, Role::Backup];

/// When a side had won the arbiter, by our clock, at the earliest; and when the backup first had.
pub fn wins(evidence: &Evidence) -> (Vec<u64>, Option<u64>) {
    let wins = all_wins(evidence);
    let of_backup = wins.iter().filter(|win| !win.of_primary);
    let first = of_backup.map(|win| win.at_unix_ns).min();
    (wins.iter().map(|win| win.at_unix_ns).collect(), first)
}

fn all_wins(evidence: &Evidence) -> Vec<Win> {
    let mut wins = Vec::new();
    for role in BOTH {
        for (at, uncertain_ns, event) in evidence.timed(role) {
            if event.event == "arbiter_won" {
                wins.push(Win {
                    of_primary: role == Role::Primary,
                    at_unix_ns: at.saturating_sub(uncertain_ns),
                    generation: event.number("generation").unwrap_or(0.0) as u64,
                });
            }
        }
    }
    wins
}

/// Puts the outcome together.
pub fn conclude(
    scenario: &Scenario,
    number: u32,
    evidence: &Evidence,
    verdicts: Vec<Result<Verdict, CaptureError>>,
) -> Run {
    let client = evidence.client.clone().unwrap_or_default();
    let (gap, before) = gaps(evidence);
    let mut run = Run {
        scenario: scenario.into(),
        number,
        acked_writes: client.acked_writes,
        acked_lost: client.acked_lost,
        doubled_writes: client.doubled + client.foreign,
        refused_writes: client.refused,
        client_gap_ms: gap.map(|gap| gap.length_ms()),
        gap_before_ms: before.map(|gap| gap.length_ms()),
        gap,
        clone_stops: clone_stops(evidence, &client),
        divergences: divergences(evidence),
        started_unix_ns: evidence.started_unix_ns,
        fault_unix_ns: evidence.killed_unix_ns.map(|(from, _)| from),
        client: evidence.client.clone(),
        timeline: timeline(evidence, &client),
        ..Run::default()
    };
    if scenario.guest_restarts {
        run.connections_ended = client.tcp_connections_broken;
    } else {
        run.tcp_connections_broken = client.tcp_connections_broken;
    }
    went_on(evidence, &mut run);
    let mut problems: Vec<String> = evidence.failure.clone().into_iter().collect();
    of_captures(evidence, verdicts, &mut run, &mut problems);
    of_client(scenario, evidence, &run, &mut problems);
    if run.divergences > 0 {
        problems.push(format!("{} divergences", run.divergences));
    }
    run.lanes = lanes::lanes(evidence, &run);
    run.ok = problems.is_empty();
    run.problems = problems;
    run
}

/// How the last loss was noticed and mastered.
fn went_on(evidence: &Evidence, run: &mut Run) {
    for role in BOTH {
        let events = evidence.after_kill(role);
        let went_on = match role {
            Role::Primary => "alone",
            Role::Backup => "live",
        };
        if events.first(went_on).is_none() {
            continue;
        }
        let number = |event: &str, field: &str| events.first(event).and_then(|e| e.number(field));
        run.detection_ms = number("peer_lost", "detected_after_ms");
        run.go_live_ms = match role {
            Role::Backup => number("live", "go_live_ms"),
            Role::Primary => number("arbiter_won", "ms"),
        };
        run.failovers += u64::from(role == Role::Backup);
    }
}

fn divergences(evidence: &Evidence) -> u64 {
    let of_side = evidence.events.iter().map(|events| {
        events
            .count("divergence")
            .max(events.count("peer_diverged"))
    });
    of_side.sum()
}

/// For how long the guest stood at each live clone, and whether the client wrote then.
fn clone_stops(evidence: &Evidence, client: &ClientReport) -> Vec<CloneStop> {
    let mut stops = Vec::new();
    for role in BOTH {
        for (at, _, event) in evidence.timed(role) {
            let Some(ms) = event
                .number("clone_stop_ms")
                .filter(|_| event.event == "cloned")
            else {
                continue;
            };
            let first_write = client.first_answer_unix_ns;
            let loaded = first_write > 0 && first_write < at;
            stops.push(CloneStop { ms, loaded });
        }
    }
    stops
}

fn of_captures(
    evidence: &Evidence,
    verdicts: Vec<Result<Verdict, CaptureError>>,
    run: &mut Run,
    problems: &mut Vec<String>,
) {
    let mut speeches: Vec<Speech> = Vec::new();
    let mut total: Option<Verdict> = None;
    for verdict in verdicts {
        match verdict {
            Ok(verdict) => {
                speeches.extend_from_slice(&verdict.speeches);
                total = Some(match total {
                    Some(total) => total.and(verdict),
                    None => verdict,
                });
            }
            Err(error) => problems.push(chain(&error)),
        }
    }
    let Some(verdict) = total else { return };
    let twice = two_live(&speeches, &all_wins(evidence));
    // Captures in which the guest is not heard show nothing, and nothing is not none.
    run.two_live = (!speeches.is_empty()).then_some(twice.len() as u64);
    problems.extend(
        twice
            .into_iter()
            .map(|text| format!("two live copies: {text}")),
    );
    run.output_released_before_ack = (verdict.judged > 0).then_some(verdict.released_before_ack());
    run.outputs_judged = verdict.judged;
    let mut expect = |fine: bool, text: String| {
        if !fine {
            problems.push(text);
        }
    };
    expect(
        verdict.judged > 0,
        "the captures hold no output to judge".into(),
    );
    let early = verdict.released_before_ack();
    expect(
        early == 0,
        format!("{early} outputs without an acknowledgement before them"),
    );
    let (losses, dropped) = (verdict.capture_losses, evidence.capture_dropped);
    let incomplete = format!("the captures lack bytes in {losses} places, {dropped} packets");
    expect(losses + dropped == 0, incomplete);
    let findings = verdict.findings.iter();
    problems.extend(findings.map(|finding| format!("capture: {finding}")));
    run.speeches = speeches;
}

fn of_client(scenario: &Scenario, evidence: &Evidence, run: &Run, problems: &mut Vec<String>) {
    let Some(client) = &evidence.client else {
        if evidence.failure.is_none() {
            problems.push("the client gave no report".into());
        }
        return;
    };
    let mut none = |count: u64, what: &str| {
        if count > 0 {
            problems.push(format!("{count} {what}"));
        }
    };
    none(client.acked_lost, "acknowledged writes were lost");
    none(client.doubled, "writes took effect twice");
    none(client.foreign, "values that nobody wrote, or out of order");
    none(
        client.wrong_answers,
        "answers that no faultless server gives",
    );
    none(run.tcp_connections_broken, "TCP connections broke");
    // A Redis that is started again refuses until it has loaded its data.
    if !scenario.guest_refuses && !scenario.guest_restarts {
        none(client.refused, "writes were refused");
    }
    if !client.checked {
        problems.push("the client could not read its writes back".into());
    }
    if client.acked_writes == 0 {
        problems.push("no write was acknowledged".into());
    }
    let excused = (scenario.guest_refuses && client.refused > 0)
        || (scenario.guest_restarts && client.tcp_connections_broken > 0);
    if !excused || !problems.is_empty() {
        let findings = client.findings.iter();
        problems.extend(findings.map(|finding| format!("client: {finding}")));
    }
}

/// What happened, by our clock, in order.
fn timeline(evidence: &Evidence, client: &ClientReport) -> Vec<Mark> {
    let mut marks = evidence.marks.clone();
    for role in BOTH {
        for (t_unix_ns, _, event) in evidence.timed(role) {
            if let Some(what) = phrase(event) {
                marks.push(Mark {
                    t_unix_ns,
                    who: role.name().into(),
                    what,
                });
            }
        }
    }
    for (t_unix_ns, what) in [
        (client.first_answer_unix_ns, "first write acknowledged"),
        (client.last_answer_unix_ns, "last write acknowledged"),
    ] {
        if t_unix_ns > 0 {
            marks.push(Mark {
                t_unix_ns,
                who: "client".into(),
                what: what.into(),
            });
        }
    }
    marks.sort_by_key(|mark| mark.t_unix_ns);
    marks
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::drill::events::Events;
    use crate::drill::scenario::find;

    fn scenario(name: &str) -> Scenario {
        find(&[name]).expect("known").remove(0)
    }

    fn events(told: &[(u64, &str, u64)]) -> Events {
        let event = |&(t_unix_ns, event, generation): &(u64, &str, u64)| {
            let told = serde_json::json!({
                "t_unix_ns": t_unix_ns, "event": event, "generation": generation
            });
            serde_json::from_value(told).expect("an event")
        };
        Events(told.iter().map(event).collect())
    }

    /// A client that wrote in peace, and a guest that moved to the backup.
    fn evidence() -> Evidence {
        Evidence {
            killed_unix_ns: Some((1000, 1100)),
            events_before_kill: [2, 1],
            events: [
                events(&[(10, "arbiter_won", 1), (50, "protected", 1)]),
                events(&[
                    (50, "protected", 1),
                    (1300, "arbiter_won", 2),
                    (1310, "live", 2),
                ]),
            ],
            client: Some(ClientReport {
                checked: true,
                acked_writes: 9,
                ..ClientReport::default()
            }),
            ..Evidence::default()
        }
    }

    fn heard(spoke: &[(bool, u64, u64)]) -> Verdict {
        let speech = |&(of_primary, from_unix_ns, to_unix_ns): &(bool, u64, u64)| Speech {
            of_primary,
            from_unix_ns,
            to_unix_ns,
            frames: 3,
        };
        Verdict {
            judged: 5,
            speeches: spoke.iter().map(speech).collect(),
            ..Verdict::default()
        }
    }

    #[test]
    fn a_guest_that_moved_as_it_should_passes() {
        let verdict = heard(&[(true, 100, 1050), (false, 1320, 2000)]);
        let run = conclude(
            &scenario("primary-killed"),
            1,
            &evidence(),
            vec![Ok(verdict)],
        );
        assert_eq!(run.problems, [""; 0]);
        assert_eq!((run.ok, run.failovers, run.two_live), (true, 1, Some(0)));
        assert_eq!(wins(&evidence()), (vec![10, 1300], Some(1300)));
    }

    #[test]
    fn a_guest_heard_from_both_hosts_does_not() {
        let verdict = heard(&[(true, 100, 1050), (false, 1320, 1400), (true, 1401, 1500)]);
        let run = conclude(&scenario("link-cut"), 1, &evidence(), vec![Ok(verdict)]);
        assert_eq!((run.ok, run.two_live), (false, Some(1)));
        assert!(
            run.problems[0].starts_with("two live copies: "),
            "{:?}",
            run.problems
        );
    }

    #[test]
    fn captures_without_the_guest_are_no_proof() {
        let run = conclude(
            &scenario("link-cut"),
            1,
            &evidence(),
            vec![Ok(Verdict::default())],
        );
        assert!(!run.ok);
        assert_eq!((run.two_live, run.output_released_before_ack), (None, None));
    }

    #[test]
    fn only_a_guest_that_starts_again_may_end_its_connections() {
        let mut evidence = evidence();
        if let Some(client) = &mut evidence.client {
            client.tcp_connections_broken = 1;
            client.refused = 3;
            client.findings.push("connection 0 broke: closed".into());
        }
        let verdict = || vec![Ok(heard(&[(true, 100, 1050), (false, 1320, 2000)]))];
        let run = conclude(&scenario("both-killed"), 1, &evidence, verdict());
        assert_eq!((run.tcp_connections_broken, run.connections_ended), (0, 1));
        assert!(run.ok, "{:?}", run.problems);
        let run = conclude(&scenario("link-cut"), 1, &evidence, verdict());
        assert_eq!((run.ok, run.tcp_connections_broken), (false, 1));
    }

    #[test]
    fn only_a_guest_with_a_broken_disk_may_refuse() {
        let mut evidence = evidence();
        if let Some(client) = &mut evidence.client {
            client.refused = 4;
        }
        let verdict = || vec![Ok(heard(&[(true, 100, 1050), (false, 1320, 2000)]))];
        assert!(conclude(&scenario("disk-error"), 1, &evidence, verdict()).ok);
        assert!(!conclude(&scenario("link-slow"), 1, &evidence, verdict()).ok);
    }
}
