//! Life signs for the service manager's watchdog, sent only while the daemon's rounds go round.
//!
//! A sign says: since the last one, each of the rounds was done once more, and no task has ended. So a
//! daemon that still runs but no longer keeps the limits is found out, and started anew.

use std::{
    env, process,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::{task::AbortHandle, time::MissedTickBehavior};

use super::{Shared, notify};

/// How often within the manager's patience a sign is tried for: a round may take some of these.
const TRIES: u32 = 4;

/// What comes round as long as the daemon is well.
#[derive(Debug, Clone, Copy)]
pub(super) enum Round {
    /// The clock is published.
    Clock,
    /// Counts are written, and what else the engine does every second.
    Counts,
    /// What is to be healed was looked for, or was not due.
    Healing,
}

/// How often each round was done. A file of keys that is being imported holds the engine for seconds,
/// and is told apart from one that hangs by its own steps.
#[derive(Debug, Default)]
pub(super) struct Pulse {
    rounds: [AtomicU64; 3],
    steps: AtomicU64,
}

impl Pulse {
    /// A round was done.
    pub(super) fn beat(&self, round: Round) {
        self.rounds[round as usize].fetch_add(1, Relaxed);
    }

    /// A long piece of work, which the rounds have to wait for, got on.
    pub(super) fn step(&self) {
        self.steps.fetch_add(1, Relaxed);
    }

    fn now(&self) -> Seen {
        Seen {
            rounds: self.rounds.each_ref().map(|round| round.load(Relaxed)),
            steps: self.steps.load(Relaxed),
        }
    }
}

/// A [`Pulse`] at one time.
#[derive(Debug, Clone, Copy, Default)]
struct Seen {
    rounds: [u64; 3],
    steps: u64,
}

impl Seen {
    /// Whether all went on since `before`.
    fn is_alive_after(&self, before: &Self) -> bool {
        let clock = Round::Clock as usize;
        let came_round = |at: usize| self.rounds[at] != before.rounds[at];
        // The clock waits for nothing, however long an import takes.
        came_round(clock) && (self.steps != before.steps || (0..self.rounds.len()).all(came_round))
    }
}

/// How long the service manager waits for a sign, if it waits for any of this process:
/// `WATCHDOG_USEC` and `WATCHDOG_PID` of sd_watchdog_enabled(3).
pub(super) fn patience() -> Option<Duration> {
    let number = |name: &str| env::var(name).ok()?.parse::<u64>().ok();
    patience_of(
        number("WATCHDOG_USEC"),
        env::var_os("WATCHDOG_PID").map(|_| number("WATCHDOG_PID")),
        process::id(),
    )
}

/// `pid` is there if the variable is, with the number that it holds.
fn patience_of(usec: Option<u64>, pid: Option<Option<u64>>, own: u32) -> Option<Duration> {
    let is_meant = pid.is_none_or(|pid| pid == Some(u64::from(own)));
    usec.filter(|&usec| is_meant && usec > 0)
        .map(Duration::from_micros)
}

/// Sends a sign whenever there is one to be sent, as long as the daemon runs.
pub(super) async fn watch(shared: Arc<Shared>, patience: Duration, tasks: Vec<AbortHandle>) {
    let mut tries = tokio::time::interval(patience / TRIES);
    tries.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut before = Seen::default();
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

    const ALL: [Round; 3] = [Round::Clock, Round::Counts, Round::Healing];

    fn alive(beats: &[Round], steps: u64) -> bool {
        let pulse = Pulse::default();
        let before = pulse.now();
        beats.iter().for_each(|&round| pulse.beat(round));
        (0..steps).for_each(|_| pulse.step());
        pulse.now().is_alive_after(&before)
    }

    #[test]
    fn every_round_has_to_come_round() {
        assert!(alive(&ALL, 0));
        for (index, missing) in ALL.iter().enumerate() {
            let mut some = ALL.to_vec();
            some.remove(index);
            assert!(!alive(&some.repeat(2), 0), "without {missing:?}");
        }
    }

    #[test]
    fn what_gets_on_is_waited_for_but_not_by_the_clock() {
        assert!(alive(&[Round::Clock], 1));
        assert!(!alive(&[Round::Counts, Round::Healing], 1));
        assert!(!alive(&[], 1));
    }

    #[test]
    fn a_round_counts_for_one_sign() {
        let pulse = Pulse::default();
        ALL.iter().for_each(|&round| pulse.beat(round));
        let seen = pulse.now();
        assert!(seen.is_alive_after(&Seen::default()));
        assert!(!pulse.now().is_alive_after(&seen));
    }

    #[test]
    fn another_process_is_meant_or_none() {
        let second = Some(Duration::from_secs(1));
        assert_eq!(patience_of(Some(1_000_000), None, 7), second);
        assert_eq!(patience_of(Some(1_000_000), Some(Some(7)), 7), second);
        assert_eq!(patience_of(Some(1_000_000), Some(Some(8)), 7), None);
        assert_eq!(patience_of(Some(1_000_000), Some(None), 7), None);
        assert_eq!(patience_of(Some(0), None, 7), None);
        assert_eq!(patience_of(None, Some(Some(7)), 7), None);
    }
}
