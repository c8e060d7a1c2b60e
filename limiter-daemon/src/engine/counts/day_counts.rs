// SPDX-License-Identifier: MIT OR Apache-2.0

//! The kernel's counters of a scope, divided among UTC days.

use limiter_common::{
    abi::ScopeState,
    day::{Day, DayCount},
};

use crate::{
    domain::refusals::Refusals,
    store::{CounterReading, DayUsage},
};

/// The counts of one scope on one day.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct DayCounts {
    /// The counters at the last reading.
    pub(crate) seen: CounterReading,
    /// The day of `usage`.
    pub(crate) day: Day,
    /// The usage of that day up to the last reading.
    pub(crate) usage: DayUsage,
}

/// The result of a reading of the counters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Reading {
    /// Whether anything has changed since the previous reading.
    pub(crate) changed: bool,
    /// The day that has ended since the previous reading, with its final usage.
    pub(crate) closed: Option<(Day, DayUsage)>,
}

/// Returns the counters in the form in which the store keeps them.
pub(crate) fn seen(state: &ScopeState) -> CounterReading {
    let word = DayCount(state.day_count);
    CounterReading {
        day: word.day(),
        used: word.count(),
        admitted: state.admitted,
        refused: Refusals::from_array(state.refused),
        would_refuse: Refusals::from_array(state.would_refuse),
    }
}

impl DayCounts {
    /// Returns counts that begin with `usage`, which is the usage of `day` in the store.
    pub(crate) fn new(seen: CounterReading, day: Day, usage: DayUsage) -> Self {
        Self { seen, day, usage }
    }

    /// Updates the counts from the counters in `state`, which were read on `today`.
    ///
    /// The kernel begins a new day by itself with the first request after midnight, and `day_count`
    /// then no longer has the count of the old day. That count is calculated from the number of
    /// admitted requests, which never decreases. Requests that were admitted since the last reading
    /// and are not in the count of the new day belong to the old day. All refusals since the last
    /// reading are counted for the old day. Since the counters are read every second, these are the
    /// refusals of at most one second.
    ///
    /// If the clock was set back, `day_count` may have the count of a future day. In that case, the
    /// counts are kept as those of that day, and the day is not closed until it has really ended.
    pub(crate) fn read(&mut self, state: &ScopeState, today: Day) -> Reading {
        let now = seen(state);
        let today = today.max(now.day);
        let refused = now.refused.since(self.seen.refused);
        let would_refuse = now.would_refuse.since(self.seen.would_refuse);
        let changed = now != self.seen || today != self.day;
        let mut closed = None;
        if today > self.day {
            let used = if now.day <= self.day {
                // No request has come since midnight. `day_count` has the count of the old day, or
                // of an earlier day if no request came on the old day either.
                if now.day == self.day {
                    now.used
                } else {
                    self.usage.used
                }
            } else {
                let admitted = now.admitted.saturating_sub(self.seen.admitted);
                self.usage
                    .used
                    .saturating_add(admitted.saturating_sub(now.used))
            };
            let old = DayUsage {
                used,
                allowed: used,
                lost: self.usage.lost,
                refused: self.usage.refused.plus(refused),
                would_refuse: self.usage.would_refuse.plus(would_refuse),
            };
            closed = Some((self.day, old));
            self.day = today;
            self.usage = DayUsage::default();
        } else {
            self.usage.refused = self.usage.refused.plus(refused);
            self.usage.would_refuse = self.usage.would_refuse.plus(would_refuse);
        }
        self.usage.used = if now.day == self.day { now.used } else { 0 };
        self.seen = now;
        Reading { changed, closed }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MONDAY: Day = Day(20_000);
    const TUESDAY: Day = Day(20_001);

    fn state(day: Day, used: u64, admitted: u64, refused: u64) -> ScopeState {
        ScopeState {
            day_count: DayCount::new(day, used).0,
            admitted,
            refused: [0, 0, 0, refused],
            ..ScopeState::default()
        }
    }

    fn counts(used: u64) -> DayCounts {
        let state = state(MONDAY, used, used, 0);
        DayCounts::new(
            seen(&state),
            MONDAY,
            DayUsage {
                used,
                ..DayUsage::default()
            },
        )
    }

    #[test]
    fn within_a_day_counts_follow_the_kernel() {
        let mut counts = counts(10);
        let reading = counts.read(&state(MONDAY, 12, 12, 3), MONDAY);
        assert_eq!(
            reading,
            Reading {
                changed: true,
                closed: None
            }
        );
        assert_eq!(counts.usage.used, 12);
        assert_eq!(counts.usage.refused.daily_quota, 3);
        assert!(!counts.read(&state(MONDAY, 12, 12, 3), MONDAY).changed);
    }

    #[test]
    fn a_day_that_ends_quietly_is_closed_with_its_count() {
        let mut counts = counts(10);
        let reading = counts.read(&state(MONDAY, 11, 11, 0), TUESDAY);
        assert_eq!(
            reading.closed,
            Some((
                MONDAY,
                DayUsage {
                    used: 11,
                    allowed: 11,
                    ..DayUsage::default()
                }
            ))
        );
        assert_eq!((counts.day, counts.usage.used), (TUESDAY, 0));
    }

    #[test]
    fn a_day_that_ended_between_two_readings_is_closed_exactly() {
        let mut counts = counts(10);
        // Five requests come on Monday and three on Tuesday before the next reading.
        let reading = counts.read(&state(TUESDAY, 3, 18, 0), TUESDAY);
        assert_eq!(
            reading.closed,
            Some((
                MONDAY,
                DayUsage {
                    used: 15,
                    allowed: 15,
                    ..DayUsage::default()
                }
            ))
        );
        assert_eq!((counts.day, counts.usage.used), (TUESDAY, 3));
    }

    #[test]
    fn a_reset_does_not_come_back_as_the_old_days_count() {
        let mut counts = counts(10);
        counts.read(&state(MONDAY, 0, 10, 0), MONDAY);
        let reading = counts.read(&state(TUESDAY, 1, 13, 0), TUESDAY);
        assert_eq!(
            reading.closed,
            Some((
                MONDAY,
                DayUsage {
                    used: 2,
                    allowed: 2,
                    ..DayUsage::default()
                }
            ))
        );
    }

    #[test]
    fn a_clock_set_back_keeps_the_later_day_open() {
        let mut counts = counts(10);
        counts.read(&state(TUESDAY, 4, 14, 0), TUESDAY);
        let reading = counts.read(&state(TUESDAY, 5, 15, 0), MONDAY);
        assert_eq!(reading.closed, None);
        assert_eq!((counts.day, counts.usage.used), (TUESDAY, 5));
    }

    #[test]
    fn counters_that_began_anew_count_from_zero() {
        let mut counts = counts(10);
        counts.seen.refused.daily_quota = 100;
        counts.read(&state(MONDAY, 10, 10, 2), MONDAY);
        assert_eq!(counts.usage.refused.daily_quota, 2);
    }
}
