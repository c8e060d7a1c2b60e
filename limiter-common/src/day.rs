//! A UTC day and the requests counted in it, in one word that is swapped atomically.
//!
//! The word holds the day (days since 1970-01-01, UTC) in its upper 24 bits and the count in its
//! lower 40. Charging is one compare-and-swap, so the first request after midnight UTC begins the
//! new day in the same step that counts it, whether a daemon runs or not.

/// Nanoseconds in a UTC day. UTC days as POSIX counts them have no leap seconds.
pub const DAY_NS: u64 = 86_400 * 1_000_000_000;

/// Bits of the word that hold the count.
const COUNT_BITS: u32 = 40;

/// The largest count, and with it the largest daily quota, that the word can hold.
pub const MAX_COUNT: u64 = (1 << COUNT_BITS) - 1;

/// A UTC day: days since 1970-01-01.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Day(pub u32);

impl Day {
    /// The day that holds a moment given in nanoseconds since the Unix epoch.
    #[inline(always)]
    #[must_use]
    pub const fn at(utc_ns: u64) -> Self {
        Self((utc_ns / DAY_NS) as u32)
    }
}

/// Whole seconds from a moment (nanoseconds since the Unix epoch) until the next midnight UTC,
/// rounded up: 1 to 86,400.
#[inline(always)]
#[must_use]
pub const fn seconds_to_midnight(utc_ns: u64) -> u64 {
    (DAY_NS - utc_ns % DAY_NS).div_ceil(1_000_000_000)
}

/// A day and the requests counted in it.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DayCount(pub u64);

impl DayCount {
    /// `count` requests in `day`; a count beyond [`MAX_COUNT`] is held at it.
    #[inline(always)]
    #[must_use]
    pub const fn new(day: Day, count: u64) -> Self {
        let count = if count > MAX_COUNT { MAX_COUNT } else { count };
        Self(((day.0 as u64) << COUNT_BITS) | count)
    }

    /// The day that is counted.
    #[inline(always)]
    #[must_use]
    pub const fn day(self) -> Day {
        Day((self.0 >> COUNT_BITS) as u32)
    }

    /// The requests counted in [`Self::day`].
    #[inline(always)]
    #[must_use]
    pub const fn count(self) -> u64 {
        self.0 & MAX_COUNT
    }

    /// The word as it stands on `today`: a day that has passed counts nothing any more, while a
    /// day that lies ahead (the clock was set back) stays in force, so that no day opens twice.
    #[inline(always)]
    #[must_use]
    pub const fn on(self, today: Day) -> Self {
        if self.day().0 < today.0 {
            Self::new(today, 0)
        } else {
            self
        }
    }

    /// One request more.
    #[inline(always)]
    #[must_use]
    pub const fn charged(self) -> Self {
        Self::new(self.day(), self.count() + 1)
    }

    /// One request less, if that was counted in `day` and there is one.
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
    fn a_leap_second_that_is_stepped_belongs_to_the_day_that_has_begun() {
        let midnight = 20_000 * DAY_NS;
        let tenth = DAY_NS / 864_000;
        // Ten requests a second. At midnight the last second of the day comes again (clock_adjtime(2),
        // `STA_INS`, as POSIX counts).
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

        /// Whatever the clock does in between (steps, leap seconds that come twice): of no day is more
        /// charged than its quota, and none comes again.
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
