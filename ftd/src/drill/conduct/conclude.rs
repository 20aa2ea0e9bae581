//! From evidence to a report: figures, a timeline, and every reason why the drill did not pass.

use super::DrillOptions;
use super::evidence::Evidence;
use crate::drill::capture::CaptureError;
use crate::drill::capture::judge::Verdict;
use crate::drill::events::Event;
use crate::drill::ledger::ClientReport;
use crate::drill::ledger::book::Gap;
use crate::drill::plan::Role;
use crate::drill::report::{Mark, Report};
use crate::drill::site::Site;

/// From when on a side may speak alone, by our clock: it had won the arbiter; the survivor not before
/// the kill. Where the hosts' clocks can't be compared exactly the earlier time counts, and where they can't
/// at all, the end of the kill.
pub fn alone_from(killed: Role, evidence: &Evidence) -> Vec<u64> {
    let mut times = Vec::new();
    for role in [Role::Primary, Role::Backup] {
        let before = evidence.events_before_kill[role as usize];
        for (index, (at, uncertain_ns, event)) in evidence.timed(role).enumerate() {
            if event.event != "arbiter_won" {
                continue;
            }
            let won = at.saturating_sub(uncertain_ns);
            let kill = evidence
                .killed_unix_ns
                .filter(|_| role != killed && index >= before);
            times.push(match kill {
                // The hosts have no common time: the last word of both sides came before the kill was done.
                Some((ordered, done)) if won < ordered => done,
                _ => won,
            });
        }
    }
    times
}

/// The longest gap of the client that a kill can be the cause of, and the longest before it.
pub(super) fn gaps(evidence: &Evidence) -> (Option<Gap>, Option<Gap>) {
    let gaps = evidence
        .client
        .iter()
        .flat_map(|client| client.gaps.iter().copied());
    let killed = evidence
        .killed_unix_ns
        .map_or(u64::MAX, |(before, _)| before);
    let (after, before): (Vec<Gap>, Vec<Gap>) = gaps.partition(|gap| gap.to_unix_ns >= killed);
    let longest = |gaps: Vec<Gap>| gaps.into_iter().max_by_key(Gap::length_ns);
    (longest(after), longest(before))
}

/// When the killed side died: while the order was carried out, and not before the last answer that
/// it can have given.
pub(super) fn died(evidence: &Evidence, gap: Option<Gap>) -> Option<u64> {
    let (before, after) = evidence.killed_unix_ns?;
    let last_answer = gap.map_or(0, |gap| gap.from_unix_ns);
    Some(last_answer.clamp(before, after.max(before)))
}

/// Puts the report together.
pub fn conclude(
    options: &DrillOptions,
    site: &dyn Site,
    number: u32,
    evidence: &Evidence,
    verdict: Option<Result<Verdict, CaptureError>>,
) -> Report {
    let survivor = options.kill.other();
    let events = evidence.after_kill(survivor);
    let client = evidence.client.clone().unwrap_or_default();
    let number_of = |event: &str, field: &str| events.first(event).and_then(|e| e.number(field));
    let text_of = |field: &str| {
        let started = evidence
            .events
            .iter()
            .find_map(|events| events.first("started"));
        started
            .and_then(|event| event.text(field))
            .unwrap_or_else(|| "unknown".into())
    };
    let divergences: u64 = evidence
        .events
        .iter()
        .map(|events| {
            events
                .count("divergence")
                .max(events.count("peer_diverged"))
        })
        .sum();
    let (gap, before) = gaps(evidence);
    let mut report = Report {
        ok: false,
        number,
        site: site.kind().into(),
        kill: options.kill,
        signal: options.signal,
        failovers: u64::from(survivor == Role::Backup && events.first("live").is_some()),
        detection_ms: number_of("peer_lost", "detected_after_ms"),
        go_live_ms: match survivor {
            Role::Backup => number_of("live", "go_live_ms"),
            Role::Primary => number_of("arbiter_won", "ms"),
        },
        client_gap_ms: gap.map(|gap| gap.length_ms()),
        gap_before_kill_ms: before.map(|gap| gap.length_ms()),
        gap,
        acked_writes: client.acked_writes,
        acked_lost: client.acked_lost,
        doubled_writes: client.doubled + client.foreign,
        tcp_connections_broken: client.tcp_connections_broken,
        output_released_before_ack: None,
        divergences,
        clock: text_of("clock"),
        host_kvm: text_of("host_kvm"),
        clone_ms: evidence.events[0]
            .first("protected")
            .and_then(|e| e.number("clone_ms")),
        started_unix_ns: evidence.started_unix_ns,
        killed_unix_ns: died(evidence, gap),
        problems: Vec::new(),
        capture: None,
        client: evidence.client.clone(),
        timeline: timeline(evidence, &client, gap),
    };
    match verdict {
        Some(Ok(verdict)) => {
            report.output_released_before_ack = Some(verdict.released_before_ack());
            report.capture = Some(verdict);
        }
        Some(Err(error)) => report.problems.push(chain(&error)),
        None => {}
    }
    if let Some(failure) = &evidence.failure {
        report.problems.push(failure.clone());
    }
    report.problems.extend(problems(options, evidence, &report));
    report.ok = report.problems.is_empty();
    report
}

/// Everything that keeps the drill from passing.
fn problems(options: &DrillOptions, evidence: &Evidence, report: &Report) -> Vec<String> {
    let mut problems = Vec::new();
    let mut expect = |fine: bool, text: String| {
        if !fine {
            problems.push(text);
        }
    };
    match &evidence.client {
        None => expect(
            evidence.failure.is_some(),
            "the client gave no report".into(),
        ),
        Some(client) => {
            let lost = client.acked_lost;
            expect(
                client.checked,
                "the client could not read its writes back".into(),
            );
            expect(client.acked_writes > 0, "no write was acknowledged".into());
            expect(lost == 0, format!("{lost} acknowledged writes were lost"));
            let doubled = client.doubled;
            expect(doubled == 0, format!("{doubled} writes took effect twice"));
            let foreign = client.foreign;
            expect(
                foreign == 0,
                format!("{foreign} values that nobody wrote, or out of order"),
            );
            let wrong = client.wrong_answers;
            expect(
                wrong == 0,
                format!("{wrong} answers that no faultless server gives"),
            );
            let refused = client.refused;
            expect(refused == 0, format!("{refused} writes were refused"));
            let broken = client.tcp_connections_broken;
            expect(broken == 0, format!("{broken} TCP connections broke"));
            if let Some((killed, _)) = evidence.killed_unix_ns {
                let after = client.last_answer_unix_ns > killed;
                expect(after, "no write was acknowledged after the kill".into());
            }
            problems.extend(
                client
                    .findings
                    .iter()
                    .map(|finding| format!("client: {finding}")),
            );
        }
    }
    if let Some(verdict) = &report.capture {
        let (violations, unmatched) = (verdict.violations, verdict.unmatched);
        let mut expect = |fine: bool, text: String| {
            if !fine {
                problems.push(text);
            }
        };
        expect(
            verdict.judged > 0,
            "the captures hold no output to judge".into(),
        );
        expect(
            violations == 0,
            format!("{violations} outputs left before their acknowledgement"),
        );
        expect(
            unmatched == 0,
            format!("{unmatched} outputs left that no epoch records"),
        );
        let early = verdict.backup_spoke;
        expect(
            early == 0,
            format!("{early} outputs of the backup before it was live"),
        );
        let (losses, dropped) = (verdict.capture_losses, evidence.capture_dropped);
        let incomplete = format!("the captures lack bytes in {losses} places, {dropped} packets");
        expect(losses + dropped == 0, incomplete);
        problems.extend(
            verdict
                .findings
                .iter()
                .map(|finding| format!("capture: {finding}")),
        );
    }
    let divergences = report.divergences;
    if divergences > 0 {
        problems.push(format!("{divergences} divergences"));
    }
    if evidence.killed_unix_ns.is_some() && !evidence.protected_at_kill(options.kill) {
        problems.push(format!(
            "the guest was not protected when the {} was killed",
            options.kill
        ));
    }
    let wanted = u64::from(options.kill == Role::Primary);
    if evidence.failure.is_none() && report.failovers != wanted {
        problems.push(format!(
            "{} fail-overs instead of {wanted}",
            report.failovers
        ));
    }
    problems
}

/// What happened, by our clock, in order.
pub(super) fn timeline(evidence: &Evidence, client: &ClientReport, gap: Option<Gap>) -> Vec<Mark> {
    let mut marks = evidence.marks.clone();
    for role in [Role::Primary, Role::Backup] {
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
    let mut of_client = |t_unix_ns: u64, what: String| {
        if t_unix_ns > 0 {
            marks.push(Mark {
                t_unix_ns,
                who: "client".into(),
                what,
            });
        }
    };
    of_client(
        client.ready_unix_ns,
        "the guest answers; writing begins".into(),
    );
    if let Some(gap) = gap {
        let length = format!("{:.0} ms", gap.length_ms());
        let answered = gap.to_unix_ns <= client.last_answer_unix_ns;
        of_client(gap.from_unix_ns, "last answer before the gap".into());
        of_client(
            gap.to_unix_ns,
            match answered {
                true => format!("first answer after the gap of {length}"),
                false => format!("given up after {length} without an answer"),
            },
        );
        of_client(
            if answered {
                client.last_answer_unix_ns
            } else {
                0
            },
            "writing ends".into(),
        );
    }
    marks.sort_by_key(|mark| mark.t_unix_ns);
    marks
}

/// An event in words; events that tell a person nothing are left out.
pub(super) fn phrase(event: &Event) -> Option<String> {
    let ms = |field| event.number(field).map(|ms| format!("{ms:.0} ms"));
    let with = |text: &str, field| match ms(field) {
        Some(ms) => format!("{text} ({ms})"),
        None => text.to_owned(),
    };
    Some(match event.event.as_str() {
        "guest_started" => "guest powered on".into(),
        "backup_joined" => with("backup joined", "clone_ms"),
        "cloned" => with("live clone; the guest stood", "clone_stop_ms"),
        "protected" => with("protected: the backup follows", "clone_ms"),
        "storage_lost" => "the arbiter's storage is away: nothing goes out".into(),
        "storage_back" => "the arbiter's storage is back".into(),
        "handing_over" => "hands the guest over".into(),
        "handed_over" => "handed the guest over".into(),
        "hand_over_failed" => "the hand-over failed".into(),
        "peer_lost" => with("the other side is lost: silent for", "detected_after_ms"),
        "arbiter_won" => with("won the arbiter", "ms"),
        "live" => with("live: the guest goes on here", "go_live_ms"),
        "alone" => "goes on alone".into(),
        "divergence" => "DIVERGENCE".into(),
        "guest_ended" => "guest ended".into(),
        "halted" => format!("halted: {}", event.text("why").unwrap_or_default()),
        _ => return None,
    })
}

/// An error with its causes.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
