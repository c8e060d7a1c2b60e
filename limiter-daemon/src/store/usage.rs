//! What scopes used, by day, and what the kernel's counters said last.

use chrono::NaiveDate;
use limiter_common::day::Day;
use rusqlite::{Row, params};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Store, StoreError};

/// Requests by the limit that refused them (or, in observe mode, would have).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Refusals {
    /// Faster than the rate.
    pub rate: u64,
    /// Too many in flight.
    pub concurrency: u64,
    /// Too many connections.
    pub connections: u64,
    /// Over the day's quota.
    pub daily_quota: u64,
}

impl Refusals {
    /// In the order of `limiter_common::abi::reason`.
    pub fn from_array([rate, concurrency, connections, daily_quota]: [u64; 4]) -> Self {
        Self {
            rate,
            concurrency,
            connections,
            daily_quota,
        }
    }

    /// These and `other`, limit by limit.
    pub fn plus(self, other: Self) -> Self {
        Self {
            rate: self.rate.saturating_add(other.rate),
            concurrency: self.concurrency.saturating_add(other.concurrency),
            connections: self.connections.saturating_add(other.connections),
            daily_quota: self.daily_quota.saturating_add(other.daily_quota),
        }
    }

    /// What came since `earlier`; a counter that went back counts as new.
    pub fn since(self, earlier: Self) -> Self {
        let since = |now: u64, then: u64| now.checked_sub(then).unwrap_or(now);
        Self {
            rate: since(self.rate, earlier.rate),
            concurrency: since(self.concurrency, earlier.concurrency),
            connections: since(self.connections, earlier.connections),
            daily_quota: since(self.daily_quota, earlier.daily_quota),
        }
    }

    /// All of them together.
    pub fn total(self) -> u64 {
        self.rate + self.concurrency + self.connections + self.daily_quota
    }
}

/// A scope's day.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DayUsage {
    /// Requests charged, and those that are counted as such.
    pub used: u64,
    /// What `used` may come to before this is written again.
    pub allowed: u64,
    /// How much of `used` is counted only since a crash hid whether it was used.
    pub lost: u64,
    /// Requests refused.
    pub refused: Refusals,
    /// Requests that enforcement would have refused.
    pub would_refuse: Refusals,
}

impl DayUsage {
    /// Whether nothing happened on that day.
    pub fn is_nothing(&self) -> bool {
        self.used + self.lost + self.refused.total() + self.would_refuse.total() == 0
    }
}

/// What a scope's counters said when they were last looked at.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Seen {
    /// The day of the day-and-count word.
    pub day: Day,
    /// The count of the day-and-count word.
    pub used: u64,
    /// Requests admitted since the map was made.
    pub admitted: u64,
    /// Requests refused since the map was made.
    pub refused: Refusals,
    /// Requests that would have been refused since the map was made.
    pub would_refuse: Refusals,
}

/// SQLite's integers have a sign; counts that do not fit stand at the largest that does.
fn signed(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

fn unsigned(row: &Row<'_>, column: usize) -> rusqlite::Result<u64> {
    row.get::<_, i64>(column)
        .map(|count| u64::try_from(count).unwrap_or(0))
}

fn refusals(row: &Row<'_>, first: usize) -> rusqlite::Result<Refusals> {
    Ok(Refusals {
        rate: unsigned(row, first)?,
        concurrency: unsigned(row, first + 1)?,
        connections: unsigned(row, first + 2)?,
        daily_quota: unsigned(row, first + 3)?,
    })
}

const REASONS: &str = "refused_rate, refused_concurrency, refused_connections, refused_daily_quota,
     would_refuse_rate, would_refuse_concurrency, would_refuse_connections, would_refuse_daily_quota";

impl Store {
    /// The usage of all scopes on `day`, by name.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn usage_on(&self, day: Day) -> Result<Vec<(String, DayUsage)>, StoreError> {
        self.query(
            &format!("SELECT scope, used, allowed, lost, {REASONS} FROM usage WHERE day = ?1 ORDER BY scope"),
            [day.0],
            |row| {
                let usage = DayUsage {
                    used: unsigned(row, 1)?,
                    allowed: unsigned(row, 2)?,
                    lost: unsigned(row, 3)?,
                    refused: refusals(row, 4)?,
                    would_refuse: refusals(row, 8)?,
                };
                Ok((row.get(0)?, usage))
            },
        )
    }

    /// One scope's usage on `day`, if it had any.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn usage_of(&self, scope: &str, day: Day) -> Result<Option<DayUsage>, StoreError> {
        let mut rows = self.query(
            &format!(
                "SELECT used, allowed, lost, {REASONS} FROM usage WHERE scope = ?1 AND day = ?2"
            ),
            params![scope, day.0],
            |row| {
                Ok(DayUsage {
                    used: unsigned(row, 0)?,
                    allowed: unsigned(row, 1)?,
                    lost: unsigned(row, 2)?,
                    refused: refusals(row, 3)?,
                    would_refuse: refusals(row, 7)?,
                })
            },
        )?;
        Ok(rows.pop())
    }

    /// Writes one scope's day.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn set_usage(&self, scope: &str, day: Day, usage: &DayUsage) -> Result<(), StoreError> {
        let (refused, would) = (usage.refused, usage.would_refuse);
        self.execute(
            &format!(
                "INSERT OR REPLACE INTO usage (scope, day, used, allowed, lost, {REASONS})
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13)"
            ),
            params![
                scope,
                day.0,
                signed(usage.used),
                signed(usage.allowed),
                signed(usage.lost),
                signed(refused.rate),
                signed(refused.concurrency),
                signed(refused.connections),
                signed(refused.daily_quota),
                signed(would.rate),
                signed(would.concurrency),
                signed(would.connections),
                signed(would.daily_quota),
            ],
        )?;
        Ok(())
    }

    /// What all counters of the kernel map `map` said last, by scope id.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn seen(&self, map: &str) -> Result<Vec<(u32, Seen)>, StoreError> {
        self.query(
            &format!("SELECT scope, day, used, admitted, {REASONS} FROM seen WHERE map = ?1"),
            [map],
            |row| {
                let seen = Seen {
                    day: Day(row.get(1)?),
                    used: unsigned(row, 2)?,
                    admitted: unsigned(row, 3)?,
                    refused: refusals(row, 4)?,
                    would_refuse: refusals(row, 8)?,
                };
                Ok((row.get(0)?, seen))
            },
        )
    }

    /// Remembers what a scope's counters in the kernel map `map` said.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn set_seen(&self, scope: u32, map: &str, seen: &Seen) -> Result<(), StoreError> {
        let (refused, would) = (seen.refused, seen.would_refuse);
        self.execute(
            &format!(
                "INSERT OR REPLACE INTO seen (scope, map, day, used, admitted, {REASONS})
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13)"
            ),
            params![
                scope,
                map,
                seen.day.0,
                signed(seen.used),
                signed(seen.admitted),
                signed(refused.rate),
                signed(refused.concurrency),
                signed(refused.connections),
                signed(refused.daily_quota),
                signed(would.rate),
                signed(would.concurrency),
                signed(would.connections),
                signed(would.daily_quota),
            ],
        )?;
        Ok(())
    }

    /// Makes the transactions of `work` cheap: they survive a crash of the daemon, but a power
    /// cut may lose the last of them. For usage, which comes every second.
    ///
    /// # Errors
    /// Whatever `work` returns.
    pub fn lightly<T>(
        &mut self,
        work: impl FnOnce(&mut Self) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        self.execute_batch("PRAGMA synchronous = NORMAL")?;
        let result = self.change(work);
        self.execute_batch("PRAGMA synchronous = FULL")?;
        result
    }
}

/// The calendar date of a day; `None` past the year 262142.
pub fn date_of(day: Day) -> Option<NaiveDate> {
    NaiveDate::from_ymd_opt(1970, 1, 1)?.checked_add_days(chrono::Days::new(u64::from(day.0)))
}
