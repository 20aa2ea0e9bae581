//! A run as inline SVG: what was done, what each side was, and what the client got.

use std::fmt::Write as _;

use super::chart::{LABEL_ROW, LEFT, Label, RIGHT, Scale, WIDTH, escape, place};
use super::lanes::State;
use super::scenarios::Run;
use super::text::seconds_between;
use crate::drill::plan::Role;

/// Shown before the first thing that was done, and after the last one, in seconds.
const BEFORE_S: f64 = 3.0;
const AFTER_S: f64 = 1.0;
const LANE: f64 = 34.0;
const BARS: f64 = 90.0;
/// Longest label; the table of events has the rest.
const LABEL_CHARS: usize = 56;

/// The run's timeline; `None` when nothing was done, or no client saw it.
pub fn story(run: &Run) -> Option<String> {
    let (zero, client) = (run.fault_unix_ns?, run.client.as_ref()?);
    let second = |unix_ns: u64| seconds_between(zero, unix_ns);
    let own = run.timeline.iter().filter(|mark| mark.who == "drill");
    let own: Vec<_> = own.filter(|mark| mark.t_unix_ns >= zero).collect();
    let last = own.iter().map(|mark| second(mark.t_unix_ns));
    let last = last.fold(second(client.last_answer_unix_ns), f64::max);
    let scale = Scale {
        from: -BEFORE_S,
        to: last.max(1.0) + AFTER_S,
    };
    let labels: Vec<Label> = own
        .iter()
        .map(|mark| (second(mark.t_unix_ns), "bad", shortened(&mark.what)))
        .collect();
    let rows = place(&labels, scale);
    let top = LABEL_ROW * rows.iter().map(|row| row + 1).max().unwrap_or(0) as f64 + 10.0;
    let base = top + 2.0 * LANE + BARS;
    let mut svg = format!(
        "<svg viewBox=\"0 0 {WIDTH} {:.0}\" role=\"img\" aria-label=\"Timeline of {}\">\n",
        base + 26.0,
        escape(&run.scenario.name)
    );
    ticks(&mut svg, scale, top, base);
    sides(&mut svg, run, &second, scale, top);
    answers(&mut svg, run, &second, scale, base);
    for ((seconds, class, text), row) in labels.iter().zip(rows) {
        let (x, y) = (scale.x(*seconds), LABEL_ROW * row as f64 + 13.0);
        let _ = writeln!(
            svg,
            "<line class=\"mark {class}\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{:.1}\" y2=\"{base:.1}\"/>\
             <text class=\"label {class}\" x=\"{:.1}\" y=\"{y:.1}\">{}</text>",
            y - 9.0,
            x + 4.0,
            escape(text)
        );
    }
    svg.push_str("</svg>\n");
    Some(svg)
}

fn shortened(text: &str) -> String {
    match text.char_indices().nth(LABEL_CHARS) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text.to_owned(),
    }
}

fn ticks(svg: &mut String, scale: Scale, top: f64, base: f64) {
    let step = [0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 30.0]
        .into_iter()
        .find(|step| (scale.to - scale.from) / step <= 16.0)
        .unwrap_or(60.0);
    let mut tick = (scale.from / step).ceil();
    while tick * step <= scale.to {
        let (x, seconds) = (scale.x(tick * step), tick * step);
        let _ = writeln!(
            svg,
            "<line class=\"grid\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{top:.1}\" y2=\"{base:.1}\"/>\
             <text class=\"tick\" x=\"{x:.1}\" y=\"{:.1}\">{seconds:+.1} s</text>",
            base + 15.0
        );
        tick += 1.0;
    }
}

fn class(state: State) -> &'static str {
    match state {
        State::Protected => "runs",
        State::Alone => "alone",
        State::Follows => "follows",
        State::Waits | State::TakesOver => "going",
        State::Starts | State::Joins => "rest",
        State::Dead | State::Ended => "dead",
    }
}

fn sides(svg: &mut String, run: &Run, second: &dyn Fn(u64) -> f64, scale: Scale, top: f64) {
    for (index, side) in [Role::Primary, Role::Backup].into_iter().enumerate() {
        let y = top + index as f64 * LANE;
        let middle = y + LANE / 2.0 + 4.0;
        let _ = writeln!(
            svg,
            "<text class=\"lane\" x=\"0\" y=\"{middle:.1}\">{side}</text>"
        );
        for lane in run.lanes.iter().filter(|lane| lane.side == side) {
            let (from, to) = (second(lane.from_unix_ns), second(lane.to_unix_ns));
            if to < scale.from || from > scale.to {
                continue;
            }
            let (x, words) = (scale.x(from), lane.state.words());
            let width = (scale.x(to) - x).max(1.0);
            let _ = write!(
                svg,
                "<rect class=\"bar {}\" x=\"{x:.1}\" y=\"{:.1}\" width=\"{width:.1}\" \
                 height=\"{:.1}\" rx=\"3\"><title>{words}, {:.3} s</title></rect>",
                class(lane.state),
                y + 5.0,
                LANE - 10.0,
                to - from
            );
            if width > 7.5 * words.len() as f64 {
                let _ = write!(
                    svg,
                    "<text class=\"inbar\" x=\"{:.1}\" y=\"{middle:.1}\">{words}</text>",
                    x + 8.0
                );
            }
            svg.push('\n');
        }
    }
}

/// Answers to the client in each bucket, and the longest time without one.
fn answers(svg: &mut String, run: &Run, second: &dyn Fn(u64) -> f64, scale: Scale, base: f64) {
    let Some(client) = &run.client else { return };
    let bucket_s = client.series_ms as f64 / 1000.0;
    let start = second(client.started_unix_ns);
    let buckets = client.series.iter().enumerate();
    let shown: Vec<(f64, u32)> = buckets
        .map(|(index, count)| (start + index as f64 * bucket_s, *count))
        .filter(|(from, _)| from + bucket_s > scale.from && *from < scale.to)
        .collect();
    let most = shown
        .iter()
        .map(|(_, count)| *count)
        .max()
        .unwrap_or(0)
        .max(1);
    let _ = writeln!(
        svg,
        "<text class=\"lane\" x=\"0\" y=\"{:.1}\">client</text>\
         <text class=\"small\" x=\"0\" y=\"{:.1}\">{:.0} writes/s</text>",
        base - 24.0,
        base - 8.0,
        f64::from(most) / bucket_s.max(0.001)
    );
    if let Some(gap) = run.gap {
        let (from, to) = (
            scale.x(second(gap.from_unix_ns)),
            scale.x(second(gap.to_unix_ns)),
        );
        let _ = writeln!(
            svg,
            "<rect class=\"gap\" x=\"{from:.1}\" y=\"{:.1}\" width=\"{:.1}\" height=\"{BARS}\"/>\
             <text class=\"gaptext\" x=\"{:.1}\" y=\"{:.1}\">{:.0} ms</text>",
            base - BARS,
            (to - from).max(1.0),
            (from + to) / 2.0,
            base - BARS + 14.0,
            gap.length_ms()
        );
    }
    for (seconds, count) in shown {
        let (x, next) = (scale.x(seconds), scale.x(seconds + bucket_s));
        let tall = (BARS - 22.0) * f64::from(count) / f64::from(most);
        let _ = writeln!(
            svg,
            "<rect class=\"answers\" x=\"{x:.1}\" y=\"{:.1}\" width=\"{:.1}\" height=\"{tall:.1}\"/>",
            base - tall,
            (next - x - 0.6).max(0.4)
        );
    }
    let _ = writeln!(
        svg,
        "<line class=\"axis\" x1=\"{LEFT}\" x2=\"{:.1}\" y1=\"{base:.1}\" y2=\"{base:.1}\"/>",
        WIDTH - RIGHT
    );
}

#[cfg(test)]
mod tests {
    use super::super::lanes::Lane;
    use super::super::scenarios::tests::run;
    use super::*;

    #[test]
    fn what_was_done_and_what_each_side_was_is_drawn() {
        let mut run = run("link-cut", 1, 600.0);
        let fault = run.fault_unix_ns.expect("a fault");
        run.lanes = vec![Lane {
            side: Role::Backup,
            state: State::Follows,
            from_unix_ns: fault - 2_000_000_000,
            to_unix_ns: fault + 2_000_000_000,
        }];
        let svg = story(&run).expect("a story");
        for part in [
            "something &lt;odd&gt; happens",
            ">follows<",
            "600 ms",
            "writes/s",
        ] {
            assert!(svg.contains(part), "{part}");
        }
        assert!(!svg.contains("NaN") && !svg.contains("inf"));
    }

    #[test]
    fn without_a_client_there_is_no_story() {
        let mut run = run("link-cut", 1, 600.0);
        run.client = None;
        assert_eq!(story(&run), None);
    }
}
