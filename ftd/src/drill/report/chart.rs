//! The timeline around a kill as inline SVG: both sides, what the client got, and how long it got
//! nothing; and, for many drills, what each gap was made of.

use std::fmt::Write as _;

use super::text::seconds_between;
use super::{Report, Summary};
use crate::drill::ledger::ClientReport;
use crate::drill::ledger::book::Gap;
use crate::drill::plan::Role;

pub(super) const WIDTH: f64 = 960.0;
pub(super) const LEFT: f64 = 92.0;
pub(super) const RIGHT: f64 = 16.0;
/// Shown before the kill and after the first answer, in seconds.
const BEFORE_S: f64 = 1.0;
const AFTER_S: f64 = 1.2;
pub(super) const LABEL_ROW: f64 = 17.0;

/// Horizontal position of times.
#[derive(Clone, Copy)]
pub(super) struct Scale {
    pub(super) from: f64,
    pub(super) to: f64,
}

impl Scale {
    pub(super) fn x(&self, seconds: f64) -> f64 {
        let share = ((seconds - self.from) / (self.to - self.from)).clamp(0.0, 1.0);
        LEFT + share * (WIDTH - LEFT - RIGHT)
    }
}

/// Times of a drill in seconds after the kill.
struct Moments {
    detected: Option<f64>,
    won: Option<f64>,
    on: Option<f64>,
    gap: (f64, f64),
    answered: bool,
}

impl Moments {
    fn of(drill: &Report, client: &ClientReport, killed: u64, gap: Gap) -> Self {
        let survivor = drill.kill.other().name();
        let find = |start: &str| {
            let mark = drill.timeline.iter().find(|mark| {
                mark.who == survivor && mark.what.starts_with(start) && mark.t_unix_ns >= killed
            });
            mark.map(|mark| seconds_between(killed, mark.t_unix_ns))
        };
        Moments {
            detected: find("the other side is lost"),
            won: find("won the arbiter"),
            on: find("live").or_else(|| find("goes on alone")),
            gap: (
                seconds_between(killed, gap.from_unix_ns),
                seconds_between(killed, gap.to_unix_ns),
            ),
            answered: gap.to_unix_ns <= client.last_answer_unix_ns,
        }
    }
}

/// The timeline around the kill; `None` when there was no kill, or no client that saw it.
pub fn around_the_kill(drill: &Report) -> Option<String> {
    let (killed, client, gap) = (drill.killed_unix_ns?, drill.client.as_ref()?, drill.gap?);
    let moments = Moments::of(drill, client, killed, gap);
    let last = [moments.on, moments.detected, Some(moments.gap.1)];
    let last = last.into_iter().flatten().fold(0.0, f64::max);
    let scale = Scale {
        from: -BEFORE_S,
        to: last + AFTER_S,
    };
    let labels = labels(drill, &moments);
    let rows = place(&labels, scale);
    let top = LABEL_ROW * rows.iter().map(|row| row + 1).max().unwrap_or(0) as f64 + 10.0;
    let (lane, bars) = (34.0, 110.0);
    let bottom = top + 2.0 * lane + bars + 16.0;
    let height = bottom + 26.0;
    let mut svg = format!(
        "<svg viewBox=\"0 0 {WIDTH} {height:.0}\" role=\"img\" \
         aria-label=\"Timeline around the kill\">\n"
    );
    grid(&mut svg, scale, top, bottom);
    sides(&mut svg, drill, &moments, scale, top, lane);
    let base = top + 2.0 * lane + bars;
    answers(&mut svg, client, killed, &moments, scale, base, bars);
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

pub(super) type Label = (f64, &'static str, String);

fn labels(drill: &Report, moments: &Moments) -> Vec<Label> {
    let at = |seconds: f64| format!("+{:.0} ms", seconds * 1000.0);
    let mut labels: Vec<Label> = vec![(0.0, "bad", format!("{}: {}", drill.kill, drill.signal))];
    let on = if drill.kill == Role::Primary {
        "live"
    } else {
        "alone"
    };
    for (moment, text) in [
        (moments.detected, "detected"),
        (moments.won, "arbiter won"),
        (moments.on, on),
    ] {
        if let Some(seconds) = moment {
            labels.push((seconds, "", format!("{text} {}", at(seconds))));
        }
    }
    labels.push(match moments.answered {
        true => (
            moments.gap.1,
            "good",
            format!("first answer {}", at(moments.gap.1)),
        ),
        false => (
            moments.gap.1,
            "bad",
            format!("given up {}", at(moments.gap.1)),
        ),
    });
    labels.sort_by(|a, b| a.0.total_cmp(&b.0));
    labels
}

/// A row for each label, so that none is written over another.
pub(super) fn place(labels: &[Label], scale: Scale) -> Vec<usize> {
    let mut ends: Vec<f64> = Vec::new();
    let rows = labels.iter().map(|(seconds, _, text)| {
        let x = scale.x(*seconds);
        let end = x + 8.0 + 6.6 * text.len() as f64;
        match ends.iter().position(|occupied| *occupied <= x) {
            Some(row) => {
                ends[row] = end;
                row
            }
            None => {
                ends.push(end);
                ends.len() - 1
            }
        }
    });
    rows.collect()
}

fn grid(svg: &mut String, scale: Scale, top: f64, bottom: f64) {
    let step = [0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0]
        .into_iter()
        .find(|step| (scale.to - scale.from) / step <= 14.0)
        .unwrap_or(60.0);
    let mut tick = (scale.from / step).ceil();
    while tick * step <= scale.to {
        let (x, seconds) = (scale.x(tick * step), tick * step);
        let text = if tick == 0.0 {
            "kill".into()
        } else {
            format!("{seconds:+.1} s")
        };
        let _ = writeln!(
            svg,
            "<line class=\"grid\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{top:.1}\" y2=\"{bottom:.1}\"/>\
             <text class=\"tick\" x=\"{x:.1}\" y=\"{:.1}\">{text}</text>",
            bottom + 15.0
        );
        tick += 1.0;
    }
}

fn sides(svg: &mut String, drill: &Report, moments: &Moments, scale: Scale, top: f64, lane: f64) {
    let end = scale.to;
    for (index, role) in [Role::Primary, Role::Backup].into_iter().enumerate() {
        let y = top + index as f64 * lane;
        let _ = writeln!(
            svg,
            "<text class=\"lane\" x=\"0\" y=\"{:.1}\">{role}</text>",
            y + lane / 2.0 + 4.0
        );
        let mut bar = |from: f64, to: f64, class: &str, text: &str| {
            let (x, width) = (scale.x(from), (scale.x(to) - scale.x(from)).max(0.0));
            let middle = y + lane / 2.0;
            let _ = write!(
                svg,
                "<rect class=\"bar {class}\" x=\"{x:.1}\" y=\"{:.1}\" width=\"{width:.1}\" \
                 height=\"{:.1}\" rx=\"4\"/>",
                y + 5.0,
                lane - 10.0
            );
            if width > 7.5 * text.len() as f64 {
                let _ = write!(
                    svg,
                    "<text class=\"inbar\" x=\"{:.1}\" y=\"{:.1}\">{text}</text>",
                    x + 8.0,
                    middle + 4.0
                );
            }
            svg.push('\n');
        };
        if role == drill.kill {
            let text = if role == Role::Primary {
                "runs the guest"
            } else {
                "follows"
            };
            bar(
                scale.from,
                0.0,
                if role == Role::Primary {
                    "runs"
                } else {
                    "follows"
                },
                text,
            );
            bar(0.0, end, "dead", "dead");
            continue;
        }
        let (detected, on) = (moments.detected.unwrap_or(0.0), moments.on);
        let on = on.unwrap_or(end);
        let (before, after, then) = match role {
            Role::Backup => ("follows", "going live", "runs the guest"),
            Role::Primary => ("runs, outputs wait", "arbiter", "runs the guest, alone"),
        };
        let first = if role == Role::Backup {
            "follows"
        } else {
            "runs"
        };
        bar(scale.from, detected.min(on), first, before);
        bar(detected.min(on), on, "going", after);
        bar(on, end, "runs", then);
    }
}

/// Answers to the client in each bucket, and the gap.
fn answers(
    svg: &mut String,
    client: &ClientReport,
    killed: u64,
    moments: &Moments,
    scale: Scale,
    base: f64,
    height: f64,
) {
    let bucket_s = client.series_ms as f64 / 1000.0;
    let start = seconds_between(killed, client.started_unix_ns);
    let shown = client
        .series
        .iter()
        .enumerate()
        .filter_map(|(index, count)| {
            let from = start + index as f64 * bucket_s;
            (from + bucket_s > scale.from && from < scale.to).then_some((from, *count))
        });
    let shown: Vec<(f64, u32)> = shown.collect();
    let most = shown
        .iter()
        .map(|(_, count)| *count)
        .max()
        .unwrap_or(0)
        .max(1);
    let usable = height - 26.0;
    let _ = writeln!(
        svg,
        "<text class=\"lane\" x=\"0\" y=\"{:.1}\">client</text>\
         <text class=\"small\" x=\"0\" y=\"{:.1}\">{:.0} writes/s</text>",
        base - 24.0,
        base - 8.0,
        f64::from(most) / bucket_s.max(0.001)
    );
    let (from, to) = (scale.x(moments.gap.0), scale.x(moments.gap.1));
    let _ = writeln!(
        svg,
        "<rect class=\"gap\" x=\"{from:.1}\" y=\"{:.1}\" width=\"{:.1}\" height=\"{height:.1}\"/>",
        base - height,
        (to - from).max(1.0)
    );
    for (seconds, count) in shown {
        let (x, next) = (scale.x(seconds), scale.x(seconds + bucket_s));
        let tall = usable * f64::from(count) / f64::from(most);
        let _ = writeln!(
            svg,
            "<rect class=\"answers\" x=\"{x:.1}\" y=\"{:.1}\" width=\"{:.1}\" height=\"{tall:.1}\"/>",
            base - tall,
            (next - x - 0.6).max(0.4)
        );
    }
    let gap_ms = (moments.gap.1 - moments.gap.0) * 1000.0;
    let text = format!("{gap_ms:.0} ms without an answer");
    let middle = (from + to) / 2.0;
    let _ = writeln!(
        svg,
        "<text class=\"gaptext\" x=\"{middle:.1}\" y=\"{:.1}\">{text}</text>\
         <line class=\"axis\" x1=\"{LEFT}\" x2=\"{:.1}\" y1=\"{base:.1}\" y2=\"{base:.1}\"/>",
        base - height + 14.0,
        WIDTH - RIGHT
    );
}

/// Every drill's gap in a bar: silence until detected, until the survivor went on, until an answer.
pub fn gaps(summary: &Summary) -> String {
    let longest = summary.client_gap_ms_max.unwrap_or(0.0).max(1.0);
    let row = 22.0;
    let height = row * summary.drills.len() as f64 + 8.0;
    let mut svg = format!(
        "<svg viewBox=\"0 0 {WIDTH} {height:.0}\" role=\"img\" aria-label=\"Gap of each drill\">\n"
    );
    let scale = Scale {
        from: 0.0,
        to: longest * 1.12,
    };
    for (index, drill) in summary.drills.iter().enumerate() {
        let y = index as f64 * row + 4.0;
        let class = if drill.ok { "" } else { "bad" };
        let _ = writeln!(
            svg,
            "<text class=\"lane {class}\" x=\"0\" y=\"{:.1}\">drill {}</text>",
            y + 14.0,
            drill.number
        );
        let gap = drill.client_gap_ms.unwrap_or(0.0);
        let detected = drill.detection_ms.unwrap_or(0.0).min(gap);
        let on = (detected + drill.go_live_ms.unwrap_or(0.0)).min(gap);
        for (from, to, class) in [
            (0.0, detected, "follows"),
            (detected, on, "going"),
            (on, gap, "rest"),
        ] {
            let _ = write!(
                svg,
                "<rect class=\"bar {class}\" x=\"{:.1}\" y=\"{y:.1}\" width=\"{:.1}\" \
                 height=\"16\"/>",
                scale.x(from),
                scale.x(to) - scale.x(from)
            );
        }
        let _ = writeln!(
            svg,
            "<text class=\"small\" x=\"{:.1}\" y=\"{:.1}\">{gap:.0} ms</text>",
            scale.x(gap) + 6.0,
            y + 13.0
        );
    }
    svg.push_str("</svg>\n");
    svg
}

/// Text that may stand in HTML.
pub fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::super::tests::sample;
    use super::*;

    #[test]
    fn the_timeline_shows_kill_detection_and_first_answer() {
        let svg = around_the_kill(&sample(1, 600.0)).expect("a chart");
        for part in [
            "power cut",
            "detected +310 ms",
            "live +350 ms",
            "first answer +600 ms",
        ] {
            assert!(svg.contains(part), "{part}");
        }
        assert!(svg.contains("600 ms without an answer"));
        assert_eq!(svg.matches("<svg").count(), svg.matches("</svg>").count());
        assert!(!svg.contains("NaN") && !svg.contains("inf"));
    }

    #[test]
    fn labels_that_would_touch_get_rows_of_their_own() {
        let label = |seconds: f64| (seconds, "", "twenty characters ..".to_owned());
        let scale = Scale {
            from: 0.0,
            to: 10.0,
        };
        assert_eq!(
            place(&[label(1.0), label(1.1), label(8.0)], scale),
            [0, 1, 0]
        );
    }

    #[test]
    fn without_a_client_there_is_no_chart() {
        let mut drill = sample(1, 600.0);
        drill.client = None;
        assert_eq!(around_the_kill(&drill), None);
    }
}
