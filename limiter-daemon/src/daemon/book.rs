//! A scope's books: what the kernel's counters say, told apart by UTC day.

use limiter_common::{
    abi::ScopeState,
    day::{Day, DayCount},
};

use crate::store::{DayUsage, Refusals, Seen};

/// What is known of one scope's day.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Book {
    /// What the counters said last.
    pub(super) seen: Seen,
    /// The day that `usage` is of.
    pub(super) day: Day,
    /// That day so far.
    pub(super) usage: DayUsage,
}

/// What a look at the counters found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Look {
    /// Whether anything is different from the last look.
    pub(super) changed: bool,
    /// The day that has ended since, with its final books.
    pub(super) closed: Option<(Day, DayUsage)>,
}

/// The counters as [`Seen`] keeps them.
pub(super) fn seen(state: &ScopeState) -> Seen {
    let word = DayCount(state.day_count);
    Seen {
        day: word.day(),
        used: word.count(),
        admitted: state.admitted,
        refused: Refusals::from_array(state.refused),
        would_refuse: Refusals::from_array(state.would_refuse),
    }
}

impl Book {
    /// A book that begins on `day` with what the store knows of it.
    pub(super) fn new(seen: Seen, day: Day, usage: DayUsage) -> Self {
        Self { seen, day, usage }
    }

    /// Looks at the counters on `today`.
    ///
    /// The kernel turns the day by itself, with the first request after midnight; the count of
    /// the old day is then gone from the word. It is worked out from the number of admitted
    /// requests, which never goes back: what was admitted since the last look and is not in the
    /// new day's count was of the old day. Refusals since the last look are taken for the old
    /// day's; with a look every second that is a second's worth at most.
    ///
    /// The kernel's word may stand at a day that is still to come, when the clock was set back:
    /// then that day is in force, and its books stay open.
    pub(super) fn look(&mut self, state: &ScopeState, today: Day) -> Look {
        let now = seen(state);
        let today = today.max(now.day);
        let refused = now.refused.since(self.seen.refused);
        let would_refuse = now.would_refuse.since(self.seen.would_refuse);
        let changed = now != self.seen || today != self.day;
        let mut closed = None;
        if today > self.day {
            let used = if now.day <= self.day {
                // No request has come since midnight: the word still tells the old day.
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
        Look { changed, closed }
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

    fn book(used: u64) -> Book {
        let state = state(MONDAY, used, used, 0);
        Book::new(
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
        let mut book = book(10);
        let look = book.look(&state(MONDAY, 12, 12, 3), MONDAY);
        assert_eq!(
            look,
            Look {
                changed: true,
                closed: None
            }
        );
        assert_eq!(book.usage.used, 12);
        assert_eq!(book.usage.refused.daily_quota, 3);
        assert!(!book.look(&state(MONDAY, 12, 12, 3), MONDAY).changed);
    }

    #[test]
    fn a_day_that_ends_quietly_is_closed_with_its_count() {
        let mut book = book(10);
        let look = book.look(&state(MONDAY, 11, 11, 0), TUESDAY);
        assert_eq!(
            look.closed,
            Some((
                MONDAY,
                DayUsage {
                    used: 11,
                    allowed: 11,
                    ..DayUsage::default()
                }
            ))
        );
        assert_eq!((book.day, book.usage.used), (TUESDAY, 0));
    }

    #[test]
    fn a_day_that_turned_between_two_looks_is_closed_to_the_request() {
        let mut book = book(10);
        // Five more on Monday, then three on Tuesday, and only then a look.
        let look = book.look(&state(TUESDAY, 3, 18, 0), TUESDAY);
        assert_eq!(
            look.closed,
            Some((
                MONDAY,
                DayUsage {
                    used: 15,
                    allowed: 15,
                    ..DayUsage::default()
                }
            ))
        );
        assert_eq!((book.day, book.usage.used), (TUESDAY, 3));
    }

    #[test]
    fn a_reset_does_not_come_back_as_the_old_days_count() {
        let mut book = book(10);
        book.look(&state(MONDAY, 0, 10, 0), MONDAY);
        let look = book.look(&state(TUESDAY, 1, 13, 0), TUESDAY);
        assert_eq!(
            look.closed,
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
        let mut book = book(10);
        book.look(&state(TUESDAY, 4, 14, 0), TUESDAY);
        let look = book.look(&state(TUESDAY, 5, 15, 0), MONDAY);
        assert_eq!(look.closed, None);
        assert_eq!((book.day, book.usage.used), (TUESDAY, 5));
    }

    #[test]
    fn counters_that_began_anew_count_from_zero() {
        let mut book = book(10);
        book.seen.refused.daily_quota = 100;
        book.look(&state(MONDAY, 10, 10, 2), MONDAY);
        assert_eq!(book.usage.refused.daily_quota, 2);
    }
}
