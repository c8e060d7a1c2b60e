//! What looks at a scope's counters, second by second, say of its pace.

use chrono::{DateTime, TimeDelta, Utc};
use limiter_common::{abi::ScopeState, day::DayCount};

use super::engine::day_of;
use crate::limits::Limits;

/// The least time over which a pace says something: looks come each second, and sometimes in between.
const LEAST: TimeDelta = TimeDelta::milliseconds(900);

/// Since when a limit has been used up.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Full {
    /// It was not when it was last looked at.
    #[default]
    Not,
    /// It was when it was looked at first.
    Always,
    /// Since then, to a second.
    Since(DateTime<Utc>),
}

impl Full {
    fn note(&mut self, full: bool, first: bool, now: DateTime<Utc>) {
        match (full, *self) {
            (false, _) => *self = Self::Not,
            (true, Self::Not) if first => *self = Self::Always,
            (true, Self::Not) => *self = Self::Since(now),
            (true, _) => {}
        }
    }

    /// Since when it has been, for one who finds it so at `now`; `None`: nobody knows.
    pub(super) fn since(self, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
        match self {
            Self::Not => Some(now),
            Self::Always => None,
            Self::Since(since) => Some(since),
        }
    }
}

/// Counts at one look.
#[derive(Debug, Clone, Copy)]
struct Sample {
    at: DateTime<Utc>,
    admitted: u64,
    refused: u64,
}

/// How fast a scope's requests come, and since when it has been over its limits.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Pace {
    last: Option<Sample>,
    /// Requests admitted in a second.
    pub(super) admitted: f64,
    /// Requests refused in a second.
    pub(super) refused: f64,
    pub(super) daily_quota: Full,
    pub(super) concurrency: Full,
    pub(super) connections: Full,
}

impl Pace {
    /// What a look at `now` finds.
    pub(super) fn note(&mut self, state: &ScopeState, limits: &Limits, now: DateTime<Utc>) {
        let first = self.last.is_none();
        let used = DayCount(state.day_count).on(day_of(now)).count();
        let full = |limit: Option<u64>, count| limit.is_some_and(|limit| count >= limit);
        self.daily_quota
            .note(full(limits.daily_quota, used), first, now);
        let concurrency = limits.concurrency.map(u64::from);
        self.concurrency
            .note(full(concurrency, state.in_flight), first, now);
        let connections = limits.connections.map(u64::from);
        self.connections
            .note(full(connections, state.connections), first, now);
        let sample = Sample {
            at: now,
            admitted: state.admitted,
            refused: state.refused.iter().sum(),
        };
        let Some(last) = self.last else {
            self.last = Some(sample);
            return;
        };
        let passed = now - last.at;
        if passed < LEAST && passed >= TimeDelta::zero() {
            return;
        }
        self.last = Some(sample);
        // A clock that was set says nothing of how much time has passed.
        let seconds = passed.as_seconds_f64();
        let in_a_second = |now: u64, then: u64| now.saturating_sub(then) as f64 / seconds;
        if seconds > 0.0 {
            self.admitted = in_a_second(sample.admitted, last.admitted);
            self.refused = in_a_second(sample.refused, last.refused);
        }
    }
}

#[cfg(test)]
mod tests {
    use limiter_common::day::Day;

    use super::*;

    fn at(ms: i64) -> DateTime<Utc> {
        DateTime::from_timestamp_millis(20_000 * 86_400_000 + ms).unwrap()
    }

    const LIMITS: Limits = Limits {
        daily_quota: Some(10),
        rate: None,
        burst: 1,
        concurrency: Some(2),
        connections: None,
    };

    fn state(used: u64, in_flight: u64, refused: u64) -> ScopeState {
        ScopeState {
            day_count: DayCount::new(Day(20_000), used).0,
            in_flight,
            admitted: used,
            refused: [refused, 0, 0, 0],
            ..ScopeState::default()
        }
    }

    #[test]
    fn a_pace_is_what_came_in_a_second() {
        let mut pace = Pace::default();
        pace.note(&state(100, 0, 0), &LIMITS, at(0));
        assert_eq!((pace.admitted, pace.refused), (0.0, 0.0));
        // Looks in between change nothing.
        pace.note(&state(150, 0, 0), &LIMITS, at(500));
        pace.note(&state(300, 0, 40), &LIMITS, at(2000));
        assert_eq!((pace.admitted, pace.refused), (100.0, 20.0));
        // The clock is set back.
        pace.note(&state(400, 0, 40), &LIMITS, at(-60_000));
        pace.note(&state(430, 0, 40), &LIMITS, at(-59_000));
        assert_eq!((pace.admitted, pace.refused), (30.0, 0.0));
    }

    #[test]
    fn since_when_a_limit_is_used_up_is_known_if_it_was_seen_to_begin() {
        let mut pace = Pace::default();
        pace.note(&state(3, 2, 0), &LIMITS, at(0));
        assert_eq!(pace.daily_quota, Full::Not);
        assert_eq!(pace.concurrency.since(at(5)), None);
        pace.note(&state(10, 1, 0), &LIMITS, at(1000));
        pace.note(&state(10, 2, 0), &LIMITS, at(2000));
        assert_eq!(pace.daily_quota.since(at(9000)), Some(at(1000)));
        assert_eq!(pace.concurrency.since(at(9000)), Some(at(2000)));
        assert_eq!(pace.connections, Full::Not);
        // The next day begins anew.
        pace.note(&state(10, 0, 0), &LIMITS, at(86_400_000));
        assert_eq!(pace.daily_quota, Full::Not);
    }
}
