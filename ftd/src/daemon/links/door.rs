//! How fast strangers are let in. Each handshake costs the daemon's loop a fraction of a millisecond, and the
//! loop has a guest to serve: the rest wait in the kernel, where they cost nothing.

/// So many may come at once; the core takes no more at a time either.
const AT_ONCE: u64 = 16;
/// And one more each time so long has passed, in nanoseconds.
const EVERY: u64 = 50_000_000;

/// The door.
#[derive(Debug, Default)]
pub(super) struct Door {
    /// When all that were let in are made up for, by the monotonic clock.
    even_at: u64,
    /// Somebody may wait before it.
    waited_for: bool,
}

impl Door {
    /// Whether somebody may come in now. If not, it is waited for.
    pub(super) fn opens(&mut self, now: u64) -> bool {
        let opens = now >= self.free_at();
        if opens {
            self.even_at = self.even_at.max(now) + EVERY;
        }
        self.waited_for = !opens;
        opens
    }

    /// Nobody has come in: there was nobody.
    pub(super) fn nobody_waits(&mut self) {
        self.even_at -= EVERY;
    }

    /// When it opens again, if somebody may wait before it.
    pub(super) fn opens_at(&self) -> Option<u64> {
        self.waited_for.then(|| self.free_at())
    }

    fn free_at(&self) -> u64 {
        self.even_at.saturating_sub((AT_ONCE - 1) * EVERY)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_crowd_is_let_in_slowly_and_forgotten() {
        let mut door = Door::default();
        let start = 1_000 * EVERY;
        for _ in 0..AT_ONCE {
            assert!(door.opens(start));
        }
        assert!(!door.opens(start));
        assert_eq!(door.opens_at(), Some(start + EVERY));
        assert!(door.opens(start + EVERY));
        assert!(!door.opens(start + EVERY));
        // Whoever did not come counts for nothing.
        assert!(door.opens(start + 2 * EVERY));
        door.nobody_waits();
        assert!(door.opens(start + 2 * EVERY));
        let later = start + 100 * EVERY;
        let let_in = (0..100).filter(|_| door.opens(later)).count();
        assert_eq!(let_in as u64, AT_ONCE);
        assert!(door.opens_at().is_some());
        assert!(door.opens(later + 50 * EVERY));
        assert_eq!(door.opens_at(), None);
    }
}
