// SPDX-License-Identifier: MIT OR Apache-2.0

//! Rates that the hosts of a fleet share.
//!
//! Each host enforces the whole rate of a scope until the demand of all hosts exceeds it. From then
//! on, the engine divides the rate among the hosts according to their demands (`scripts/rate.lua`),
//! and each host enforces its share.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use crate::ScopeId;

/// The time from one reading of the counters to the next. A division of a rate follows a change of
/// the demands within a few of these times.
pub const PERIOD: Duration = Duration::from_millis(250);

/// The least tolerance with which a host enforces its share: it admits requests that come this much
/// too early. Requests do not arrive in equal intervals, and without this tolerance much of a small
/// share would stay unused.
pub const TOLERANCE: Duration = Duration::from_millis(100);

/// The time for which a rate stays divided after the demands have last exceeded it. If a division
/// ended with the demand, a client that pauses again and again would get the whole rate of each
/// host every time.
pub(crate) const DIVIDED_FOR: Duration = Duration::from_secs(30);

/// The time after which a host enforces the whole rate again if the engine does not answer.
const LOST_AFTER: Duration = Duration::from_secs(5);
/// The time for which a host with little demand reports it after an announcement.
const ANNOUNCED_FOR: Duration = Duration::from_secs(3);
/// A host with less than this part of its equal share of the rate reports nothing, even after an
/// announcement. Together such hosts have less than a hundredth of the rate.
const SILENT_PART: f64 = 0.01;
/// A host with more than this part of its equal share of the rate reports its demand without an
/// announcement. If the demands exceed the rate, there is such a host, and the hosts that have
/// less need at most this part of the rate.
const LOUD_PART: f64 = 0.5;
/// A share of more than this part of the rate counts as the whole rate.
const WHOLE_PART: f64 = 0.99;

/// The longest time over which a demand is averaged, in seconds.
const LONGEST_AVERAGE: f64 = 60.0;

/// A report of the demand of this host for a scope.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RateCall {
    /// The scope.
    pub scope: ScopeId,
    /// The rate of the scope, in requests a second.
    pub rate: f64,
    /// The demand of this host, in requests a second. 0 means that the host needs no share.
    pub demand: f64,
}

/// The answer to a report.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum RateAnswer {
    /// The rate is not divided, or the reported demand was 0.
    Whole,
    /// The rate is divided, and this is the share of this host in requests a second.
    Share(f64),
}

/// A change of the share that this host enforces.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ShareChange {
    /// The scope.
    pub scope: ScopeId,
    /// The share, in requests a second, or `None` for the whole rate.
    pub share: Option<f64>,
}

/// The demands of one host, and its shares.
#[derive(Debug, Default)]
pub struct HostRates {
    /// For each scope, the number of requests that clients had sent by the last readings.
    asked: Counters,
    /// The time of the last readings.
    read_at: Option<Instant>,
    /// The scopes with requests.
    active: HashMap<ScopeId, ActiveRate>,
    /// The number of hosts in the fleet, as far as it is known.
    hosts: u64,
}

/// A number for each scope that has been read. The ids of scopes are small.
#[derive(Debug, Default)]
struct Counters(Vec<Option<u64>>);

impl Counters {
    fn get(&self, scope: ScopeId) -> Option<u64> {
        self.0.get(scope as usize).copied().flatten()
    }

    fn set(&mut self, scope: ScopeId, number: u64) {
        let index = scope as usize;
        if index >= self.0.len() {
            self.0.resize(index + 1, None);
        }
        self.0[index] = Some(number);
    }
}

#[derive(Debug, Clone, Copy)]
struct ActiveRate {
    rate: f64,
    /// An average of the requests per second that follows changes fast, and is noisy.
    recent: f64,
    /// An average over a longer time, which is set to `recent` when the two differ by more than
    /// chance explains.
    demand: f64,
    /// The share that this host enforces.
    share: Option<f64>,
    /// Whether the engine may know of a demand of this host.
    is_reported: bool,
    announced_at: Option<Instant>,
    /// The time of the last answer, or of the first report if there has been no answer since.
    heard_at: Instant,
    /// The time of the last answer with a share.
    divided_at: Option<Instant>,
}

/// The readings of the counters of all scopes at one time.
pub struct RateReadings<'a> {
    rates: &'a mut HostRates,
    now: Instant,
    /// The time since the last readings in seconds, or `None` for the first ones.
    passed: Option<f64>,
    asked: Counters,
}

impl HostRates {
    /// Begins to read the counters of all scopes.
    pub fn read(&mut self, now: Instant) -> RateReadings<'_> {
        let passed = self.read_at.map(|at| now.saturating_duration_since(at));
        RateReadings {
            now,
            passed: passed.map(|passed| passed.as_secs_f64()),
            asked: Counters(Vec::with_capacity(self.asked.0.len())),
            rates: self,
        }
    }

    /// Sets the number of hosts in the fleet.
    pub fn set_hosts(&mut self, hosts: u64) {
        self.hosts = hosts;
    }

    /// Returns the reports that are due.
    pub fn calls(&mut self, now: Instant) -> Vec<RateCall> {
        let hosts = self.hosts.max(1) as f64;
        let mut calls = Vec::new();
        for (&scope, active) in &mut self.active {
            let part = active.demand * hosts / active.rate;
            let is_announced = active
                .announced_at
                .is_some_and(|at| now.saturating_duration_since(at) < ANNOUNCED_FOR);
            // A host that is alone needs no shares.
            let is_needed = hosts > 1.0 && part >= SILENT_PART;
            let is_due = part >= LOUD_PART || is_announced || active.share.is_some();
            let (rate, demand) = match (is_needed && is_due, active.is_reported) {
                (true, _) => (active.rate, active.demand),
                (false, true) => (active.rate, 0.0),
                (false, false) => continue,
            };
            if !active.is_reported {
                active.is_reported = true;
                active.heard_at = now;
            }
            calls.push(RateCall {
                scope,
                rate,
                demand,
            });
        }
        calls
    }

    /// Records the answer to a report. Returns the change, if there is one.
    pub fn answered(
        &mut self,
        now: Instant,
        call: &RateCall,
        answer: RateAnswer,
    ) -> Option<ShareChange> {
        let active = self.active.get_mut(&call.scope)?;
        active.heard_at = now;
        active.is_reported = call.demand > 0.0;
        let share = match answer {
            RateAnswer::Share(share) => {
                active.divided_at = Some(now);
                Some(share)
            }
            // Nothing is reserved for a host without demand. When it has demand again, it gets an
            // equal share until the engine answers.
            RateAnswer::Whole if !active.is_reported && active.is_divided(now) => {
                Some(call.rate / self.hosts.max(1) as f64)
            }
            RateAnswer::Whole => None,
        };
        active.enforce(
            call.scope,
            share.filter(|share| *share < WHOLE_PART * call.rate),
        )
    }

    /// Records that the demands of all hosts may exceed the rate of a scope.
    pub fn announced(&mut self, now: Instant, scope: ScopeId) {
        if let Some(active) = self.active.get_mut(&scope) {
            active.announced_at = Some(now);
        }
    }

    /// Gives up the shares about which the engine has not answered for five seconds, and those of
    /// divisions that have ended while this host had no demand.
    pub fn give_up(&mut self, now: Instant) -> Vec<ShareChange> {
        let lost = self.active.iter_mut().filter_map(|(scope, active)| {
            let silence = now.saturating_duration_since(active.heard_at);
            let has_ended = match active.is_reported {
                true => silence >= LOST_AFTER,
                false => !active.is_divided(now),
            };
            has_ended.then(|| active.enforce(*scope, None)).flatten()
        });
        lost.collect()
    }

    /// Returns the share of a scope that this host enforces in requests a second, or `None` if it
    /// enforces the whole rate.
    #[must_use]
    pub fn share(&self, scope: ScopeId) -> Option<f64> {
        self.active.get(&scope)?.share
    }

    /// Returns the number of scopes of which this host enforces a share.
    #[must_use]
    pub fn shares(&self) -> u64 {
        let shares = self.active.values();
        shares.filter(|active| active.share.is_some()).count() as u64
    }
}

impl RateReadings<'_> {
    /// Records the number of requests for a scope since the scope exists that were admitted or
    /// refused because of the rate. `rate` is in requests a second.
    pub fn add(&mut self, scope: ScopeId, asked: u64, rate: f64) {
        self.asked.set(scope, asked);
        let (Some(passed), Some(before)) = (self.passed, self.rates.asked.get(scope)) else {
            return;
        };
        // The counters of a new owner of the id begin at 0.
        let requests = asked.saturating_sub(before);
        if requests == 0 && !self.rates.active.contains_key(&scope) {
            return;
        }
        let heard_at = self.now;
        let active = self.rates.active.entry(scope).or_insert(ActiveRate {
            rate,
            recent: 0.0,
            demand: 0.0,
            share: None,
            is_reported: false,
            announced_at: None,
            heard_at,
            divided_at: None,
        });
        active.rate = rate;
        active.follow(requests, passed);
    }

    /// Ends the readings. Returns the changes for scopes that have no rate any more.
    pub fn end(self) -> Vec<ShareChange> {
        let Self {
            rates, now, asked, ..
        } = self;
        rates.read_at = Some(now);
        rates.asked = asked;
        let mut changes = Vec::new();
        let asked = &rates.asked;
        rates.active.retain(|scope, active| {
            if asked.get(*scope).is_none() {
                changes.extend(active.enforce(*scope, None));
                return false;
            }
            active.is_reported || active.share.is_some() || !active.is_idle()
        });
        changes
    }
}

impl ActiveRate {
    /// Makes the demand follow the number of requests in the last `seconds`. A difference that
    /// chance does not explain changes the demand at once. Otherwise the demand is an exponential
    /// moving average. If the demand were noisy, hosts would get larger shares than they need.
    fn follow(&mut self, requests: u64, seconds: f64) {
        if seconds <= 0.0 {
            return;
        }
        let (requests, expected) = (requests as f64, self.demand * seconds);
        let now = requests / seconds;
        // Three standard deviations of a Poisson distribution.
        let chance = 3.0 * (expected.max(requests).sqrt() + 1.0);
        if (requests - expected).abs() > chance {
            self.recent = now;
            self.demand = now;
            return;
        }
        // Half a second, or the time of five requests at the full rate.
        let short = (5.0 / self.rate).clamp(0.5, LONGEST_AVERAGE);
        let long = (10.0 * short).min(LONGEST_AVERAGE);
        let weight = |time: f64| 1.0 - (-seconds / time).exp();
        self.recent += (now - self.recent) * weight(short);
        self.demand += (now - self.demand) * weight(long);
        // Three standard deviations of the shorter average.
        let chance = 3.0 * (self.demand / (2.0 * short)).sqrt();
        if (self.recent - self.demand).abs() > chance {
            self.demand = self.recent;
        }
    }

    /// Returns whether the rate may be divided, as far as this host knows.
    fn is_divided(&self, now: Instant) -> bool {
        self.divided_at
            .is_some_and(|at| now.saturating_duration_since(at) < DIVIDED_FOR)
    }

    /// Returns whether the demand is a negligible part of the rate.
    fn is_idle(&self) -> bool {
        self.demand < 1e-4 * self.rate
    }

    fn enforce(&mut self, scope: ScopeId, share: Option<f64>) -> Option<ShareChange> {
        (self.share != share).then(|| {
            self.share = share;
            ShareChange { scope, share }
        })
    }
}

#[cfg(test)]
mod tests;
