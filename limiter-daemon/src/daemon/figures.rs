//! What the page of metrics shows, taken at one moment.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap},
    ops::Bound,
    thread,
    time::Duration,
};

use chrono::{DateTime, Utc};
use limiter_common::day::DayCount;
use prometheus_client::metrics::histogram::Histogram;

use super::{
    Shared,
    departed::{Departed, Requests},
    engine::{Engine, Scope, day_of},
};
use crate::{
    api::{AttachedView, FlowsView, HealedView},
    config::Tables,
    kernel::{KernelError, ProgramTime},
    scope::ScopeName,
    store::{DayUsage, Refusals, Writes},
};

/// Shares of the daily quota between which scopes are counted.
const QUOTA_SHARES: [f64; 9] = [0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 1.0];

/// Scopes that are looked at in one go: some milliseconds.
const AT_ONCE: usize = 4096;
/// Between two goes.
const PAUSE: Duration = Duration::from_micros(200);

/// All of it.
#[derive(Debug)]
pub struct Figures {
    /// Sums by tier; all tiers of the configuration are there.
    pub tiers: BTreeMap<String, TierFigures>,
    /// Registered scopes that have used the largest share of their quota.
    pub nearest_quota: Vec<TopScope>,
    /// Those with the most requests today.
    pub most_used: Vec<TopScope>,
    /// Those of which the most requests were refused today.
    pub most_refused: Vec<TopScope>,
    /// The kernel's counters, by `limiter_common::abi::counter`.
    pub counters: Vec<u64>,
    /// The table of connections.
    pub flows: FlowsView,
    /// Sizes of the tables.
    pub tables: Tables,
    /// Scopes registered.
    pub scopes: u64,
    /// Keys registered; `None` while the store does not answer, of which its health tells.
    pub keys: Option<u64>,
    /// Unknown keys that have a scope.
    pub unknown_keys: u64,
    /// What has been put right.
    pub healed: HealedView,
    /// Parts of the daemon, and whether they work.
    pub parts: Vec<(&'static str, bool)>,
    /// What became of changes of the store.
    pub writes: Writes,
    /// Attachments.
    pub attached: Vec<AttachedView>,
    /// What the kernel has measured of the programs.
    pub programs: Vec<ProgramTime>,
    /// Since when this daemon runs.
    pub started_at: DateTime<Utc>,
    /// Since when limits have been in force without a break.
    pub since: DateTime<Utc>,
    /// Now.
    pub now: DateTime<Utc>,
}

/// Sums over a tier's scopes.
#[derive(Debug)]
pub struct TierFigures {
    /// Requests admitted since the maps were made, also of scopes that have been removed since.
    pub admitted: u64,
    /// Requests refused, likewise.
    pub refused: Refusals,
    /// Requests admitted that enforcement would have refused, likewise.
    pub would_refuse: Refusals,
    /// Scopes.
    pub scopes: u64,
    /// Requests in flight.
    pub in_flight: u64,
    /// Open connections.
    pub connections: u64,
    /// Requests that are allowed today and not used yet, beyond which the store is asked.
    pub allowance: u64,
    /// Scopes by the share of the daily quota that they have used; of those that have one.
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

/// A scope that stands out.
#[derive(Debug, Clone, PartialEq)]
pub struct TopScope {
    /// Its name.
    pub scope: String,
    /// Its tier.
    pub tier: String,
    /// By what it stands out.
    pub value: f64,
}

/// The best of many, without sorting all of them.
struct Ranking {
    room: usize,
    /// The least on top: value, name, tier. Names decide between equals, so that it is always the same
    /// ones.
    best: BinaryHeap<Reverse<(u64, Reverse<String>, String)>>,
}

impl Ranking {
    fn new(room: usize) -> Self {
        Self {
            room,
            best: BinaryHeap::with_capacity(room),
        }
    }

    fn offer(&mut self, value: u64, scope: &Scope) {
        if value == 0 || self.room == 0 {
            return;
        }
        let name = scope.record.name.as_str();
        if self.best.len() == self.room {
            // Most scopes are none of the best, and cost nothing but this.
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

    /// The best first, values as so many parts.
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

/// Shares of a quota are ranked in millionths.
const MILLION: f64 = 1e6;

fn millionths(used: u64, quota: u64) -> u64 {
    // Nothing of nothing is used up.
    let share = (u128::from(used) * 1_000_000)
        .checked_div(u128::from(quota))
        .unwrap_or(1_000_000);
    u64::try_from(share).unwrap_or(u64::MAX)
}

/// What a tier's scopes count, and how the tier's figures are made of it.
#[derive(Default)]
struct Sum {
    requests: Requests,
    figures: TierFigures,
}

/// A look at all scopes, in as many goes as it takes.
pub(super) struct Survey {
    now: DateTime<Utc>,
    /// As it was at the beginning.
    departed: Departed,
    sums: BTreeMap<String, Sum>,
    nearest_quota: Ranking,
    most_used: Ranking,
    most_refused: Ranking,
    /// The scope that was looked at last.
    last: Option<ScopeName>,
}

impl Survey {
    pub(super) fn begin(engine: &Engine, now: DateTime<Utc>) -> Self {
        let room = engine.config.metrics.top_scopes;
        let mut sums: BTreeMap<String, Sum> = BTreeMap::new();
        for name in engine.config.tiers.names() {
            sums.entry(name.as_str().to_owned()).or_default();
        }
        for (tier, departed) in &engine.departed.tiers {
            let sum = sums.entry(tier.clone()).or_default();
            sum.requests.add(departed);
        }
        Self {
            now,
            departed: engine.departed.clone(),
            sums,
            nearest_quota: Ranking::new(room),
            most_used: Ranking::new(room),
            most_refused: Ranking::new(room),
            last: None,
        }
    }

    fn look_at(&mut self, engine: &Engine, scope: &Scope) {
        let tier = &scope.record.tier;
        if !self.sums.contains_key(tier) {
            self.sums.insert(tier.clone(), Sum::default());
        }
        let Some(sum) = self.sums.get_mut(tier) else {
            return;
        };
        let DayUsage { used, refused, .. } = engine.add_scope_figures(scope, sum, self.now);
        // The names of others are parts of keys' digests.
        if scope.record.unknown.is_some() {
            return;
        }
        if let Some(quota) = scope.limits.daily_quota {
            self.nearest_quota.offer(millionths(used, quota), scope);
        }
        self.most_used.offer(used, scope);
        self.most_refused.offer(refused.total(), scope);
    }
}

impl Figures {
    /// All of it. Changes nothing, and holds the engine only for a moment at a time.
    ///
    /// # Errors
    /// The kernel's.
    pub fn take(shared: &Shared, now: DateTime<Utc>) -> Result<Self, KernelError> {
        let mut survey = Survey::begin(&shared.engine(), now);
        loop {
            let engine = shared.engine();
            if engine.survey(&mut survey, AT_ONCE) {
                return engine.figures(survey);
            }
            drop(engine);
            // Who waits for the engine goes before.
            thread::sleep(PAUSE);
        }
    }
}

impl Engine {
    /// Looks at so many scopes more, in the order of their names; says whether that were all.
    pub(super) fn survey(&self, survey: &mut Survey, at_once: usize) -> bool {
        let from = match survey.last.take() {
            Some(last) => Bound::Excluded(last),
            None => Bound::Unbounded,
        };
        let mut rest = self.scopes.range((from, Bound::Unbounded));
        for (name, scope) in rest.by_ref().take(at_once) {
            survey.look_at(self, scope);
            survey.last = Some(name.clone());
        }
        rest.next().is_none()
    }

    /// The figures of a survey that has looked at all scopes, and what else there is.
    ///
    /// # Errors
    /// The kernel's.
    pub(super) fn figures(&self, mut survey: Survey) -> Result<Figures, KernelError> {
        if survey.departed != self.departed {
            // A scope has left its tier meanwhile: it may be in the sums twice, or not at all.
            survey = Survey::begin(self, survey.now);
            self.survey(&mut survey, usize::MAX);
        }
        let unknown_keys = self.unknown.count() as u64;
        Ok(Figures {
            tiers: survey
                .sums
                .into_iter()
                .map(|(tier, sum)| (tier, sum.finish()))
                .collect(),
            nearest_quota: survey.nearest_quota.finish(MILLION),
            most_used: survey.most_used.finish(1.0),
            most_refused: survey.most_refused.finish(1.0),
            counters: self.plane.counters()?,
            flows: self.flows_view(),
            tables: self.config.tables,
            scopes: self.scopes.len() as u64 - unknown_keys,
            keys: self.store.key_count().ok(),
            unknown_keys,
            healed: self.healed,
            parts: self.parts().collect(),
            writes: self.store.writes(),
            attached: self.attached_view(),
            programs: self.plane.program_times()?,
            started_at: self.started_at,
            since: self.since,
            now: survey.now,
        })
    }

    /// Adds a scope to its tier's sum; returns its day so far.
    fn add_scope_figures(&self, scope: &Scope, sum: &mut Sum, now: DateTime<Utc>) -> DayUsage {
        let state = self.plane.state(scope.record.id);
        // Look without keeping it, as for `limiter usage`.
        let mut book = scope.book;
        book.look(&state, day_of(now));
        let Sum { requests, figures } = sum;
        requests.add(&Requests::of(&state));
        figures.scopes += 1;
        figures.in_flight += state.in_flight;
        figures.connections += state.connections;
        if let Some(quota) = scope.limits.daily_quota {
            let allowed: DayCount = self.plane.allowed(scope.record.id).on(book.day);
            figures.allowance += allowed.count().saturating_sub(book.usage.used);
            let share = millionths(book.usage.used, quota);
            figures.quota_used.observe(share as f64 / MILLION);
        }
        book.usage
    }

    /// Measures what programs take, as far as the kernel lets us.
    pub fn measure_programs(&mut self) {
        let failed = self.plane.measure_programs().err();
        self.note_health("program_time", failed.map(|error| error.to_string()));
    }
}

impl Sum {
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
    fn a_quota_of_nothing_is_used_up() {
        assert_eq!(millionths(0, 0), 1_000_000);
        assert_eq!(millionths(0, 10), 0);
        assert_eq!(millionths(7, 10), 700_000);
        assert_eq!(millionths(11, 10), 1_100_000);
        assert_eq!(millionths(u64::MAX, 1), u64::MAX);
    }
}
