// SPDX-License-Identifier: MIT OR Apache-2.0

//! The usage of scopes by day, and the last readings of the kernel's counters.

use chrono::NaiveDate;
use limiter_common::day::Day;

use super::{Store, StoreError};
use crate::domain::refusals::Refusals;
use rusqlite::{Row, params};

/// The usage of one scope on one day.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DayUsage {
    /// The number of charged requests, including those in `lost`.
    pub used: u64,
    /// The count up to which the kernel programs admit requests before this usage is written again.
    pub allowed: u64,
    /// The number of requests in `used` that are counted only because a crash lost the exact count.
    pub lost: u64,
    /// The number of refused requests.
    pub refused: Refusals,
    /// The number of requests that would have been refused if the limits had been enforced.
    pub would_refuse: Refusals,
}

impl DayUsage {
    /// Returns whether there was no usage on the day.
    pub fn is_empty(&self) -> bool {
        self.used + self.lost + self.refused.total() + self.would_refuse.total() == 0
    }
}

/// The values of a scope's counters in the kernel when they were last read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CounterReading {
    /// The day in the scope's day-and-count word.
    pub day: Day,
    /// The count in the scope's day-and-count word.
    pub used: u64,
    /// The number of requests admitted since the map was created.
    pub admitted: u64,
    /// The number of requests refused since the map was created.
    pub refused: Refusals,
    /// The number of requests since the map was created that would have been refused if the limits
    /// had been enforced.
    pub would_refuse: Refusals,
}

/// Converts a count for SQLite, whose integers are signed. A count that does not fit is replaced by
/// the largest integer.
pub(super) fn signed(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

pub(super) fn unsigned(row: &Row<'_>, column: usize) -> rusqlite::Result<u64> {
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
    /// Returns the usage of all scopes on `day`, sorted by name.
    ///
    /// # Errors
    /// Returns an error if SQLite fails or the store is damaged.
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

    /// Returns the usage of one scope on `day`, or `None` if nothing is stored.
    ///
    /// # Errors
    /// Returns an error if SQLite fails or the store is damaged.
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

    /// Writes the usage of one scope on one day.
    ///
    /// # Errors
    /// Returns an error if SQLite fails.
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

    /// Returns the stored readings of counters in the kernel map `map`, each with the id of the
    /// scope to which the counters belong.
    ///
    /// # Errors
    /// Returns an error if SQLite fails or the store is damaged.
    pub fn seen(&self, map: &str) -> Result<Vec<(u32, CounterReading)>, StoreError> {
        self.query(
            &format!("SELECT scope, day, used, admitted, {REASONS} FROM seen WHERE map = ?1"),
            [map],
            |row| {
                let seen = CounterReading {
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

    /// Stores `seen`, which was read from the counters of `scope` in the kernel map `map`. It
    /// replaces an earlier reading of these counters.
    ///
    /// # Errors
    /// Returns an error if SQLite fails.
    pub fn set_seen(&self, scope: u32, map: &str, seen: &CounterReading) -> Result<(), StoreError> {
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

    /// Runs `work` in a transaction, without waiting until the transaction is on the disk. Use this
    /// function for changes whose loss does no harm, for example to the times at which keys were
    /// last used. The transaction survives a crash of the daemon, but a crash of the host or a
    /// power failure can undo the latest transactions of this kind.
    ///
    /// # Errors
    /// Returns the error of `work` or of the store.
    pub fn change_without_sync<T>(
        &mut self,
        work: impl FnOnce(&mut Self) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        self.execute_batch("PRAGMA synchronous = NORMAL")?;
        let result = self.change(work);
        self.execute_batch("PRAGMA synchronous = FULL")?;
        result
    }
}

/// Returns the calendar date of a day, or `None` for a day after the year 262142.
pub fn date_of(day: Day) -> Option<NaiveDate> {
    NaiveDate::from_ymd_opt(1970, 1, 1)?.checked_add_days(chrono::Days::new(u64::from(day.0)))
}
