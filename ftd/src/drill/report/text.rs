//! A report for a person at a terminal.

use std::fmt::Write as _;

use super::{Report, Summary};
use crate::drill::plan::Role;

/// All drills: a timeline for each, then the figures.
pub fn render(summary: &Summary) -> String {
    let mut text = String::new();
    for drill in &summary.drills {
        one(&mut text, drill);
    }
    if summary.count > 1 {
        all(&mut text, summary);
    }
    text
}

fn one(text: &mut String, drill: &Report) {
    let _ = writeln!(
        text,
        "\nDrill {}: {} of the {}\n",
        drill.number, drill.signal, drill.kill
    );
    for mark in &drill.timeline {
        let seconds = seconds_between(drill.started_unix_ns, mark.t_unix_ns);
        let _ = writeln!(text, "  {seconds:9.3} s  {:<8} {}", mark.who, mark.what);
    }
    let _ = writeln!(text);
    for (name, value) in figures(drill) {
        let _ = writeln!(text, "  {name:<29} {value}");
    }
    for problem in &drill.problems {
        let _ = writeln!(text, "  ! {}", problem.replace('\n', "\n    "));
    }
    let _ = writeln!(text, "\n  {}", verdict(drill.ok));
}

fn all(text: &mut String, summary: &Summary) {
    let passed = summary.drills.iter().filter(|drill| drill.ok).count();
    let _ = writeln!(text, "\n{} drills, {passed} passed\n", summary.count);
    for (name, value) in totals(summary) {
        let _ = writeln!(text, "  {name:<29} {value}");
    }
    let _ = writeln!(text, "\n  {}", verdict(summary.ok));
}

fn verdict(ok: bool) -> &'static str {
    if ok { "PASSED" } else { "DID NOT PASS" }
}

/// A drill's figures: name and value.
pub fn figures(drill: &Report) -> Vec<(&'static str, String)> {
    let gone_on = match drill.kill {
        Role::Primary => "detected -> guest live",
        Role::Backup => "detected -> arbiter won",
    };
    let mut figures = vec![
        ("writes acknowledged", grouped(drill.acked_writes)),
        ("writes lost", grouped(drill.acked_lost)),
        ("writes doubled or foreign", grouped(drill.doubled_writes)),
        (
            "TCP connections broken",
            grouped(drill.tcp_connections_broken),
        ),
        ("gap the client saw", ms(drill.client_gap_ms)),
        ("longest wait before the kill", ms(drill.gap_before_kill_ms)),
        ("silence until detected", ms(drill.detection_ms)),
        (gone_on, ms(drill.go_live_ms)),
        ("live clone", ms(drill.clone_ms)),
        ("divergences", grouped(drill.divergences)),
    ];
    figures.push(match &drill.capture {
        Some(verdict) => (
            "outputs before their ack",
            format!(
                "{} of {} judged",
                grouped(verdict.released_before_ack()),
                grouped(verdict.judged)
            ),
        ),
        None => ("outputs before their ack", "not judged".into()),
    });
    if let Some(held) = drill
        .capture
        .as_ref()
        .and_then(|verdict| verdict.held_us_median)
    {
        figures.push(("output held back, median", ms(Some(held as f64 / 1000.0))));
    }
    figures.push((
        "clock, KVM of the hosts",
        format!("{}, {}", drill.clock, drill.host_kvm),
    ));
    figures
}

/// The figures of all drills together.
pub fn totals(summary: &Summary) -> Vec<(&'static str, String)> {
    let with_max = |median, max| format!("{} (at most {})", ms(median), ms(max));
    vec![
        ("fail-overs", grouped(summary.failovers)),
        ("writes acknowledged", grouped(summary.acked_writes)),
        ("writes lost", grouped(summary.acked_lost)),
        ("writes doubled or foreign", grouped(summary.doubled_writes)),
        (
            "TCP connections broken",
            grouped(summary.tcp_connections_broken),
        ),
        (
            "gap, median",
            with_max(summary.client_gap_ms, summary.client_gap_ms_max),
        ),
        ("silence until detected", ms(summary.detection_ms)),
        (
            "go live, median",
            with_max(summary.go_live_ms, summary.go_live_ms_max),
        ),
        ("divergences", grouped(summary.divergences)),
        (
            "outputs before their ack",
            summary
                .output_released_before_ack
                .map_or("not judged".into(), |count| {
                    format!(
                        "{} of {} judged",
                        grouped(count),
                        grouped(summary.outputs_judged)
                    )
                }),
        ),
    ]
}

/// Seconds from one time to another, either way.
pub fn seconds_between(from_unix_ns: u64, to_unix_ns: u64) -> f64 {
    (i128::from(to_unix_ns) - i128::from(from_unix_ns)) as f64 / 1e9
}

fn ms(value: Option<f64>) -> String {
    match value {
        None => "-".into(),
        Some(ms) if ms < 10.0 => format!("{ms:.2} ms"),
        Some(ms) => format!("{ms:.0} ms"),
    }
}

/// 1234567 as 1,234,567.
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::super::tests::sample;
    use super::*;

    #[test]
    fn numbers_are_grouped() {
        assert_eq!(grouped(0), "0");
        assert_eq!(grouped(999), "999");
        assert_eq!(grouped(1000), "1,000");
        assert_eq!(grouped(1_234_567), "1,234,567");
    }

    #[test]
    fn a_person_sees_what_happened_and_what_was_lost() {
        let text = render(&Summary::of(vec![sample(1, 500.0), sample(2, 600.0)]));
        for line in [
            "Drill 1: power cut of the primary",
            "   18.000 s  drill    primary killed (power cut)",
            "  writes lost                   0",
            "  outputs before their ack      0 of 6,000 judged",
            "2 drills, 2 passed",
            "  gap, median                   550 ms (at most 600 ms)",
            "PASSED",
        ] {
            assert!(text.contains(line), "{line:?} is missing in:\n{text}");
        }
    }

    #[test]
    fn problems_are_shown() {
        let mut drill = sample(1, 500.0);
        drill.ok = false;
        drill
            .problems
            .push("3 acknowledged writes were lost".into());
        let text = render(&Summary::of(vec![drill]));
        assert!(
            text.contains("! 3 acknowledged writes were lost\n\n  DID NOT PASS"),
            "{text}"
        );
    }
}
