//! Usage of past days: kept for a time.

use limiter_common::day::Day;

use super::{Store, StoreError};

impl Store {
    /// Removes the usage of days that are not among the last `keep` before `today`; how many
    /// rows that were.
    ///
    /// The last day on record before today stands in for today: where the clock is set far ahead
    /// by mistake, the next look must not take all history for old.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn remove_usage_beyond(&self, today: Day, keep: u32) -> Result<usize, StoreError> {
        self.execute(
            "DELETE FROM usage WHERE day < (SELECT max(day) FROM usage WHERE day < ?1) - ?2",
            [today.0, keep.saturating_sub(1)],
        )
    }
}
