// SPDX-License-Identifier: MIT OR Apache-2.0

//! Times of some rounds.

use std::time::Duration;

use limiter_tests::bench::quantile;
use serde_json::{Value, json};

/// The same time in several rounds, in ms.
pub struct Times(Vec<f64>);

impl Times {
    pub fn p50(&self) -> f64 {
        quantile(&self.0, 0.5)
    }

    pub fn max(&self) -> f64 {
        quantile(&self.0, 1.0)
    }

    pub fn json(&self) -> Value {
        json!({"rounds": self.0.len(), "p50_ms": self.p50(), "max_ms": self.max()})
    }

    /// Returns the line of a table.
    pub fn line(&self, name: &str) -> String {
        format!("{name:72} {:>8.1} {:>8.1}", self.p50(), self.max())
    }

    /// Returns the titles of the columns of [`Self::line`], for a table with the title `name`.
    pub fn titles(name: &str) -> String {
        format!("{name:72} {:>8} {:>8}", "p50 ms", "max ms")
    }
}

impl FromIterator<Duration> for Times {
    fn from_iter<I: IntoIterator<Item = Duration>>(times: I) -> Self {
        let mut times: Vec<f64> = times
            .into_iter()
            .map(|time| time.as_secs_f64() * 1_000.0)
            .collect();
        times.sort_unstable_by(f64::total_cmp);
        Self(times)
    }
}
