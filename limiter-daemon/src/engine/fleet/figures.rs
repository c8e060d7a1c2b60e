// SPDX-License-Identifier: MIT OR Apache-2.0

//! The numbers of the metrics page that concern the fleet.

use std::time::Instant;

use chrono::{DateTime, Utc};
use prometheus_client::metrics::histogram::Histogram;

use super::{
    describe::HostText,
    link::{AWAY, FleetLink},
    member::{Results, SECONDS},
};
use crate::engine::state::Engine;

/// The numbers of the metrics page that concern the fleet. All are 0 if this host belongs to none.
#[derive(Debug)]
pub struct FleetFigures {
    /// Whether the engine has answered within the last five seconds.
    pub engine_up: bool,
    /// The times that calls took.
    pub seconds: Histogram,
    /// The numbers of answers, by result.
    pub results: [(&'static str, u64); 6],
    /// The number of calls that too few replicas have confirmed.
    pub unconfirmed: u64,
    /// The number of requests that this host may still admit today without asking the engine.
    pub leased: u64,
    /// The number of reports of the kernel about requests that wait for a longer lease.
    pub held: u64,
    /// The number of recalls that this host has followed.
    pub recalls: u64,
    /// The number of daily quotas that the hosts have exceeded.
    pub overruns: u64,
    /// The number of scopes of whose rates this host enforces a share.
    pub divided_rates: u64,
    /// Whether the engine was learning which leases there are, at the last answer.
    pub learning: bool,
    /// The number of changes of the registry that this host does not have yet.
    pub behind: u64,
    /// The numbers of hosts, by state.
    pub hosts: [(&'static str, u64); 4],
    /// The time by which this host's clock is ahead of the engine's, in seconds.
    pub clock_seconds: f64,
}

impl Default for FleetFigures {
    fn default() -> Self {
        Self {
            engine_up: false,
            seconds: Histogram::new(SECONDS),
            results: by_result(Results::default()),
            unconfirmed: 0,
            leased: 0,
            held: 0,
            recalls: 0,
            overruns: 0,
            divided_rates: 0,
            learning: false,
            behind: 0,
            hosts: [("alive", 0), ("silent", 0), ("behind", 0), ("different", 0)],
            clock_seconds: 0.0,
        }
    }
}

fn by_result(results: Results) -> [(&'static str, u64); 6] {
    [
        ("granted", results.granted),
        ("leased_out", results.leased_out),
        ("used_up", results.used_up),
        ("learning", results.learning),
        ("refused", results.refused),
        ("failed", results.failed),
    ]
}

impl Engine {
    /// Returns the numbers that concern the fleet.
    pub(crate) fn fleet_figures(&self, link: &FleetLink, now: DateTime<Utc>) -> FleetFigures {
        let Some(member) = &self.fleet else {
            return FleetFigures::default();
        };
        let news = link.news().clone();
        let own = self.configuration_digest();
        let [mut alive, mut silent, mut behind, mut different] = [0; 4];
        for host in &news.hosts {
            let text: HostText = serde_json::from_str(&host.text).unwrap_or_default();
            let is_silent = news.listed_at.saturating_sub(host.seen) > AWAY;
            alive += u64::from(!is_silent);
            silent += u64::from(is_silent);
            behind += u64::from(text.version < news.version);
            different += u64::from(text.configuration != own);
        }
        FleetFigures {
            engine_up: news.is_up(now),
            seconds: member.seconds.clone(),
            results: by_result(member.results),
            unconfirmed: member.results.unconfirmed,
            leased: self.leases_view(|scope| scope.counts.usage.used).left,
            held: member.held,
            recalls: member.recalls,
            overruns: member.overruns,
            divided_rates: self.divided_rates(),
            learning: member
                .learning_until
                .is_some_and(|until| until > Instant::now()),
            behind: news.version.saturating_sub(member.registry.version),
            hosts: [
                ("alive", alive),
                ("silent", silent),
                ("behind", behind),
                ("different", different),
            ],
            clock_seconds: news.clock_ms as f64 / 1000.0,
        }
    }
}
