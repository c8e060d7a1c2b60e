// SPDX-License-Identifier: MIT OR Apache-2.0

//! Rates that are divided among the hosts of a fleet (`fleet.rate = "shared"`).

use std::{sync::Arc, time::Instant};

use limiter_common::{
    abi::{self, reason},
    gcra::Rate,
};
use limiter_fleet::{PERIOD, RateAnswer, RateCall, ShareChange, TOLERANCE};
use tokio::time::MissedTickBehavior;

use super::{link::FleetLink, tasks::with};
use crate::{
    domain::mode::Mode,
    engine::{publish::plane, shared::Shared, state::Engine},
};

const NS_PER_SECOND: f64 = 1e9;

/// Reports the demands of this host and enforces its shares, until the daemon ends.
pub(crate) async fn divide(shared: Arc<Shared>, link: Arc<FleetLink>) {
    let mut client = link.another();
    let mut ticks = tokio::time::interval(PERIOD);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let calls = with(&shared, |engine| engine.rate_calls(Instant::now())).await;
        let Some(calls) = calls.filter(|calls| !calls.is_empty()) else {
            continue;
        };
        let (answers, error) = client.divide_rates(&calls).await;
        if let Some(error) = error {
            // The heartbeats report an engine that does not answer.
            log::debug!("fleet: rates are not divided: {error}");
        }
        with(&shared, move |engine| engine.note_shares(&calls, &answers)).await;
    }
}

/// Returns the rate of a host that may use `share` requests a second of `whole`.
pub(crate) fn share_of(whole: Rate, share: f64) -> Rate {
    if whole.interval_ns == 0 {
        return whole;
    }
    let tolerance_ns = u64::try_from(TOLERANCE.as_nanos()).unwrap_or(u64::MAX);
    Rate {
        interval_ns: whole.interval_ns.max((NS_PER_SECOND / share).ceil() as u64),
        tolerance_ns: whole.tolerance_ns.max(tolerance_ns),
    }
}

impl Engine {
    /// Reads the demands for the rates of all scopes. Returns the reports that are due, each with
    /// the name of its scope.
    pub(crate) fn rate_calls(&mut self, now: Instant) -> Vec<(String, RateCall)> {
        let Some(member) = &mut self.fleet else {
            return Vec::new();
        };
        let mut readings = member.rates.read(now);
        for scope in self
            .scopes
            .iter()
            .filter(|scope| scope.mode == Mode::Enforce)
        {
            let Some(rate) = scope.limits.rate else {
                continue;
            };
            let state = self.plane.state(scope.record.id);
            let refused = state.refused[reason::RATE as usize];
            let per_second = NS_PER_SECOND / rate.interval_ns() as f64;
            let asked = state.admitted.saturating_add(refused);
            readings.add(scope.record.id, asked, per_second);
        }
        let mut changes = readings.end();
        changes.extend(member.rates.give_up(now));
        let calls = match member.suspended {
            Some(_) => Vec::new(),
            None => member.rates.calls(now),
        };
        self.enforce_shares(&changes);
        calls
            .into_iter()
            .filter_map(|call| Some((self.scopes.name_of(call.scope)?.to_string(), call)))
            .collect()
    }

    /// Enforces the shares that the engine has answered.
    pub(crate) fn note_shares(
        &mut self,
        calls: &[(String, RateCall)],
        answers: &[Option<RateAnswer>],
    ) {
        let Some(member) = &mut self.fleet else {
            return;
        };
        let now = Instant::now();
        let changes: Vec<ShareChange> = calls
            .iter()
            .zip(answers)
            .filter_map(|((_, call), answer)| member.rates.answered(now, call, (*answer)?))
            .collect();
        self.enforce_shares(&changes);
    }

    /// Makes this host report its demand for a scope, because the demands of all hosts may exceed
    /// the rate.
    pub(crate) fn note_announced_rate(&mut self, scope: &str) {
        let scope = scope.parse().ok().and_then(|name| self.scopes.get(&name));
        if let (Some(scope), Some(member)) = (scope, &mut self.fleet) {
            member.rates.announced(Instant::now(), scope.record.id);
        }
    }

    /// Returns the number of scopes of which this host enforces a share.
    pub(crate) fn divided_rates(&self) -> u64 {
        self.fleet
            .as_ref()
            .map_or(0, |member| member.rates.shares())
    }

    /// Returns limits in the form of the kernel with the share of this host in place of the whole
    /// rate, if the rate is divided.
    pub(crate) fn with_share(&self, scope: u32, limits: abi::Limits) -> abi::Limits {
        let share = self
            .fleet
            .as_ref()
            .and_then(|member| member.rates.share(scope));
        let Some(share) = share else {
            return limits;
        };
        let whole = Rate {
            interval_ns: limits.interval_ns,
            tolerance_ns: limits.tolerance_ns,
        };
        let own = share_of(whole, share);
        abi::Limits {
            interval_ns: own.interval_ns,
            tolerance_ns: own.tolerance_ns,
            ..limits
        }
    }

    fn enforce_shares(&self, changes: &[ShareChange]) {
        for change in changes {
            let Some(scope) = self.scopes.by_id(change.scope) else {
                continue;
            };
            let whole = plane::rate(&scope.limits);
            let own = change.share.map_or(whole, |share| share_of(whole, share));
            self.plane.set_rate(change.scope, own);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_has_a_longer_interval_and_a_tolerance() {
        let whole = Rate {
            interval_ns: 1_000_000,
            tolerance_ns: 0,
        };
        let share = share_of(whole, 250.0);
        assert_eq!(
            (share.interval_ns, share.tolerance_ns),
            (4_000_000, 100_000_000)
        );
        // A share is never more than the whole rate, and a longer burst stays.
        let burst = Rate {
            tolerance_ns: 2_000_000_000,
            ..whole
        };
        assert_eq!(share_of(burst, 5_000.0), burst);
        let none = Rate {
            interval_ns: 0,
            tolerance_ns: 0,
        };
        assert_eq!(share_of(none, 5.0), none);
    }
}
