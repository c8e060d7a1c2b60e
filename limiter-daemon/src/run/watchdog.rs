// SPDX-License-Identifier: MIT OR Apache-2.0

//! Keep-alive messages for the service manager's watchdog, sent only while the recurring tasks make
//! progress.
//!
//! A message means that each recurring task has done at least one round since the previous message,
//! and that no task has ended. The service manager therefore notices and restarts a daemon that
//! runs but no longer enforces limits.

use std::{env, process, sync::Arc, time::Duration};

use tokio::{task::AbortHandle, time::MissedTickBehavior};

use super::notify::notify;
use crate::engine::{pulse::PulseReading, shared::Shared};

/// The number of times per timeout of the service manager at which progress is checked and, if
/// there is any, a message is sent. One check may find no progress, because a round of a recurring
/// task may take longer than the interval between two checks.
const ATTEMPTS: u32 = 4;

/// Returns the time that the service manager waits for a message, or `None` if it expects none from
/// this process (`WATCHDOG_USEC` and `WATCHDOG_PID` of sd_watchdog_enabled(3)).
pub(crate) fn timeout() -> Option<Duration> {
    let number = |name: &str| env::var(name).ok()?.parse::<u64>().ok();
    timeout_of(
        number("WATCHDOG_USEC"),
        env::var_os("WATCHDOG_PID").map(|_| number("WATCHDOG_PID")),
        process::id(),
    )
}

/// Returns the timeout for the process `own`. `pid` is `None` if `WATCHDOG_PID` is not set, and
/// `Some(None)` if its value is not a number.
fn timeout_of(usec: Option<u64>, pid: Option<Option<u64>>, own: u32) -> Option<Duration> {
    let is_for_this_process = pid.is_none_or(|pid| pid == Some(u64::from(own)));
    usec.filter(|&usec| is_for_this_process && usec > 0)
        .map(Duration::from_micros)
}

/// Sends messages as long as the daemon runs and makes progress.
pub(crate) async fn watch(shared: Arc<Shared>, timeout: Duration, tasks: Vec<AbortHandle>) {
    let mut tries = tokio::time::interval(timeout / ATTEMPTS);
    tries.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut before = PulseReading::default();
    loop {
        tries.tick().await;
        let now = shared.pulse.now();
        if now.is_alive_after(&before) && !tasks.iter().any(AbortHandle::is_finished) {
            notify("WATCHDOG=1");
            before = now;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_sent_only_by_the_process_that_is_meant() {
        let second = Some(Duration::from_secs(1));
        assert_eq!(timeout_of(Some(1_000_000), None, 7), second);
        assert_eq!(timeout_of(Some(1_000_000), Some(Some(7)), 7), second);
        assert_eq!(timeout_of(Some(1_000_000), Some(Some(8)), 7), None);
        assert_eq!(timeout_of(Some(1_000_000), Some(None), 7), None);
        assert_eq!(timeout_of(Some(0), None, 7), None);
        assert_eq!(timeout_of(None, Some(Some(7)), 7), None);
    }
}
