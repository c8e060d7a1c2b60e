// SPDX-License-Identifier: MIT OR Apache-2.0

//! Functions that wait for a condition, or that keep a test away from midnight UTC.

use std::{
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

const DAY: u64 = 86_400;

/// The longest time that an expected event may take on a busy machine. Only a failing test waits
/// this long.
pub const TIMEOUT: Duration = Duration::from_secs(60);

/// The interval after which a raw peer, which does not use the kernel's TCP, retransmits bytes that
/// have not been acknowledged.
pub const RETRY: Duration = Duration::from_millis(50);

/// The interval at which a condition is polled.
const POLL_INTERVAL: Duration = Duration::from_millis(10);

/// Returns the current time in seconds since the epoch.
pub fn unix_now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .expect("the clock is past 1970")
        .as_secs()
}

/// Returns the number of whole seconds until the next midnight UTC, from 1 to 86400.
pub fn seconds_to_midnight() -> u64 {
    DAY - unix_now() % DAY
}

/// Waits, if necessary, until no midnight UTC falls within the next `span`. All requests of a test
/// that then takes less than `span` are counted on the same day.
pub fn avoid_midnight(span: Duration) {
    let mut has_printed = false;
    while seconds_to_midnight() <= span.as_secs() + 1 {
        if !has_printed {
            println!("waiting for midnight UTC to pass");
            has_printed = true;
        }
        thread::sleep(Duration::from_millis(500));
    }
}

/// Waits until `condition` holds.
///
/// # Panics
/// Panics if the condition does not hold within [`TIMEOUT`].
#[track_caller]
pub fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    eventually_some(what, || condition().then_some(()));
}

/// Waits until `find` returns a value.
///
/// # Panics
/// Panics if `find` returns no value within [`TIMEOUT`].
#[track_caller]
pub fn eventually_some<T>(what: &str, mut find: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = find() {
            return found;
        }
        assert!(
            start.elapsed() < TIMEOUT,
            "still waiting after {TIMEOUT:?}: {what}"
        );
        thread::sleep(POLL_INTERVAL);
    }
}

/// The times before and after an action, in seconds since the epoch. A test uses them to check a
/// result that depends on the clock, because it cannot know when during the action the clock was
/// read.
#[derive(Debug, Clone, Copy)]
pub struct Span {
    pub before: u64,
    pub after: u64,
}

impl Span {
    /// Runs `action` and reads the clock before and after it.
    pub fn around<T>(action: impl FnOnce() -> T) -> (T, Self) {
        let before = unix_now();
        let result = action();
        let after = unix_now();
        (result, Self { before, after })
    }

    /// Returns whether the next midnight UTC is `seconds` away from some moment in this span. A
    /// difference of one second is allowed, because the times are rounded.
    pub fn leads_to_midnight(self, seconds: u64) -> bool {
        let left = |now: u64| DAY - now % DAY;
        (left(self.after).saturating_sub(1)..=left(self.before) + 1).contains(&seconds)
    }
}
