//! Which share of RAM the digest of an epoch covers: as much as it takes for all of it to have its turn
//! within a given time.

use std::time::Duration;

use devices::layout::PAGE_BYTES;
use replay::RamShare;

/// A walk through RAM, over and over.
#[derive(Debug, Clone, Copy)]
pub struct RamCheck {
    /// Pages of RAM.
    total: u64,
    /// How long a round may take, in nanoseconds; 0 checks none.
    round_ns: u64,
    /// The page whose turn it is.
    next: u64,
    /// When the last share was taken, on the host's monotonic clock.
    last_ns: u64,
}

impl RamCheck {
    /// A walk through `ram_bytes` of RAM every `round`, from `now_ns` on.
    pub fn new(ram_bytes: u64, round: Duration, now_ns: u64) -> RamCheck {
        RamCheck {
            total: ram_bytes / PAGE_BYTES,
            round_ns: u64::try_from(round.as_nanos()).unwrap_or(u64::MAX),
            next: 0,
            last_ns: now_ns,
        }
    }

    /// The pages that are due at `now_ns`: the first one, and how many.
    pub fn share(&mut self, now_ns: u64) -> (u64, u32) {
        let passed = now_ns.saturating_sub(self.last_ns);
        if self.round_ns == 0 {
            return (0, 0);
        }
        let due = u128::from(self.total) * u128::from(passed) / u128::from(self.round_ns);
        let most = u64::from(RamShare::PAGES_MAX).min(self.total - self.next);
        let pages = u64::try_from(due).unwrap_or(u64::MAX).min(most);
        if pages == 0 {
            return (0, 0);
        }
        let first = self.next;
        self.next = (first + pages) % self.total;
        self.last_ns = now_ns;
        (first, pages as u32)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_page_has_its_turn_in_time() {
        let second = 1_000_000_000;
        let mut check = RamCheck::new(512 << 20, Duration::from_secs(60), 0);
        let mut seen = vec![0u32; (512 << 20) / 4096];
        let mut now = 0;
        // Epochs of very different lengths.
        while now < 62 * second {
            now += [1_000, 300_000, 5_000_000, 100_000_000][(now % 4) as usize] + 1;
            let (first, pages) = check.share(now);
            assert!(pages <= RamShare::PAGES_MAX);
            for page in first..first + u64::from(pages) {
                seen[page as usize] += 1;
            }
        }
        assert!(seen.iter().all(|times| (1..=2).contains(times)));
    }

    #[test]
    fn no_time_means_no_check() {
        let mut check = RamCheck::new(1 << 20, Duration::ZERO, 0);
        assert_eq!(check.share(u64::MAX), (0, 0));
    }
}
