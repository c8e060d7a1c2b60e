// SPDX-License-Identifier: MIT OR Apache-2.0

//! Removes the usage of days that are older than the configured time.

use limiter_common::day::Day;

use super::{Store, StoreError};

impl Store {
    /// Removes the usage of all days before `today` except the last `keep` of them, and returns the
    /// number of removed rows of this host.
    ///
    /// The `keep` days are counted back from the last day before `today` that has usage, and not
    /// from yesterday. Otherwise, the whole history would be removed at once if the clock were set
    /// far ahead by mistake.
    ///
    /// # Errors
    /// Returns an error if SQLite fails.
    pub fn remove_usage_beyond(&self, today: Day, keep: u32) -> Result<usize, StoreError> {
        let before = [today.0, keep.saturating_sub(1)];
        self.execute(
            "DELETE FROM fleet_usage
             WHERE day < (SELECT max(day) FROM fleet_usage WHERE day < ?1) - ?2",
            before,
        )?;
        self.execute(
            "DELETE FROM usage WHERE day < (SELECT max(day) FROM usage WHERE day < ?1) - ?2",
            before,
        )
    }
}
