// SPDX-License-Identifier: MIT OR Apache-2.0

//! The rate of a scope's requests, derived from its counters, which are read every second.

use chrono::{DateTime, TimeDelta, Utc};
use limiter_common::{abi::ScopeState, day::DayCount};

use crate::{domain::limits::Limits, engine::time::day_of};

/// The minimum time between two readings from which a pace is derived. The counters are read every
/// second, and sometimes more often.
const MIN_INTERVAL: TimeDelta = TimeDelta::milliseconds(900);

/// The time since which a limit has been used up.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Full {
    /// The limit was not used up at the last reading.
    #[default]
    Not,
    /// The limit has been used up since the first reading, so the time is unknown.
    Always,
    /// The limit has been used up since this time, with a precision of one second.
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

    /// Returns the time since which the limit has been used up, or `None` if the time is unknown.
    /// The caller must know that the limit is used up at `now`. If it was not used up at the last
    /// reading, the time is `now`.
    pub(crate) fn since(self, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
        match self {
            Self::Not => Some(now),
            Self::Always => None,
            Self::Since(since) => Some(since),
        }
    }
}

/// The counts at one reading.
#[derive(Debug, Clone, Copy)]
struct Sample {
    at: DateTime<Utc>,
    admitted: u64,
    refused: u64,
}

/// The rate of a scope's requests, and the times since which its limits have been used up.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Pace {
    last: Option<Sample>,
    /// The number of admitted requests per second.
    pub(crate) admitted: f64,
    /// The number of refused requests per second.
    pub(crate) refused: f64,
    pub(crate) daily_quota: Full,
    pub(crate) concurrency: Full,
    pub(crate) connections: Full,
}

impl Pace {
    /// Records a reading of the counters at `now`.
    pub(crate) fn note(&mut self, state: &ScopeState, limits: &Limits, now: DateTime<Utc>) {
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
        if passed < MIN_INTERVAL && passed >= TimeDelta::zero() {
            return;
        }
        self.last = Some(sample);
        // If the clock was set back, the time between the readings is unknown, and the pace does
        // not change.
        let seconds = passed.as_seconds_f64();
        let per_second = |now: u64, then: u64| now.saturating_sub(then) as f64 / seconds;
        if seconds > 0.0 {
            self.admitted = per_second(sample.admitted, last.admitted);
            self.refused = per_second(sample.refused, last.refused);
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
    fn a_pace_is_the_number_of_requests_per_second() {
        let mut pace = Pace::default();
        pace.note(&state(100, 0, 0), &LIMITS, at(0));
        assert_eq!((pace.admitted, pace.refused), (0.0, 0.0));
        // A reading less than 900 ms after the previous one does not change the pace.
        pace.note(&state(150, 0, 0), &LIMITS, at(500));
        pace.note(&state(300, 0, 40), &LIMITS, at(2000));
        assert_eq!((pace.admitted, pace.refused), (100.0, 20.0));
        // After the clock was set back, no pace can be derived until the second reading.
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
        // The next day begins with a count of zero.
        pace.note(&state(10, 0, 0), &LIMITS, at(86_400_000));
        assert_eq!(pace.daily_quota, Full::Not);
    }
}
