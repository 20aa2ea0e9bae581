//! Virtual nanoseconds to ticks of a clock and back, exactly and for any 64-bit time.

use crate::VirtualNs;

const NS_PER_SECOND: u64 = 1_000_000_000;

/// Whole ticks of a `hz` clock in `ns` nanoseconds.
pub(crate) fn ticks(ns: VirtualNs, hz: u64) -> u64 {
    // Split, because a 128-bit division is slow and the product may not fit 64 bits.
    let (seconds, rest) = (ns / NS_PER_SECOND, ns % NS_PER_SECOND);
    seconds * hz + rest * hz / NS_PER_SECOND
}

/// Nanoseconds after which `ticks` first reaches `count`; none beyond the end of time.
pub(crate) fn ns_of_tick(count: u64, hz: u64) -> Option<VirtualNs> {
    let (seconds, rest) = (count / hz, count % hz);
    seconds
        .checked_mul(NS_PER_SECOND)?
        .checked_add((rest * NS_PER_SECOND).div_ceil(hz))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_tick_starts_at_its_nanosecond(ns: u64, hz in 1u64..=1_000_000_000) {
            let count = ticks(ns, hz);
            prop_assert_eq!(u128::from(count), u128::from(ns) * u128::from(hz) / 1_000_000_000);
            let start = ns_of_tick(count, hz).unwrap();
            prop_assert!(start <= ns);
            prop_assert_eq!(ticks(start, hz), count);
            prop_assert!(start == 0 || ticks(start - 1, hz) < count || count == 0);
        }

        #[test]
        fn no_count_overflows(count: u64, hz in 1u64..=1_000_000_000) {
            let _ = ns_of_tick(count, hz);
        }
    }
}
