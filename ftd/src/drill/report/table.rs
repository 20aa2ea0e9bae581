//! Scenarios for a person at a terminal.

use std::fmt::Write as _;

use super::scenarios::{Run, Scenarios};
use super::text::{grouped, seconds_between};

/// A run in a few lines: what happened, if it did not pass.
pub fn run(run: &Run) -> String {
    let mut text = String::new();
    if !run.ok {
        let _ = writeln!(
            text,
            "\n{} {}: {}\n",
            run.scenario.name, run.number, run.scenario.about
        );
        for mark in &run.timeline {
            let seconds = seconds_between(run.started_unix_ns, mark.t_unix_ns);
            let _ = writeln!(text, "  {seconds:9.3} s  {:<8} {}", mark.who, mark.what);
        }
        let _ = writeln!(text);
        for problem in &run.problems {
            let _ = writeln!(text, "  ! {}", problem.replace('\n', "\n    "));
        }
    }
    text
}

/// The heads of the table's columns.
pub const HEADS: [&str; 9] = [
    "scenario", "passed", "writes", "lost", "two live", "broken", "early", "gap", "go live",
];

/// The table: a row a scenario, a cell a column.
pub fn rows(sums: &Scenarios) -> Vec<[String; 9]> {
    let count = |count: Option<u64>| count.map_or("-".into(), grouped);
    let rows = sums.table.iter().map(|row| {
        [
            row.scenario.clone(),
            format!("{}/{}", row.passed, row.runs),
            grouped(row.acked_writes),
            grouped(row.acked_lost),
            count(row.two_live),
            grouped(row.tcp_connections_broken),
            count(row.output_released_before_ack),
            ms(row.client_gap_ms_median),
            ms(row.go_live_ms_median),
        ]
    });
    rows.collect()
}

/// The figures of all runs: name and value.
pub fn totals(sums: &Scenarios) -> Vec<(&'static str, String)> {
    let count = |count: Option<u64>| count.map_or("not judged".into(), grouped);
    vec![
        ("runs passed", format!("{} of {}", sums.passed, sums.runs)),
        ("builds of ftd", grouped(sums.builds)),
        ("writes acknowledged", grouped(sums.acked_writes)),
        ("writes lost", grouped(sums.acked_lost)),
        ("two live copies", count(sums.two_live)),
        (
            "TCP connections broken",
            grouped(sums.tcp_connections_broken),
        ),
        (
            "outputs before their ack",
            format!(
                "{} of {} judged",
                count(sums.output_released_before_ack),
                grouped(sums.outputs_judged)
            ),
        ),
        ("divergences", grouped(sums.divergences)),
        ("gap at a power cut, median", ms(sums.client_gap_ms_median)),
        ("clone stop, idle guest", ms(sums.clone_stop_ms_idle)),
        ("clone stop, under load", ms(sums.clone_stop_ms_load)),
    ]
}

/// All runs: the table, then the figures.
pub fn render(sums: &Scenarios) -> String {
    let rows = rows(sums);
    let widths: Vec<usize> = (0..HEADS.len())
        .map(|column| {
            let cells = rows.iter().map(|row| row[column].chars().count());
            cells.max().unwrap_or(0).max(HEADS[column].len())
        })
        .collect();
    let mut text = String::from("\n");
    let mut line = |cells: &[String]| {
        let _ = write!(text, "  {:<1$}", cells[0], widths[0]);
        for (cell, width) in cells.iter().zip(&widths).skip(1) {
            let _ = write!(text, "  {cell:>width$}");
        }
        text.push('\n');
    };
    line(&HEADS.map(str::to_owned));
    rows.iter().for_each(|row| line(row));
    text.push('\n');
    for (name, value) in totals(sums) {
        let _ = writeln!(text, "  {name:<29} {value}");
    }
    let verdict = if sums.ok { "PASSED" } else { "DID NOT PASS" };
    let _ = writeln!(text, "\n  {verdict}");
    text
}

fn ms(value: Option<f64>) -> String {
    value.map_or("-".into(), |ms| format!("{ms:.0} ms"))
}

#[cfg(test)]
mod tests {
    use super::super::scenarios::tests::run as sample;
    use super::*;

    #[test]
    fn a_person_sees_a_row_a_scenario() {
        let runs = [
            sample("host-power-cut", 1, 400.0),
            sample("link-cut", 1, 500.0),
        ];
        let text = render(&Scenarios::of(&runs));
        for line in [
            "  host-power-cut     1/1     100     0         0       0      0  400 ms        -\n",
            "  two live copies               0\n",
            "  gap at a power cut, median    400 ms\n",
            "  PASSED",
        ] {
            assert!(text.contains(line), "{line:?} is missing in:\n{text}");
        }
    }

    #[test]
    fn only_a_run_that_did_not_pass_is_told_at_length() {
        let mut bad = sample("link-cut", 3, 500.0);
        assert_eq!(run(&bad), "");
        bad.ok = false;
        bad.problems.push("2 acknowledged writes were lost".into());
        let text = run(&bad);
        assert!(text.contains("link-cut 3: What link-cut does"), "{text}");
        assert!(
            text.contains("   20.000 s  drill    something <odd> happens"),
            "{text}"
        );
        assert!(text.contains("! 2 acknowledged writes were lost"), "{text}");
    }
}
