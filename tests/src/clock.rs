//! Waiting for what happens, and for midnight to be out of the way.

use std::{
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

const DAY: u64 = 86_400;

/// How long anything that must happen may take on a busy machine. It bounds a
/// failure; no test waits for it to pass.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Time after which a peer without a kernel sends again what was not acknowledged.
pub const RETRY: Duration = Duration::from_millis(50);

/// Time between two looks at a condition that offers no event to wait on.
const LOOK: Duration = Duration::from_millis(10);

/// Seconds since the epoch.
pub fn unix_now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .expect("the clock is past 1970")
        .as_secs()
}

/// Whole seconds until the next midnight UTC, 1 to 86400.
pub fn seconds_to_midnight() -> u64 {
    DAY - unix_now() % DAY
}

/// Returns only when the coming `span` holds no midnight UTC, so that a test
/// about one day's count sees one day.
pub fn avoid_midnight(span: Duration) {
    let mut told = false;
    while seconds_to_midnight() <= span.as_secs() + 1 {
        if !told {
            println!("waiting for midnight UTC to pass");
            told = true;
        }
        thread::sleep(Duration::from_millis(500));
    }
}

/// Waits until `condition` holds.
///
/// # Panics
/// When it does not hold within [`PATIENCE`].
#[track_caller]
pub fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    eventually_some(what, || condition().then_some(()));
}

/// Waits until `find` finds something.
///
/// # Panics
/// When nothing is found within [`PATIENCE`].
#[track_caller]
pub fn eventually_some<T>(what: &str, mut find: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = find() {
            return found;
        }
        assert!(
            start.elapsed() < PATIENCE,
            "still waiting after {PATIENCE:?}: {what}"
        );
        thread::sleep(LOOK);
    }
}

/// The times between which something happened, both in seconds since the
/// epoch, to check an answer that depends on the clock without racing it.
#[derive(Debug, Clone, Copy)]
pub struct Span {
    pub before: u64,
    pub after: u64,
}

impl Span {
    /// Runs `action` and notes the clock before and after it.
    pub fn around<T>(action: impl FnOnce() -> T) -> (T, Self) {
        let before = unix_now();
        let result = action();
        let after = unix_now();
        (result, Self { before, after })
    }

    /// Whether `seconds` leads from a moment of this span to the midnight UTC
    /// after it, a second's rounding up or down allowed.
    pub fn leads_to_midnight(self, seconds: u64) -> bool {
        let left = |now: u64| DAY - now % DAY;
        (left(self.after).saturating_sub(1)..=left(self.before) + 1).contains(&seconds)
    }
}
