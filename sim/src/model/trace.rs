//! A readable record of a world.

/// Details are shown from so long before the end on.
const DETAIL_MS: u64 = 250;

/// What was said, and when (milliseconds).
#[derive(Debug, Default)]
pub(crate) struct Trace {
    lines: Vec<(f64, bool, String)>,
}

impl Trace {
    pub(crate) fn add(&mut self, at_ms: f64, detail: bool, text: String) {
        self.lines.push((at_ms, detail, text));
    }

    /// The lines for people: what matters, and towards the end everything.
    pub(crate) fn lines(&self) -> Vec<String> {
        let end = self.lines.last().map_or(0.0, |(at, ..)| *at);
        let shown =
            |(at, detail, _): &&(f64, bool, String)| !detail || *at >= end - DETAIL_MS as f64;
        let lines = self.lines.iter().filter(shown);
        lines
            .map(|(at, _, text)| format!("{at:>11.3} ms  {text}"))
            .collect()
    }
}
