// SPDX-License-Identifier: MIT OR Apache-2.0

//! The generic cell rate algorithm (ITU-T I.371, annex A.1.1, virtual scheduling) on one 64-bit
//! word.
//!
//! The word is the theoretical arrival time (TAT) of the next request, in nanoseconds on the boot
//! clock. This module contains only the arithmetic. The caller replaces the word atomically.

/// A rate limit of one request per `interval_ns`. Up to `tolerance_ns` of unused time can be saved
/// up for bursts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// The interval between two requests at the full rate, in ns; 0 for no limit.
    pub interval_ns: u64,
    /// The maximum time by which a request may be ahead of the schedule, in ns: `(burst - 1) *
    /// interval_ns`.
    pub tolerance_ns: u64,
}

impl Rate {
    /// Returns a rate of `requests` per `period_ns`, with at most `burst` requests at once.
    ///
    /// The interval is rounded up to the next nanosecond. Therefore the rate is never exceeded.
    /// With a burst of 1, two admitted requests are at least an interval apart. Returns `None` if
    /// one of the arguments is 0, or if the duration of `burst` intervals in ns does not fit in 63
    /// bits (292 years).
    #[must_use]
    pub const fn new(requests: u64, period_ns: u64, burst: u64) -> Option<Self> {
        if requests == 0 || period_ns == 0 || burst == 0 {
            return None;
        }
        let interval_ns = period_ns.div_ceil(requests);
        match interval_ns.checked_mul(burst) {
            Some(all) if all <= i64::MAX as u64 => Some(Self {
                interval_ns,
                tolerance_ns: all - interval_ns,
            }),
            _ => None,
        }
    }

    /// Judges a request at `now_ns`. Returns the new TAT if the request conforms, and otherwise how
    /// long it would have to wait to conform, in ns.
    #[inline(always)]
    pub const fn judge(self, tat_ns: u64, now_ns: u64) -> Result<u64, u64> {
        let due = if tat_ns > now_ns { tat_ns } else { now_ns };
        let ahead = due - now_ns;
        if ahead > self.tolerance_ns {
            Err(ahead - self.tolerance_ns)
        } else {
            Ok(due + self.interval_ns)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MS: u64 = 1_000_000;

    #[test]
    fn one_a_millisecond_keeps_a_millisecond_between_two() {
        let rate = Rate::new(1, MS, 1).unwrap();
        let tat = rate.judge(0, 10 * MS).unwrap();
        assert_eq!(rate.judge(tat, 10 * MS), Err(MS));
        assert_eq!(rate.judge(tat, 11 * MS - 1), Err(1));
        assert_eq!(rate.judge(tat, 11 * MS), Ok(12 * MS));
    }

    #[test]
    fn a_rate_without_a_finite_interval_is_none() {
        assert_eq!(Rate::new(0, MS, 1), None);
        assert_eq!(Rate::new(1, 0, 1), None);
        assert_eq!(Rate::new(1, MS, 0), None);
        assert_eq!(Rate::new(1, u64::MAX, 2), None);
    }

    proptest! {
        /// For any arrival times, no period contains more admitted requests than the rate allows:
        /// the k-th request after an admitted one is at least (k - (burst - 1)) intervals later.
        #[test]
        fn never_faster_than_the_rate(
            requests in 1u64..50,
            period in 1u64..10 * MS,
            burst in 1u64..20,
            gaps in prop::collection::vec(0u64..2 * MS, 1..200),
        ) {
            let rate = Rate::new(requests, period, burst).unwrap();
            let (mut now, mut tat, mut admitted) = (1u64, 0u64, Vec::new());
            for gap in gaps {
                now += gap;
                if let Ok(next) = rate.judge(tat, now) {
                    tat = next;
                    admitted.push(now);
                }
            }
            for (i, first) in admitted.iter().enumerate() {
                for (k, later) in admitted[i..].iter().enumerate() {
                    let over = (k as u64).saturating_sub(burst - 1);
                    prop_assert!(later - first >= over * rate.interval_ns);
                }
            }
        }

        #[test]
        fn the_promised_wait_is_exact(
            tat in 0u64..1 << 60,
            now in 0u64..1 << 60,
            burst in 1u64..9,
        ) {
            let rate = Rate::new(1, MS, burst).unwrap();
            if let Err(wait) = rate.judge(tat, now) {
                prop_assert!(wait > 0);
                prop_assert!(rate.judge(tat, now + wait).is_ok());
                prop_assert!(rate.judge(tat, now + wait - 1).is_err());
            }
        }
    }
}
