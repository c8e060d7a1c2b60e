// SPDX-License-Identifier: MIT OR Apache-2.0

//! Counters of the rounds of the daemon's recurring tasks.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// The interval at which the clock is published and the counts are flushed.
pub const TICK: Duration = Duration::from_secs(1);

/// A recurring task of the daemon.
#[derive(Debug, Clone, Copy)]
pub enum Round {
    /// The publication of the clock.
    Clock,
    /// The writing of counts, and the engine's other work that is due every second.
    Counts,
    /// A check or correction of counts, or the decision that none is due.
    Healing,
}

/// Counters of the rounds of each recurring task, and of the steps of imports. While an import
/// holds the engine for seconds, its steps show that the daemon does not hang.
#[derive(Debug, Default)]
pub struct Pulse {
    rounds: [AtomicU64; 3],
    steps: AtomicU64,
}

impl Pulse {
    /// Counts a round of a task.
    pub fn beat(&self, round: Round) {
        self.rounds[round as usize].fetch_add(1, Relaxed);
    }

    /// Counts a step of an import.
    pub fn step(&self) {
        self.steps.fetch_add(1, Relaxed);
    }

    pub fn now(&self) -> PulseReading {
        PulseReading {
            rounds: self.rounds.each_ref().map(|round| round.load(Relaxed)),
            steps: self.steps.load(Relaxed),
        }
    }
}

/// The values of a [`Pulse`] at one time.
#[derive(Debug, Clone, Copy, Default)]
pub struct PulseReading {
    rounds: [u64; 3],
    steps: u64,
}

impl PulseReading {
    /// Returns whether each task has completed a round since `before`. If an import has made
    /// progress since then, only a round of the clock is required.
    pub fn is_alive_after(&self, before: &Self) -> bool {
        let clock = Round::Clock as usize;
        let completed = |at: usize| self.rounds[at] != before.rounds[at];
        // A round of the clock is required in any case, since the clock does not wait for the
        // engine.
        completed(clock) && (self.steps != before.steps || (0..self.rounds.len()).all(completed))
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
    fn the_daemon_is_alive_only_if_every_task_completes_a_round() {
        assert!(alive(&ALL, 0));
        for (index, missing) in ALL.iter().enumerate() {
            let mut some = ALL.to_vec();
            some.remove(index);
            assert!(!alive(&some.repeat(2), 0), "without {missing:?}");
        }
    }

    #[test]
    fn progress_of_an_import_excuses_all_rounds_but_the_clock() {
        assert!(alive(&[Round::Clock], 1));
        assert!(!alive(&[Round::Counts, Round::Healing], 1));
        assert!(!alive(&[], 1));
    }

    #[test]
    fn a_round_counts_for_one_reading() {
        let pulse = Pulse::default();
        ALL.iter().for_each(|&round| pulse.beat(round));
        let seen = pulse.now();
        assert!(seen.is_alive_after(&PulseReading::default()));
        assert!(!pulse.now().is_alive_after(&seen));
    }
}
