// SPDX-License-Identifier: MIT OR Apache-2.0

//! The requests that all hosts of a fleet have admitted on days that have ended.

use limiter_common::day::Day;
use rusqlite::params;

use super::{
    Store, StoreError,
    usage::{signed, unsigned},
};

impl Store {
    /// Returns the numbers of requests that all hosts have admitted on `day`, with the names of the
    /// scopes, as far as they are known.
    ///
    /// # Errors
    /// Returns an error if SQLite fails or the store is damaged.
    pub fn fleet_usage_on(&self, day: Day) -> Result<Vec<(String, u64)>, StoreError> {
        self.query(
            "SELECT scope, used FROM fleet_usage WHERE day = ?1",
            [day.0],
            |row| Ok((row.get(0)?, unsigned(row, 1)?)),
        )
    }

    /// Returns the number of requests of a scope that all hosts have admitted on `day`, or `None`
    /// if it is not known.
    ///
    /// # Errors
    /// Returns an error if SQLite fails or the store is damaged.
    pub fn fleet_usage_of(&self, scope: &str, day: Day) -> Result<Option<u64>, StoreError> {
        let mut rows = self.query(
            "SELECT used FROM fleet_usage WHERE day = ?1 AND scope = ?2",
            params![day.0, scope],
            |row| unsigned(row, 0),
        )?;
        Ok(rows.pop())
    }

    /// Stores the number of requests of a scope that all hosts have admitted on `day`, unless the
    /// store has a higher number.
    ///
    /// # Errors
    /// Returns an error if SQLite fails.
    pub fn raise_fleet_usage(&self, scope: &str, day: Day, used: u64) -> Result<(), StoreError> {
        self.execute(
            "INSERT INTO fleet_usage (day, scope, used) VALUES (?1, ?2, ?3)
             ON CONFLICT (day, scope) DO UPDATE SET used = max(used, ?3)",
            params![day.0, scope, signed(used)],
        )?;
        Ok(())
    }
}
