//! The report as a page: one HTML file that needs nothing else.

use std::fmt::Write as _;

use super::chart::{self, escape};
use super::text::{figures, grouped, seconds_between, totals};
use super::{Report, Summary};

const STYLE: &str = include_str!("page.css");

/// The whole page.
pub fn render(summary: &Summary) -> String {
    let mut page = String::new();
    let verdict = if summary.ok { "passed" } else { "did not pass" };
    let class = if summary.ok { "good" } else { "bad" };
    let _ = writeln!(
        page,
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <title>ftd drill: {verdict}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n<main>\n\
         <h1>Fail-over drill <span class=\"badge {class}\">{verdict}</span></h1>\n<p>{}</p>",
        escape(&sentence(summary))
    );
    tiles(&mut page, summary);
    if summary.count > 1 {
        page.push_str("<h2>All drills</h2>\n");
        page.push_str(
            "<p class=\"legend\"><i class=\"follows\"></i>silence until detected \
             <i class=\"going\"></i>until the survivor went on \
             <i class=\"rest\"></i>until the client's next answer</p>\n",
        );
        page.push_str(&chart::gaps(summary));
        table(&mut page, totals(summary));
    }
    for drill in &summary.drills {
        one(&mut page, drill, summary.count == 1 || !drill.ok);
    }
    page.push_str("</main>\n</body>\n</html>\n");
    page
}

fn sentence(summary: &Summary) -> String {
    let Some(first) = summary.drills.first() else {
        return "No drill was conducted.".into();
    };
    let times = if summary.count == 1 {
        String::new()
    } else {
        format!(" {} times", summary.count)
    };
    format!(
        "A client wrote to a guest while its {} was killed{times} ({}). Afterwards every write that \
         had been acknowledged to it was read back over a new connection. Site: {}; clock: {}; \
         KVM: {}.",
        first.kill, first.signal, summary.site, summary.clock, summary.host_kvm
    )
}

fn tiles(page: &mut String, summary: &Summary) {
    let ms = |value: Option<f64>| value.map_or("\u{2013}".into(), |ms| format!("{ms:.0} ms"));
    let zero = |count: u64| if count == 0 { "good" } else { "bad" };
    let released = summary.output_released_before_ack;
    let tiles = [
        (
            "writes lost",
            grouped(summary.acked_lost),
            zero(summary.acked_lost),
        ),
        ("of acknowledged", grouped(summary.acked_writes), ""),
        (
            "connections broken",
            grouped(summary.tcp_connections_broken),
            zero(summary.tcp_connections_broken),
        ),
        ("the client waited", ms(summary.client_gap_ms), ""),
        ("live after detection", ms(summary.go_live_ms), ""),
        (
            "outputs before their ack",
            released.map_or("not judged".into(), grouped),
            released.map_or("", zero),
        ),
    ];
    page.push_str("<div class=\"tiles\">\n");
    for (name, value, class) in tiles {
        let _ = writeln!(
            page,
            "<div class=\"tile {class}\"><b>{value}</b><span>{name}</span></div>"
        );
    }
    page.push_str("</div>\n");
}

fn one(page: &mut String, drill: &Report, open: bool) {
    let (class, verdict) = if drill.ok {
        ("good", "passed")
    } else {
        ("bad", "did not pass")
    };
    let _ = writeln!(
        page,
        "<details{}>\n<summary><h2>Drill {}: {} of the {} \
         <span class=\"badge {class}\">{verdict}</span></h2></summary>",
        if open { " open" } else { "" },
        drill.number,
        drill.signal,
        drill.kill
    );
    if !drill.problems.is_empty() {
        page.push_str("<ul class=\"problems\">\n");
        for problem in &drill.problems {
            let _ = writeln!(page, "<li>{}</li>", escape(problem));
        }
        page.push_str("</ul>\n");
    }
    if let Some(svg) = chart::around_the_kill(drill) {
        page.push_str(&svg);
    }
    page.push_str("<div class=\"columns\">\n");
    table(page, figures(drill));
    page.push_str("<table class=\"events\">\n");
    for mark in &drill.timeline {
        let seconds = seconds_between(drill.started_unix_ns, mark.t_unix_ns);
        let _ = writeln!(
            page,
            "<tr><td>{seconds:.3} s</td><td>{}</td><td>{}</td></tr>",
            escape(&mark.who),
            escape(&mark.what)
        );
    }
    page.push_str("</table>\n</div>\n</details>\n");
}

fn table(page: &mut String, rows: Vec<(&'static str, String)>) {
    page.push_str("<table class=\"figures\">\n");
    for (name, value) in rows {
        let (name, value) = (escape(name), escape(&value));
        let _ = writeln!(page, "<tr><th>{name}</th><td>{value}</td></tr>");
    }
    page.push_str("</table>\n");
}

#[cfg(test)]
mod tests {
    use super::super::tests::sample;
    use super::*;

    #[test]
    fn the_page_stands_alone_and_escapes_what_others_said() {
        let mut bad = sample(2, 700.0);
        bad.ok = false;
        bad.problems.push("<script>alert(1)</script>".into());
        let page = render(&Summary::of(vec![sample(1, 500.0), bad]));
        assert!(!page.contains("<script"), "escaped");
        assert!(page.contains("the gap &amp; &lt;more&gt;"));
        for outside in ["http://", "https://", "src=", "@import", "url("] {
            assert!(!page.contains(outside), "{outside}");
        }
        assert_eq!(page.matches("<details").count(), 2);
        assert_eq!(page.matches("<svg").count(), 3);
        assert!(page.contains("did not pass"));
    }
}
