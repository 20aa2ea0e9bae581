//! The examination for people, and as JSON.

use std::fmt::Write as _;

use serde_json::{Value, json};

use super::{Check, Examination, Status};

const NAME_WIDTH: usize = 21;

/// A table with what was found, what it is for and what to do, and then what is possible.
pub fn text(examination: &Examination) -> String {
    let mut out = format!("{}\n\n", examination.host);
    for check in &examination.checks {
        line(&mut out, check);
    }
    let possible = &examination.possible;
    out.push_str("\npossible on this host:\n");
    let clock = possible
        .clock
        .map_or_else(|| "none".to_owned(), |clock| clock.to_string());
    for (what, answer) in [
        ("run", possible.run.to_string()),
        ("record", possible.record.to_string()),
        ("replay", possible.replay.to_string()),
        ("primary, backup", possible.pair.to_string()),
        ("clock", clock),
        ("clock step", possible.step_clock.to_string()),
    ] {
        // Writing to a String can't fail.
        let _ = writeln!(out, "  {what:16} {answer}");
    }
    out
}

fn line(out: &mut String, check: &Check) {
    let status = match check.status {
        Status::Ok => "ok",
        Status::Degraded => "degraded",
        Status::Missing => "missing",
    };
    let Check {
        name,
        found,
        needed_for,
        advice,
        ..
    } = check;
    let _ = writeln!(out, "{status:9} {name:NAME_WIDTH$} {found}");
    let indent = 10 + NAME_WIDTH;
    let _ = writeln!(out, "{:indent$} for {needed_for}", "");
    if !advice.is_empty() {
        let _ = writeln!(out, "{:indent$} do: {advice}", "");
    }
}

/// `{"ok", "host", "checks": [{"name", "status", "found", "needed_for", "advice"}], "possible"}`.
pub fn json(examination: &Examination) -> Value {
    let Examination {
        host,
        checks,
        possible,
    } = examination;
    let checks: Vec<_> = checks
        .iter()
        .map(|check| {
            json!({
                "name": check.name,
                "status": check.status,
                "found": check.found,
                "needed_for": check.needed_for,
                "advice": check.advice,
            })
        })
        .collect();
    json!({
        "ok": possible.pair_possible(),
        "host": host.json(),
        "checks": checks,
        "possible": possible,
    })
}
