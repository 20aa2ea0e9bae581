//! The rate of the log.

use std::collections::VecDeque;

const SECOND_NS: u64 = 1_000_000_000;
/// Whole seconds that are looked at.
const WINDOW: u64 = 5;

/// Counts bytes, second by second.
#[derive(Debug, Default)]
pub struct Meter {
    /// When the first bytes came.
    since_ns: Option<u64>,
    /// Seconds of the host's clock, and the bytes that came in them.
    seconds: VecDeque<(u64, u64)>,
}

impl Meter {
    /// These many bytes more, at `now_ns` of a clock that never goes back.
    pub fn add(&mut self, now_ns: u64, bytes: usize) {
        self.since_ns.get_or_insert(now_ns);
        let (second, bytes) = (now_ns / SECOND_NS, bytes as u64);
        match self.seconds.back_mut() {
            Some((last, sum)) if *last == second => *sum += bytes,
            _ => self.seconds.push_back((second, bytes)),
        }
        while self.seconds.len() > WINDOW as usize + 1 {
            self.seconds.pop_front();
        }
    }

    /// Megabits a second over the last whole seconds; none before there is one.
    pub fn mbit_s(&self, now_ns: u64) -> Option<f64> {
        let until = now_ns / SECOND_NS;
        let first = until.saturating_sub(WINDOW);
        let from_ns = self.since_ns?.max(first * SECOND_NS);
        let span_ns = (until * SECOND_NS).checked_sub(from_ns)?;
        if span_ns < SECOND_NS {
            return None;
        }
        let seconds = self.seconds.iter();
        let bytes: u64 = seconds
            .filter(|(second, _)| (first..until).contains(second))
            .map(|(_, bytes)| bytes)
            .sum();
        Some(bytes as f64 * 8000.0 / span_ns as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_is_that_of_the_last_whole_seconds() {
        let mut meter = Meter::default();
        assert_eq!(meter.mbit_s(77 * SECOND_NS), None, "nothing came yet");
        let start = 100 * SECOND_NS + SECOND_NS / 2;
        for tenth in 0..100 {
            meter.add(start + tenth * SECOND_NS / 10, 12_500);
        }
        assert_eq!(meter.mbit_s(start + SECOND_NS / 2), None, "too short");
        let one = |found: Option<f64>| found.is_some_and(|found| (found - 1.0).abs() < 0.01);
        let early = {
            let mut meter = Meter::default();
            for tenth in 0..16 {
                meter.add(start + tenth * SECOND_NS / 10, 12_500);
            }
            meter.mbit_s(start + 16 * SECOND_NS / 10)
        };
        assert!(one(early), "{early:?}");
        let late = meter.mbit_s(start + 100 * SECOND_NS / 10);
        assert!(one(late), "{late:?}");
        assert!(meter.seconds.len() <= 6);
        assert_eq!(meter.mbit_s(start + 30 * SECOND_NS), Some(0.0));
    }
}
