// SPDX-License-Identifier: MIT OR Apache-2.0

//! The leases of daily quotas that this host shares with other hosts.

use limiter_common::day::Day;
use rusqlite::params;

use super::{
    Store, StoreError,
    usage::{signed, unsigned},
};

impl Store {
    /// Returns the number of requests that this host may admit for a scope on a day, or 0 if it has
    /// no lease.
    ///
    /// # Errors
    /// Returns an error if SQLite fails or the store is damaged.
    pub fn lease_of(&self, scope: &str, day: Day) -> Result<u64, StoreError> {
        let mut rows = self.query(
            "SELECT lease FROM leases WHERE scope = ?1 AND day = ?2",
            params![scope, day.0],
            |row| unsigned(row, 0),
        )?;
        Ok(rows.pop().unwrap_or(0))
    }

    /// Stores the number of requests that this host may admit for a scope on a day.
    ///
    /// # Errors
    /// Returns an error if SQLite fails.
    pub fn set_lease(&self, scope: &str, day: Day, lease: u64) -> Result<(), StoreError> {
        self.execute(
            "INSERT OR REPLACE INTO leases (scope, day, lease) VALUES (?1, ?2, ?3)",
            params![scope, day.0, signed(lease)],
        )?;
        Ok(())
    }

    /// Removes the leases of the days before `day`.
    ///
    /// # Errors
    /// Returns an error if SQLite fails.
    pub fn remove_leases_before(&self, day: Day) -> Result<(), StoreError> {
        self.execute("DELETE FROM leases WHERE day < ?1", [day.0])?;
        Ok(())
    }
}
