// SPDX-License-Identifier: MIT OR Apache-2.0

//! Removes the usage of days that are older than the configured time.

use limiter_common::day::Day;

use super::{Store, StoreError};

impl Store {
    /// Removes the usage of all days before `today` except the last `keep` of them, and returns the
    /// number of removed rows.
    ///
    /// The `keep` days end with the last day before `today` that has usage, rather than with
    /// yesterday. If the clock is set far ahead by mistake, the history is therefore not removed at
    /// once.
    ///
    /// # Errors
    /// Returns an error if SQLite fails.
    pub fn remove_usage_beyond(&self, today: Day, keep: u32) -> Result<usize, StoreError> {
        self.execute(
            "DELETE FROM usage WHERE day < (SELECT max(day) FROM usage WHERE day < ?1) - ?2",
            [today.0, keep.saturating_sub(1)],
        )
    }
}
