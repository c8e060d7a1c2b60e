// SPDX-License-Identifier: MIT OR Apache-2.0

//! The numbers on the metrics page, and the survey of all scopes that collects them.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap},
    thread,
    time::Duration,
};

use chrono::{DateTime, Utc};
use limiter_common::day::DayCount;

use super::departed::{Departed, Requests};
use crate::{
    config::Tables,
    domain::{
        hook::{Mechanism, Missing},
        refusals::Refusals,
        scope::ScopeName,
    },
    engine::{
        fleet::figures::FleetFigures,
        scopes::registry::{Scope, Scopes},
        setup::Setup,
        shared::Shared,
        time::day_of,
    },
    kernel::{KernelError, Plane, ProgramTime},
    protocol::views::{AttachedView, FlowsView, HealedView},
    store::{DayUsage, Writes},
};

use prometheus_client::metrics::histogram::Histogram;

/// The upper bounds of the buckets of [`TierFigures::quota_used`], as shares of the daily quota.
const QUOTA_SHARES: [f64; 9] = [0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 1.0];

/// The number of scopes that are read each time the engine is locked. Reading this number of scopes
/// takes a few milliseconds.
const AT_ONCE: usize = 4096;
/// The pause after each group of scopes, in which other tasks can lock the engine.
const PAUSE: Duration = Duration::from_micros(200);

/// The numbers on the metrics page.
#[derive(Debug)]
pub struct Figures {
    /// The sums by tier, including every tier of the configuration.
    pub tiers: BTreeMap<String, TierFigures>,
    /// The registered scopes that have used the largest shares of their quotas.
    pub nearest_quota: Vec<TopScope>,
    /// The registered scopes with the most requests today.
    pub most_used: Vec<TopScope>,
    /// The registered scopes with the most refused requests today.
    pub most_refused: Vec<TopScope>,
    /// The kernel's counters, indexed by `limiter_common::abi::counter`.
    pub counters: Vec<u64>,
    /// The occupancy of the table of flows.
    pub flows: FlowsView,
    /// The sizes of the tables.
    pub tables: Tables,
    /// The number of registered scopes.
    pub scopes: u64,
    /// The number of registered keys, or `None` while the store cannot be read. The health of the
    /// store reports why.
    pub keys: Option<u64>,
    /// The number of unknown keys that have a scope.
    pub unknown_keys: u64,
    /// The statistics of the counts that have been corrected.
    pub healed: HealedView,
    /// The names of the daemon's parts, each with a flag that is true if the part works.
    pub parts: Vec<(&'static str, bool)>,
    /// The durations of changes to the store, and the number of changes that failed.
    pub writes: Writes,
    /// The hooks at which programs are attached.
    pub attached: Vec<AttachedView>,
    /// The hooks at which a program is missing.
    pub missing: Vec<Missing>,
    /// The mechanism by which programs are attached.
    pub mechanism: Mechanism,
    /// The run times of the programs, as measured by the kernel.
    pub programs: Vec<ProgramTime>,
    /// The time at which this daemon started.
    pub started_at: DateTime<Utc>,
    /// The time since which limits have been in force without interruption.
    pub since: DateTime<Utc>,
    /// The numbers that concern the fleet.
    pub fleet: FleetFigures,
    /// The time at which the survey of the scopes began.
    pub now: DateTime<Utc>,
}

/// The sums over the scopes of a tier.
#[derive(Debug)]
pub struct TierFigures {
    /// The number of requests admitted since the maps were created, including those of removed
    /// scopes.
    pub admitted: u64,
    /// The numbers of requests refused since the maps were created, including those of removed
    /// scopes.
    pub refused: Refusals,
    /// The numbers of requests in `admitted` that would have been refused if the limits had been
    /// enforced.
    pub would_refuse: Refusals,
    /// The number of scopes in the tier.
    pub scopes: u64,
    /// The number of requests in flight.
    pub in_flight: u64,
    /// The number of open connections.
    pub connections: u64,
    /// The number of requests that the allowances still permit today. The kernel asks for larger
    /// allowances before it admits more requests than this.
    pub allowance: u64,
    /// The number of scopes with a daily quota, by the share of the quota that they have used.
    pub quota_used: Histogram,
}

impl Default for TierFigures {
    fn default() -> Self {
        Self {
            admitted: 0,
            refused: Refusals::default(),
            would_refuse: Refusals::default(),
            scopes: 0,
            in_flight: 0,
            connections: 0,
            allowance: 0,
            quota_used: Histogram::new(QUOTA_SHARES),
        }
    }
}

/// A scope in a ranking.
#[derive(Debug, Clone, PartialEq)]
pub struct TopScope {
    /// The name of the scope.
    pub scope: String,
    /// The tier of the scope.
    pub tier: String,
    /// The value by which the scope is ranked.
    pub value: f64,
}

/// The scopes with the highest values, found without sorting all scopes.
struct Ranking {
    capacity: usize,
    /// The value, name and tier of each scope, with the lowest value at the top of the heap. Scopes
    /// with equal values are ordered by name, so that the result is always the same.
    best: BinaryHeap<Reverse<(u64, Reverse<String>, String)>>,
}

impl Ranking {
    fn new(capacity: usize) -> Self {
        Self {
            capacity,
            best: BinaryHeap::with_capacity(capacity),
        }
    }

    fn offer(&mut self, value: u64, scope: &Scope) {
        if value == 0 || self.capacity == 0 {
            return;
        }
        let name = scope.record.name.as_str();
        if self.best.len() == self.capacity {
            // This check has to be cheap, because it rejects most scopes.
            let worse = self.best.peek().is_some_and(|Reverse((least, last, _))| {
                (value, Reverse(name)) < (*least, Reverse(last.0.as_str()))
            });
            if worse {
                return;
            }
            self.best.pop();
        }
        let entry = (value, Reverse(name.to_owned()), scope.record.tier.clone());
        self.best.push(Reverse(entry));
    }

    /// Returns the scopes in descending order of their values, with the values divided by `parts`.
    fn finish(self, parts: f64) -> Vec<TopScope> {
        let sorted = self.best.into_sorted_vec();
        sorted
            .into_iter()
            .map(|Reverse((value, Reverse(scope), tier))| TopScope {
                scope,
                tier,
                value: value as f64 / parts,
            })
            .collect()
    }
}

/// The number of parts into which a quota is divided. Shares of quotas are ranked as whole numbers
/// of these parts.
const MILLION: f64 = 1e6;

fn millionths(used: u64, quota: u64) -> u64 {
    // A quota of zero counts as used up.
    let share = (u128::from(used) * 1_000_000)
        .checked_div(u128::from(quota))
        .unwrap_or(1_000_000);
    u64::try_from(share).unwrap_or(u64::MAX)
}

/// The partial sum of a tier while scopes are being read.
#[derive(Default)]
struct Sum {
    requests: Requests,
    figures: TierFigures,
}

/// The sums over all scopes while the scopes are being read in groups.
pub(crate) struct Survey {
    now: DateTime<Utc>,
    /// The requests of departed scopes at the beginning of the survey.
    departed: Departed,
    sums: BTreeMap<String, Sum>,
    nearest_quota: Ranking,
    most_used: Ranking,
    most_refused: Ranking,
    /// The name of the last scope that was read.
    last: Option<ScopeName>,
}

/// The result of a completed survey.
pub(crate) struct ScopeFigures {
    pub(crate) tiers: BTreeMap<String, TierFigures>,
    pub(crate) nearest_quota: Vec<TopScope>,
    pub(crate) most_used: Vec<TopScope>,
    pub(crate) most_refused: Vec<TopScope>,
}

impl Survey {
    pub(crate) fn begin(setup: &Setup, departed: &Departed, now: DateTime<Utc>) -> Self {
        let capacity = setup.config().metrics.top_scopes;
        let mut sums: BTreeMap<String, Sum> = BTreeMap::new();
        for name in setup.config().tiers.names() {
            sums.entry(name.as_str().to_owned()).or_default();
        }
        for (tier, requests) in departed.tiers() {
            let sum = sums.entry(tier.clone()).or_default();
            sum.requests.add(requests);
        }
        Self {
            now,
            departed: departed.clone(),
            sums,
            nearest_quota: Ranking::new(capacity),
            most_used: Ranking::new(capacity),
            most_refused: Ranking::new(capacity),
            last: None,
        }
    }

    /// Returns the time at which the survey began.
    pub(crate) fn now(&self) -> DateTime<Utc> {
        self.now
    }

    /// Returns whether a scope has left its tier since the beginning of the survey. The requests of
    /// such a scope may be in the sums twice, or not at all.
    pub(crate) fn is_outdated(&self, departed: &Departed) -> bool {
        self.departed != *departed
    }

    /// Reads the next `at_once` scopes in the order of their names, and returns whether the last
    /// scope has been read.
    pub(crate) fn read_some(&mut self, scopes: &Scopes, plane: &dyn Plane, at_once: usize) -> bool {
        let mut rest = scopes.after(self.last.take());
        for scope in rest.by_ref().take(at_once) {
            self.read(scope, plane);
            self.last = Some(scope.record.name.clone());
        }
        rest.next().is_none()
    }

    fn read(&mut self, scope: &Scope, plane: &dyn Plane) {
        let tier = &scope.record.tier;
        if !self.sums.contains_key(tier) {
            self.sums.insert(tier.clone(), Sum::default());
        }
        let Some(sum) = self.sums.get_mut(tier) else {
            return;
        };
        let DayUsage { used, refused, .. } = sum.add(scope, plane, self.now);
        // The rankings leave out scopes of unknown keys, because the name of such a scope contains
        // a part of the key's digest, which the page must not show.
        if scope.record.unknown.is_some() {
            return;
        }
        if let Some(quota) = scope.limits.daily_quota {
            self.nearest_quota.offer(millionths(used, quota), scope);
        }
        self.most_used.offer(used, scope);
        self.most_refused.offer(refused.total(), scope);
    }

    /// Returns the sums and rankings after all scopes have been read.
    pub(crate) fn finish(self) -> ScopeFigures {
        let sums = self.sums.into_iter();
        ScopeFigures {
            tiers: sums.map(|(tier, sum)| (tier, sum.finish())).collect(),
            nearest_quota: self.nearest_quota.finish(MILLION),
            most_used: self.most_used.finish(1.0),
            most_refused: self.most_refused.finish(1.0),
        }
    }
}

impl Figures {
    /// Takes all numbers. Does not change the engine, and locks it only for short moments.
    ///
    /// # Errors
    /// Returns an error if the kernel reports one.
    pub fn take(shared: &Shared, now: DateTime<Utc>) -> Result<Self, KernelError> {
        let mut survey = shared.engine().begin_survey(now);
        loop {
            let engine = shared.engine();
            if engine.survey(&mut survey, AT_ONCE) {
                let mut figures = engine.figures(survey)?;
                if let Some(link) = shared.fleet() {
                    figures.fleet = engine.fleet_figures(&link, now);
                }
                return Ok(figures);
            }
            drop(engine);
            // The pause lets other tasks lock the engine before the next group is read.
            thread::sleep(PAUSE);
        }
    }
}

impl Sum {
    /// Adds a scope to the sums, and returns its usage of today.
    fn add(&mut self, scope: &Scope, plane: &dyn Plane, now: DateTime<Utc>) -> DayUsage {
        let state = plane.state(scope.record.id);
        // As for `limiter usage`, a copy of the counts is updated, because taking the figures must
        // not change the engine.
        let mut counts = scope.counts;
        counts.read(&state, day_of(now));
        let Self { requests, figures } = self;
        requests.add(&Requests::of(&state));
        figures.scopes += 1;
        figures.in_flight += state.in_flight;
        figures.connections += state.connections;
        if let Some(quota) = scope.limits.daily_quota {
            let allowed: DayCount = plane.allowed(scope.record.id).on(counts.day);
            figures.allowance += allowed.count().saturating_sub(counts.usage.used);
            let share = millionths(counts.usage.used, quota);
            figures.quota_used.observe(share as f64 / MILLION);
        }
        counts.usage
    }

    fn finish(self) -> TierFigures {
        let Requests {
            admitted,
            refused,
            would_refuse,
        } = self.requests;
        let count = |count: i64| u64::try_from(count).unwrap_or(0);
        TierFigures {
            admitted: count(admitted),
            refused: Refusals::from_array(refused.map(count)),
            would_refuse: Refusals::from_array(would_refuse.map(count)),
            ..self.figures
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quota_of_zero_is_used_up() {
        assert_eq!(millionths(0, 0), 1_000_000);
        assert_eq!(millionths(0, 10), 0);
        assert_eq!(millionths(7, 10), 700_000);
        assert_eq!(millionths(11, 10), 1_100_000);
        assert_eq!(millionths(u64::MAX, 1), u64::MAX);
    }
}
