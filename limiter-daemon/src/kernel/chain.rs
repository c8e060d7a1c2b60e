// SPDX-License-Identifier: MIT OR Apache-2.0

//! Describes the programs and filters that packets meet before our program at a hook, and limits
//! how often our program is put back in its place.

use std::time::{Duration, Instant};

use super::sys;
use crate::domain::hook::{Mechanism, Standing};

impl Standing {
    /// Describes a TCX program by its id.
    pub(super) fn of_tcx(program: u32) -> Self {
        Self {
            mechanism: Mechanism::Tcx,
            program_id: Some(program),
            name: sys::program_name(program).ok(),
            priority: None,
        }
    }

    /// Returns whether this program belongs to a limiter.
    pub(super) fn is_limiter(&self) -> bool {
        self.name
            .as_ref()
            .is_some_and(|name| name.starts_with(NAME_PREFIX))
    }
}

/// The prefix of the names of all programs of every limiter. Our program does not have to precede
/// the programs of another limiter, because our program also sees each packet that they let
/// through.
const NAME_PREFIX: &str = "limiter_";

/// The number of recent attempts after which this process assumes that other software undoes every
/// attempt.
const ATTEMPTS: u32 = 10;
/// The time after which the budget regains one spent attempt.
const PAUSE: Duration = Duration::from_secs(30);

/// A budget of attempts to put our program back in its place. It starts with [`ATTEMPTS`] attempts,
/// which is also its maximum, and regains one spent attempt after each [`PAUSE`].
#[derive(Debug, Clone, Copy)]
pub(super) struct AttemptBudget {
    spent: u32,
    since: Instant,
}

impl AttemptBudget {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            spent: 0,
            since: now,
        }
    }

    /// Takes one attempt from the budget. Returns false if the budget is empty.
    pub(super) fn take(&mut self, now: Instant) -> bool {
        self.regain(now);
        if self.spent == ATTEMPTS {
            return false;
        }
        self.spent += 1;
        true
    }

    /// Returns whether the budget contains at most one attempt.
    pub(super) fn is_short(&mut self, now: Instant) -> bool {
        self.regain(now);
        self.spent + 1 >= ATTEMPTS
    }

    fn regain(&mut self, now: Instant) {
        while self.spent > 0 && now.duration_since(self.since) >= PAUSE {
            self.spent -= 1;
            self.since += PAUSE;
        }
        if self.spent == 0 {
            self.since = now;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repeated_attempts_are_slowed_down() {
        let start = Instant::now();
        let mut budget = AttemptBudget::new(start);
        let at = |seconds| start + Duration::from_secs(seconds);
        let done = (0..600).filter(|second| budget.take(at(*second))).count();
        assert!((25..=30).contains(&done), "{done}");
        assert!(budget.is_short(at(600)));
        assert!(!budget.is_short(at(700)));
        assert!(budget.take(at(700)));
        let mut rare = AttemptBudget::new(start);
        assert!(
            (0..100).all(|minute| rare.take(at(minute * 60)) && !rare.is_short(at(minute * 60)))
        );
    }

    #[test]
    fn programs_and_filters_before_ours_are_named() {
        let filter = Standing {
            mechanism: Mechanism::Clsact,
            program_id: None,
            name: Some("flower".to_owned()),
            priority: Some(1),
        };
        assert_eq!(filter.to_string(), "the filter of priority 1 (flower)");
        let program = Standing {
            mechanism: Mechanism::Tcx,
            program_id: Some(7),
            name: Some("cil_from_netdev".to_owned()),
            priority: None,
        };
        assert_eq!(
            program.to_string(),
            "the TCX program cil_from_netdev (id 7)"
        );
        assert!(!program.is_limiter() && !filter.is_limiter());
    }
}
