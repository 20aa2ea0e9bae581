//! Scenarios as a page: one HTML file that needs nothing else.

use std::fmt::Write as _;

use super::chart::escape;
use super::scenarios::{Run, Scenarios};
use super::story::story;
use super::table::{HEADS, rows, totals};
use super::text::{grouped, seconds_between};

const STYLE: &str = include_str!("page.css");

/// The whole page.
pub fn render(runs: &[Run]) -> String {
    let sums = Scenarios::of(runs);
    let (verdict, class) = verdict(sums.ok);
    let mut page = format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <title>ftd drills: {verdict}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n<main>\n\
         <h1>Drills <span class=\"badge {class}\">{verdict}</span></h1>\n\
         <p>In each run a client wrote to a guest that two emulated hosts ran at once, while something \
         happened to them. Afterwards every write that had been acknowledged was read back over a new \
         connection, and captures of both networks were judged.</p>\n"
    );
    tiles(&mut page, &sums);
    page.push_str("<h2>All scenarios</h2>\n<table class=\"grid\">\n<tr>");
    for head in HEADS {
        let _ = write!(page, "<th>{head}</th>");
    }
    page.push_str("</tr>\n");
    for (row, cells) in sums.table.iter().zip(rows(&sums)) {
        let class = if row.passed == row.runs {
            ""
        } else {
            " class=\"bad\""
        };
        let _ = write!(page, "<tr{class}>");
        for cell in cells {
            let _ = write!(page, "<td>{}</td>", escape(&cell));
        }
        page.push_str("</tr>\n");
    }
    page.push_str("</table>\n");
    figures(&mut page, totals(&sums));
    page.push_str(
        "<p class=\"legend\"><i class=\"runs\"></i>runs the guest, protected \
         <i class=\"alone\"></i>runs it alone <i class=\"follows\"></i>follows \
         <i class=\"going\"></i>outputs wait, or takes over <i class=\"rest\"></i>starts or joins \
         <i class=\"dead\"></i>dead or ended</p>\n",
    );
    for row in &sums.table {
        let mine = runs.iter().filter(|run| run.scenario.name == row.scenario);
        scenario(&mut page, &mine.collect::<Vec<_>>());
    }
    page.push_str("</main>\n</body>\n</html>\n");
    page
}

fn verdict(ok: bool) -> (&'static str, &'static str) {
    if ok {
        ("passed", "good")
    } else {
        ("did not pass", "bad")
    }
}

fn tiles(page: &mut String, sums: &Scenarios) {
    let ms = |value: Option<f64>| value.map_or("\u{2013}".into(), |ms| format!("{ms:.0} ms"));
    let zero = |count: Option<u64>| match count {
        Some(0) => "good",
        Some(_) => "bad",
        None => "",
    };
    let count = |count: Option<u64>| count.map_or("not judged".into(), grouped);
    let (lost, broken) = (Some(sums.acked_lost), Some(sums.tcp_connections_broken));
    let early = sums.output_released_before_ack;
    page.push_str("<div class=\"tiles\">\n");
    for (name, value, class) in [
        ("writes lost", count(lost), zero(lost)),
        ("of acknowledged", grouped(sums.acked_writes), ""),
        ("two live copies", count(sums.two_live), zero(sums.two_live)),
        ("connections broken", count(broken), zero(broken)),
        ("outputs before their ack", count(early), zero(early)),
        ("the client waited", ms(sums.client_gap_ms_median), ""),
    ] {
        let _ = writeln!(
            page,
            "<div class=\"tile {class}\"><b>{value}</b><span>{name}</span></div>"
        );
    }
    page.push_str("</div>\n");
}

/// A scenario: the first of its runs, and each that did not pass.
fn scenario(page: &mut String, runs: &[&Run]) {
    let Some(first) = runs.first() else { return };
    let ok = runs.iter().all(|run| run.ok);
    let ((verdict, class), passed) = (verdict(ok), runs.iter().filter(|run| run.ok).count());
    let _ = writeln!(
        page,
        "<details{}>\n<summary><h2>{} <span class=\"badge {class}\">{passed} of {} {verdict}</span>\
         </h2></summary>\n<p>{}</p>",
        if ok { "" } else { " open" },
        escape(&first.scenario.name),
        runs.len(),
        escape(&first.scenario.about)
    );
    let shown = runs
        .iter()
        .enumerate()
        .filter(|(index, run)| *index == 0 || !run.ok);
    for (_, run) in shown {
        one(page, run, runs.len());
    }
    page.push_str("</details>\n");
}

fn one(page: &mut String, run: &Run, of: usize) {
    if of > 1 {
        let _ = writeln!(page, "<h3>Run {}</h3>", run.number);
    }
    if !run.problems.is_empty() {
        page.push_str("<ul class=\"problems\">\n");
        for problem in &run.problems {
            let _ = writeln!(page, "<li>{}</li>", escape(problem));
        }
        page.push_str("</ul>\n");
    }
    if let Some(svg) = story(run) {
        page.push_str(&svg);
    }
    page.push_str("<table class=\"events\">\n");
    for mark in &run.timeline {
        let seconds = seconds_between(run.started_unix_ns, mark.t_unix_ns);
        let _ = writeln!(
            page,
            "<tr><td>{seconds:.3} s</td><td>{}</td><td>{}</td></tr>",
            escape(&mark.who),
            escape(&mark.what)
        );
    }
    page.push_str("</table>\n");
}

fn figures(page: &mut String, rows: Vec<(&'static str, String)>) {
    page.push_str("<table class=\"figures\">\n");
    for (name, value) in rows {
        let _ = writeln!(page, "<tr><th>{name}</th><td>{}</td></tr>", escape(&value));
    }
    page.push_str("</table>\n");
}

#[cfg(test)]
mod tests {
    use super::super::scenarios::tests::run;
    use super::*;

    #[test]
    fn the_page_stands_alone_and_escapes_what_others_said() {
        let mut bad = run("link-cut", 2, 700.0);
        bad.ok = false;
        bad.problems.push("<script>alert(1)</script>".into());
        let page = render(&[
            run("host-power-cut", 1, 400.0),
            run("link-cut", 1, 500.0),
            bad,
        ]);
        assert!(!page.contains("<script"), "escaped");
        for outside in ["http://", "https://", "src=", "@import", "url("] {
            assert!(!page.contains(outside), "{outside}");
        }
        assert_eq!(page.matches("<details").count(), 2);
        assert_eq!(page.matches("<details open").count(), 1);
        assert_eq!(page.matches("<svg").count(), 3);
        assert!(page.contains("1 of 2 did not pass"));
    }
}
