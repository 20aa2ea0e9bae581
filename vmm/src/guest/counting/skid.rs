//! How late a counter's alarm comes: what is known of the processor, and what was seen on this host.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// The most branches by which the alarm comes late, as far as is known. Clones share what they learn, so that
/// the next copy of a guest knows it from the start.
#[derive(Debug, Clone)]
pub struct Skid(Arc<AtomicU64>);

impl Skid {
    /// So many branches.
    pub fn new(branches: u64) -> Skid {
        Skid(Arc::new(AtomicU64::new(branches)))
    }

    /// The most branches that the alarm is taken to come late.
    pub fn branches(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// The alarm, set early by `set_early` branches, came `beyond` branches behind the point: from here on twice
    /// what was seen is expected. The new value.
    pub fn exceeded(&self, set_early: u64, beyond: u64) -> u64 {
        let seen = set_early.saturating_add(beyond);
        let wider = seen.saturating_mul(2);
        self.0.fetch_max(wider, Ordering::Relaxed).max(wider)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_one_learns_all_know() {
        let skid = Skid::new(10);
        let other = skid.clone();
        assert_eq!(skid.exceeded(10, 90), 200);
        assert_eq!(other.branches(), 200);
        assert_eq!(other.exceeded(10, 1), 200, "it never shrinks");
    }
}
