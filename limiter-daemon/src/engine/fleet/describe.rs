// SPDX-License-Identifier: MIT OR Apache-2.0

//! The description that each host gives of itself with its heartbeats, and the view of the fleet.

use std::{fmt, sync::Arc};

use chrono::{DateTime, Utc};
use limiter_common::siphash::siphash128;
use limiter_fleet::registry::Host;
use serde::{Deserialize, Serialize};

use super::{
    link::{AWAY, FleetLink},
    tasks::with,
};
use crate::{
    config::{Config, Fleet},
    engine::{scopes::registry::Scope, shared::Shared, state::Engine, time::day_of},
    protocol::fleet::{EngineView, FleetView, HostView, LeasesView, ServerView},
};

/// The description of a host. Hosts with other versions of limiter may add fields.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct HostText {
    pub(crate) name: String,
    /// The version of the registry that the host has.
    pub(crate) version: u64,
    /// The digest of its configuration.
    pub(crate) configuration: String,
    /// The time by which its clock is ahead of that of the engine, in milliseconds.
    pub(crate) clock_ms: i64,
    /// The version of limiter.
    pub(crate) limiter: String,
}

impl HostText {
    /// Returns the description of this host as JSON.
    pub(super) async fn of(shared: &Arc<Shared>, link: &FleetLink) -> String {
        let state = with(shared, |engine| {
            (engine.registry_version(), engine.configuration_digest())
        });
        let (version, configuration) = state.await.unwrap_or_default();
        let text = Self {
            name: link.identity().name.clone(),
            version,
            configuration,
            clock_ms: link.news().clock_ms,
            limiter: env!("CARGO_PKG_VERSION").to_owned(),
        };
        text.to_string()
    }
}

impl fmt::Display for HostText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Names and numbers can always be written as JSON.
        f.write_str(&serde_json::to_string(self).unwrap_or_default())
    }
}

/// Returns a digest of the settings that have to be the same on all hosts.
fn digest(config: &Config) -> String {
    let Config {
        attach,
        sources,
        policy,
        tiers,
        fleet,
        ..
    } = config;
    let rate = fleet.as_ref().map(|fleet| fleet.rate);
    let text = format!(
        "{:?} {sources:?} {policy:?} {tiers:?} {rate:?}",
        attach.ports
    );
    let [first, _] = siphash128([0, 0], text.as_bytes());
    format!("{first:016x}")
}

impl Engine {
    /// Returns the digest of the settings that have to be the same on all hosts.
    pub(super) fn configuration_digest(&self) -> String {
        digest(self.setup.config())
    }

    /// Returns the state of the fleet.
    pub(crate) fn fleet_view(&self, link: &FleetLink, now: DateTime<Utc>) -> FleetView {
        let config = self.setup.config().fleet.as_ref();
        let news = link.news().clone();
        let is_up = news.is_up(now);
        let own = self.configuration_digest();
        let mut hosts: Vec<HostView> = news
            .hosts
            .iter()
            .map(|host| view_host(host, news.listed_at, (news.version, &own)))
            .collect();
        hosts.sort_by(|one, other| (&one.name, &one.id).cmp(&(&other.name, &other.id)));
        let problems = self
            .health()
            .into_iter()
            .filter(|health| health.part == "fleet" || health.part == "registry")
            .map(|health| health.message)
            .collect();
        FleetView {
            fleet: self.fleet_id(),
            host: link.identity().id.clone(),
            name: link.identity().name.clone(),
            engine: EngineView {
                up: is_up,
                kind: config.map_or("", Fleet::kind_as_str).to_owned(),
                servers: news
                    .servers
                    .iter()
                    .map(|(address, server)| ServerView {
                        address: address.to_string(),
                        version: server.as_ref().ok().map(|server| server.version.clone()),
                        replicas: server.as_ref().map_or(0, |server| server.replicas),
                        append_only_file: server
                            .as_ref()
                            .is_ok_and(|server| server.has_append_only_file),
                        problem: server.as_ref().err().cloned(),
                    })
                    .collect(),
                confirm: news.confirm,
                answered_at: news.answered_at,
                version: news.version,
                problem: news.problem,
            },
            version: self.registry_version(),
            leases: self.leases_now(now),
            divided_rates: self.divided_rates(),
            hosts,
            problems,
        }
    }

    /// Returns the sums over the leases of this host, with the counts that the kernel has now.
    pub(crate) fn leases_now(&self, now: DateTime<Utc>) -> LeasesView {
        let today = day_of(now);
        self.leases_view(|scope| {
            // A copy of the counts is updated, because a view must not change the scope.
            let mut counts = scope.counts;
            counts.read(&self.plane.state(scope.record.id), today);
            counts.usage.used
        })
    }

    /// Returns the sums over the leases of this host. `used` returns the number of requests of a
    /// scope that have been admitted today.
    pub(super) fn leases_view(&self, used: impl Fn(&Scope) -> u64) -> LeasesView {
        let Some(member) = &self.fleet else {
            return LeasesView::default();
        };
        let shared = self.scopes.iter().filter_map(|scope| {
            let bounds = scope.shared_bounds()?;
            Some(bounds.today.limit.saturating_sub(used(scope)))
        });
        let (scopes, left) = shared.fold((0, 0u64), |(scopes, left), more| {
            (scopes + 1, left.saturating_add(more))
        });
        let results = member.results;
        LeasesView {
            scopes,
            left,
            granted: results.granted,
            leased_out: results.leased_out,
            used_up: results.used_up,
            learning: results.learning,
            refused: results.refused,
            failed: results.failed,
            recalls: member.recalls,
        }
    }
}

fn view_host(
    host: &Host,
    listed_at: std::time::Duration,
    (version, configuration): (u64, &str),
) -> HostView {
    // A host with another version of limiter may describe itself in another way.
    let text: HostText = serde_json::from_str(&host.text).unwrap_or_default();
    let seen_ms = i64::try_from(host.seen.as_millis()).unwrap_or(i64::MAX);
    HostView {
        id: host.id.clone(),
        name: text.name,
        seen_at: DateTime::from_timestamp_millis(seen_ms).unwrap_or_default(),
        silent: listed_at.saturating_sub(host.seen) > AWAY,
        version: text.version,
        behind: text.version < version,
        differs: text.configuration != configuration,
        clock_ms: text.clock_ms,
        limiter: text.limiter,
    }
}
