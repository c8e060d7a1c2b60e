// SPDX-License-Identifier: MIT OR Apache-2.0

//! A UTC day and the number of requests in it, in one 64-bit word that is updated atomically.
//!
//! The word has the day (days since 1970-01-01, UTC) in its upper 24 bits and the count in its
//! lower 40. A request is charged with one compare-and-swap. Therefore the first request after
//! midnight UTC begins the new day in the same step in which it is counted, even if no daemon is
//! running.

/// The number of nanoseconds in a UTC day. POSIX time does not count leap seconds, so all days have
/// the same length.
pub const DAY_NS: u64 = 86_400 * 1_000_000_000;

/// The number of bits of the word that hold the count.
const COUNT_BITS: u32 = 40;

/// The largest count that the word can hold, which is also the largest daily quota.
pub const MAX_COUNT: u64 = (1 << COUNT_BITS) - 1;

/// A UTC day, as the number of days since 1970-01-01.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Day(pub u32);

impl Day {
    /// Returns the day that contains `utc_ns`, a time in nanoseconds since the Unix epoch.
    #[inline(always)]
    #[must_use]
    pub const fn at(utc_ns: u64) -> Self {
        Self((utc_ns / DAY_NS) as u32)
    }
}

/// Returns the number of seconds from `utc_ns`, a time in nanoseconds since the Unix epoch, to the
/// next midnight UTC. The number is rounded up, and is 1 to 86,400.
#[inline(always)]
#[must_use]
pub const fn seconds_to_midnight(utc_ns: u64) -> u64 {
    (DAY_NS - utc_ns % DAY_NS).div_ceil(1_000_000_000)
}

/// A day and the number of requests that have been counted in it.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DayCount(pub u64);

impl DayCount {
    /// Returns the word for `count` requests in `day`. A count beyond [`MAX_COUNT`] becomes
    /// [`MAX_COUNT`].
    #[inline(always)]
    #[must_use]
    pub const fn new(day: Day, count: u64) -> Self {
        let count = if count > MAX_COUNT { MAX_COUNT } else { count };
        Self(((day.0 as u64) << COUNT_BITS) | count)
    }

    /// Returns the day whose requests are counted.
    #[inline(always)]
    #[must_use]
    pub const fn day(self) -> Day {
        Day((self.0 >> COUNT_BITS) as u32)
    }

    /// Returns the number of requests in [`Self::day`].
    #[inline(always)]
    #[must_use]
    pub const fn count(self) -> u64 {
        self.0 & MAX_COUNT
    }

    /// Returns the word as it applies on `today`. A day that has passed is replaced by `today` with
    /// a count of 0. If the day of the word is later than `today`, because the clock has been set
    /// back, the word is not changed. Therefore no day begins twice.
    #[inline(always)]
    #[must_use]
    pub const fn on(self, today: Day) -> Self {
        if self.day().0 < today.0 {
            Self::new(today, 0)
        } else {
            self
        }
    }

    /// Returns the word with one more request.
    #[inline(always)]
    #[must_use]
    pub const fn charged(self) -> Self {
        Self::new(self.day(), self.count() + 1)
    }

    /// Returns the word with one request fewer, if `day` is the day of the word and the count is
    /// not 0.
    #[inline(always)]
    #[must_use]
    pub const fn returned(self, day: Day) -> Self {
        if self.day().0 == day.0 && self.count() > 0 {
            Self(self.0 - 1)
        } else {
            self
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn midnight_opens_a_new_day() {
        let last = DAY_NS - 1;
        assert_eq!(Day::at(last), Day(0));
        assert_eq!(Day::at(DAY_NS), Day(1));
        let yesterday = DayCount::new(Day(0), 1000);
        assert_eq!(yesterday.on(Day::at(last)).count(), 1000);
        assert_eq!(yesterday.on(Day::at(DAY_NS)), DayCount::new(Day(1), 0));
    }

    #[test]
    fn a_clock_set_back_does_not_reopen_a_day() {
        let today = DayCount::new(Day(20_000), 7);
        assert_eq!(today.on(Day(19_999)), today);
    }

    #[test]
    fn a_repeated_leap_second_counts_in_the_new_day() {
        let midnight = 20_000 * DAY_NS;
        let tenth = DAY_NS / 864_000;
        // The test charges ten requests per second. The request at midnight begins the new day.
        // Then the clock is set back to insert a leap second, and repeats the last second of the
        // old day (`STA_INS` in clock_adjtime(2)). The requests in the repeated second belong to
        // the new day.
        let before = (1..=20).rev().map(|tenths| midnight - tenths * tenth);
        let after = [0]
            .into_iter()
            .chain((1..=10).rev())
            .map(|tenths| midnight - tenths * tenth);
        let later = (0..20).map(|tenths| midnight + tenths * tenth);
        let mut word = DayCount::default();
        let mut of_the_old = 0;
        for now in before.chain(after).chain(later) {
            word = word.on(Day::at(now)).charged();
            of_the_old = of_the_old.max(if word.day() == Day(19_999) {
                word.count()
            } else {
                0
            });
        }
        assert_eq!(of_the_old, 20);
        assert_eq!(word, DayCount::new(Day(20_000), 31));
    }

    #[test]
    fn seconds_to_midnight_are_rounded_up() {
        assert_eq!(seconds_to_midnight(0), 86_400);
        assert_eq!(seconds_to_midnight(1), 86_400);
        assert_eq!(seconds_to_midnight(1_000_000_000), 86_399);
        assert_eq!(seconds_to_midnight(DAY_NS - 1), 1);
    }

    #[test]
    fn a_count_never_spills_into_the_day() {
        let full = DayCount::new(Day(3), MAX_COUNT);
        assert_eq!(full.charged(), full);
    }

    proptest! {
        #[test]
        fn day_and_count_come_back(day in 0u32..1 << 24, count in 0u64..=MAX_COUNT) {
            let word = DayCount::new(Day(day), count);
            prop_assert_eq!((word.day(), word.count()), (Day(day), count));
        }

        /// Even if the clock jumps forwards or backwards, no more requests are charged to a day
        /// than the quota allows, and no day begins twice.
        #[test]
        fn no_clock_grants_a_day_twice(
            seconds in proptest::collection::vec(-200_000i64..=200_000, 1..200),
            quota in 1u64..20,
        ) {
            let mut word = DayCount::default();
            let mut charged = std::collections::BTreeMap::new();
            for second in seconds {
                let utc_ns = u64::try_from(1_000_000 + second).unwrap() * 1_000_000_000;
                let now = word.on(Day::at(utc_ns));
                prop_assert!(now.day() >= word.day());
                if now.count() < quota {
                    word = now.charged();
                    *charged.entry(word.day()).or_insert(0) += 1;
                }
            }
            prop_assert!(charged.values().all(|count| *count <= quota), "{charged:?}");
        }

        #[test]
        fn a_returned_charge_leaves_no_trace(day in 0u32..1 << 24, count in 0u64..MAX_COUNT) {
            let word = DayCount::new(Day(day), count);
            prop_assert_eq!(word.charged().returned(Day(day)), word);
            prop_assert_eq!(word.charged().returned(Day(day + 1)), word.charged());
        }
    }
}
