// SPDX-License-Identifier: MIT OR Apache-2.0

//! Makes the page of metrics from the daemon's figures.

use chrono::{DateTime, Utc};
use limiter_common::abi::{self, counter};
use prometheus_client::{metrics::MetricType, registry::Unit};

use super::format::{Labels, Page, Value};
use crate::{
    domain::refusals::Refusals,
    engine::counts::figures::{Figures, TierFigures, TopScope},
};

impl Page {
    /// Makes a page from these figures.
    pub fn of(figures: &Figures) -> Self {
        let mut page = Self::default();
        page.requests(figures);
        page.scopes(figures);
        page.tables(figures);
        page.counters(figures);
        page.health(figures);
        page.fleet(figures);
        page.attachments(figures);
        page.programs(figures);
        page.daemon(figures);
        page
    }

    fn requests(&mut self, figures: &Figures) {
        let mut samples = Vec::new();
        let mut would_refuse = Vec::new();
        for (tier, sums) in &figures.tiers {
            samples.push((verdict(tier, "admitted", ""), Value::Count(sums.admitted)));
            for (reason, count) in by_reason(sums.refused) {
                samples.push((verdict(tier, "refused", reason), Value::Count(count)));
            }
            for (reason, count) in by_reason(sums.would_refuse) {
                let labels = vec![("tier", tier.clone()), ("reason", reason.to_owned())];
                would_refuse.push((labels, Value::Count(count)));
            }
        }
        for (reason, index) in [
            ("missing_key", counter::MISSING_KEY_REFUSED),
            ("unknown_key", counter::UNKNOWN_KEY_REFUSED),
            ("disabled_key", counter::DISABLED_KEY_REFUSED),
            ("malformed", counter::MALFORMED_REFUSED),
            ("connect", counter::CONNECT_REFUSED),
        ] {
            let count = figures.counters.get(index as usize).copied().unwrap_or(0);
            samples.push((verdict("", "refused", reason), Value::Count(count)));
        }
        self.add(
            MetricType::Counter,
            ("requests", None),
            "Requests that were admitted and charged to a scope (verdict admitted, without a reason) or refused, since the kernel's maps were created. Requests of scopes that were removed are included. Refusals that concern no scope have no tier.",
            samples,
        );
        self.add(
            MetricType::Counter,
            ("would_refuse_requests", None),
            "Requests that were admitted in observe mode, and would have been refused if limits were enforced.",
            would_refuse,
        );
    }

    fn scopes(&mut self, figures: &Figures) {
        let mut by_tier = |name: &'static str, help, value: fn(&TierFigures) -> u64| {
            let samples = figures.tiers.iter().map(|(tier, sums)| {
                let labels = vec![("tier", tier.clone())];
                (labels, Value::Count(value(sums)))
            });
            self.add(MetricType::Gauge, (name, None), help, samples.collect());
        };
        by_tier(
            "scopes",
            "Scopes, including those of unknown keys.",
            |sums| sums.scopes,
        );
        by_tier(
            "requests_in_flight",
            "Admitted requests whose response has not been sent completely.",
            |sums| sums.in_flight,
        );
        by_tier(
            "connections",
            "Open connections on which keys were used, counted once for each scope.",
            |sums| sums.connections,
        );
        by_tier(
            "allowance_requests",
            "Requests that the store has allowed today and that are not used yet, of scopes with a daily quota.",
            |sums| sums.allowance,
        );
        let ratio = || Some(Unit::Other("ratio".to_owned()));
        let shares = figures.tiers.iter().map(|(tier, sums)| {
            let labels = vec![("tier", tier.clone())];
            (labels, Value::Distribution(sums.quota_used.clone()))
        });
        self.add(
            MetricType::Histogram,
            ("quota_used", ratio()),
            "Scopes with a daily quota, by the share of it that they have used today. The histogram has present values, so rate() of it has no meaning.",
            shares.collect(),
        );
        for (name, unit, help, top) in [
            (
                "top_scope_quota_used",
                ratio(),
                "Share of its daily quota that a scope has used today, for the scopes with the largest shares (metrics.top_scopes).",
                &figures.nearest_quota,
            ),
            (
                "top_scope_used_requests",
                None,
                "Requests charged to a scope today, for the scopes with the most.",
                &figures.most_used,
            ),
            (
                "top_scope_refused_requests",
                None,
                "Requests of a scope that were refused today because of one of its limits, for the scopes with the most.",
                &figures.most_refused,
            ),
        ] {
            self.add(MetricType::Gauge, (name, unit), help, top_samples(top));
        }
    }

    fn tables(&mut self, figures: &Figures) {
        let tables = &figures.tables;
        let mut entries = Vec::new();
        let mut capacities = Vec::new();
        for (table, count, capacity) in [
            ("flows", Some(figures.flows.open), tables.flows),
            ("scopes", Some(figures.scopes), tables.scopes),
            ("keys", figures.keys, tables.keys),
            (
                "unknown_keys",
                Some(figures.unknown_keys),
                tables.unknown_keys,
            ),
        ] {
            let labels = || vec![("table", table.to_owned())];
            entries.extend(count.map(|count| (labels(), Value::Count(count))));
            capacities.push((labels(), Value::Count(u64::from(capacity))));
        }
        self.add(
            MetricType::Gauge,
            ("table_entries", None),
            "Entries in the tables whose sizes are in the section [tables]: flows (as of the last sweep, which is some seconds old), registered scopes, registered keys, and unknown keys that have a scope.",
            entries,
        );
        self.add(
            MetricType::Gauge,
            ("table_capacity_entries", None),
            "Capacity of these tables, in entries.",
            capacities,
        );
        self.gauge(
            "half_open_flows",
            None,
            "Tracked connections that are half open, as of the last sweep.",
            figures.flows.half_open as f64,
        );
    }

    /// Adds the counters of the kernel programs.
    fn counters(&mut self, figures: &Figures) {
        let names = counter::NAMES.iter().zip(counter::MEANINGS);
        for ((name, meaning), count) in names.zip(&figures.counters) {
            let meaning = meaning.trim_start();
            let (name, unit) = match name.strip_suffix("_bytes") {
                Some(name) => (name, Some(Unit::Bytes)),
                None => (*name, None),
            };
            let samples = vec![(Labels::new(), Value::Count(*count))];
            self.add(MetricType::Counter, (name, unit), meaning, samples);
        }
    }

    fn health(&mut self, figures: &Figures) {
        let parts = figures.parts.iter().map(|(part, works)| {
            let labels = vec![("part", (*part).to_owned())];
            (labels, Value::Count(u64::from(*works)))
        });
        self.add(
            MetricType::Gauge,
            ("health", None),
            "1 if a part of the daemon works, and 0 if it does not. `limiter status` shows the reason.",
            parts.collect(),
        );
        let healed = &figures.healed;
        for (name, help, count) in [
            (
                "healing_checks",
                "Checks whether silent connections still have a socket, since the daemon started.",
                healed.checks,
            ),
            (
                "healing_recounts",
                "Recounts of requests in flight and connections, since the daemon started.",
                healed.recounts,
            ),
            (
                "healed_requests",
                "Requests in flight by which counts were wrong and were corrected, since the daemon started.",
                healed.slots,
            ),
            (
                "healed_connections",
                "Connections by which counts were wrong and were corrected, since the daemon started.",
                healed.connections,
            ),
        ] {
            self.counter(name, help, count);
        }
        let writes = &figures.writes;
        self.add(
            MetricType::Histogram,
            ("store_write", Some(Unit::Seconds)),
            "Time that writes to the store took until they were on the disk, since the daemon started.",
            vec![(Labels::new(), Value::Distribution(writes.seconds.clone()))],
        );
        self.counter(
            "store_write_failures",
            "Writes to the store that failed or were refused, since the daemon started.",
            writes.failures,
        );
    }

    fn fleet(&mut self, figures: &Figures) {
        let fleet = &figures.fleet;
        self.gauge(
            "fleet_engine_up",
            None,
            "1 if the engine of the fleet has answered within the last five seconds, and otherwise 0, also if this host belongs to no fleet.",
            f64::from(u8::from(fleet.engine_up)),
        );
        self.add(
            MetricType::Histogram,
            ("fleet_engine", Some(Unit::Seconds)),
            "Time that calls for leases took until the engine had answered, since the daemon started. A call concerns many scopes.",
            vec![(Labels::new(), Value::Distribution(fleet.seconds.clone()))],
        );
        let results = fleet.results.map(|(result, count)| {
            let labels = vec![("result", result.to_owned())];
            (labels, Value::Count(count))
        });
        self.add(
            MetricType::Counter,
            ("fleet_leases", None),
            "Leases for which this host has asked, or which it has reported, by the engine's answer, since the daemon started.",
            results.into(),
        );
        self.gauge(
            "fleet_leased_requests",
            None,
            "Requests that this host may still admit today without asking the engine, of all scopes that share their quotas.",
            fleet.leased as f64,
        );
        for (name, help, count) in [
            (
                "fleet_unconfirmed",
                "Grants that were not used because too few replicas of the engine have confirmed them, since the daemon started.",
                fleet.unconfirmed,
            ),
            (
                "fleet_held",
                "Reports of the kernel about requests that wait for a longer lease, since the daemon started. A request that is retransmitted counts again.",
                fleet.held,
            ),
            (
                "fleet_recalls",
                "Recalls after which this host has given back requests that other hosts needed, since the daemon started.",
                fleet.recalls,
            ),
            (
                "fleet_overruns",
                "Daily quotas that the hosts of the fleet have exceeded, since the daemon started. \
                 Each host counts the same excesses, so do not add up the hosts. It stays 0 unless `fleet.engine_lost` allows more, or the engine has lost data.",
                fleet.overruns,
            ),
        ] {
            self.counter(name, help, count);
        }
        self.gauge(
            "fleet_divided_rates",
            None,
            "Scopes whose rate is divided, so that this host enforces only a share of it.",
            fleet.divided_rates as f64,
        );
        self.gauge(
            "fleet_learning",
            None,
            "1 while the engine grants nothing because it may have lost its last writes and is waiting for the reports of the hosts.",
            f64::from(u8::from(fleet.learning)),
        );
        self.gauge(
            "fleet_registry_behind_changes",
            None,
            "Changes of scopes and keys by other hosts that this host does not have yet.",
            fleet.behind as f64,
        );
        let hosts = fleet.hosts.map(|(state, count)| {
            let labels = vec![("state", state.to_owned())];
            (labels, Value::Count(count))
        });
        self.add(
            MetricType::Gauge,
            ("fleet_hosts", None),
            "Hosts of the fleet, by state. A host is alive or silent, and may also be behind (it lacks changes of scopes or keys) or different (its configuration differs from that of this host).",
            hosts.into(),
        );
        self.gauge(
            "fleet_clock_difference",
            Some(Unit::Seconds),
            "Time by which this host's clock is ahead of the engine's; negative if it is behind.",
            fleet.clock_seconds,
        );
    }

    fn attachments(&mut self, figures: &Figures) {
        let attached = figures.attached.iter().map(|attached| {
            let labels = vec![
                ("interface", attached.interface.clone()),
                ("hook", attached.hook.as_str().to_owned()),
                ("mechanism", attached.mechanism.as_str().to_owned()),
            ];
            (labels, Value::Count(1))
        });
        let missing = figures.missing.iter().map(|missing| {
            let labels = vec![
                ("interface", missing.interface.clone()),
                ("hook", missing.hook.as_str().to_owned()),
                ("mechanism", figures.mechanism.as_str().to_owned()),
            ];
            (labels, Value::Count(0))
        });
        self.add(
            MetricType::Gauge,
            ("attached", None),
            "1 for each hook where a program is attached, and 0 for each where it cannot be attached.",
            attached.chain(missing).collect(),
        );
        let before = figures.attached.iter().map(|attached| {
            let labels = vec![
                ("interface", attached.interface.clone()),
                ("hook", attached.hook.as_str().to_owned()),
            ];
            (labels, Value::Count(attached.before.len() as u64))
        });
        self.add(
            MetricType::Gauge,
            ("programs_before", None),
            "Other programs and filters that packets reach before those of limiter.",
            before.collect(),
        );
    }

    /// Adds the run time of the kernel programs, if the kernel measures it.
    fn programs(&mut self, figures: &Figures) {
        let mut runs = Vec::new();
        let mut times = Vec::new();
        for program in &figures.programs {
            let labels = || vec![("program", program.program.to_owned())];
            runs.push((labels(), Value::Count(program.runs)));
            times.push((labels(), Value::Number(program.time.as_secs_f64())));
        }
        self.add(
            MetricType::Counter,
            ("program_runs", None),
            "Runs of an attached program, one for each packet, since this daemon loaded it (metrics.program_time).",
            runs,
        );
        self.add(
            MetricType::Counter,
            ("program_run", Some(Unit::Seconds)),
            "Time that the runs of an attached program took.",
            times,
        );
    }

    fn daemon(&mut self, figures: &Figures) {
        let seconds = || Some(Unit::Seconds);
        self.gauge(
            "start_time",
            seconds(),
            "Time at which the daemon started, in seconds since 1970.",
            unix(figures.started_at),
        );
        self.gauge(
            "uptime",
            seconds(),
            "Time for which the daemon has run.",
            (figures.now - figures.started_at).as_seconds_f64(),
        );
        self.gauge(
            "in_force_since_timestamp",
            seconds(),
            "Time since which limits have been in force without a break, also across restarts of the daemon, in seconds since 1970.",
            unix(figures.since),
        );
        let build = vec![
            ("version", env!("CARGO_PKG_VERSION").to_owned()),
            ("layout", abi::ABI_VERSION.to_string()),
        ];
        self.add(
            MetricType::Gauge,
            ("build_info", None),
            "Always 1. The labels are the version of the daemon and that of the layout of its maps.",
            vec![(build, Value::Count(1))],
        );
    }
}

fn verdict(tier: &str, verdict: &str, reason: &str) -> Labels {
    [("tier", tier), ("verdict", verdict), ("reason", reason)]
        .map(|(name, value)| (name, value.to_owned()))
        .into()
}

fn by_reason(refusals: Refusals) -> [(&'static str, u64); 4] {
    let Refusals {
        rate,
        concurrency,
        connections,
        daily_quota,
    } = refusals;
    [
        ("rate", rate),
        ("concurrency", concurrency),
        ("connections", connections),
        ("daily_quota", daily_quota),
    ]
}

fn top_samples(top: &[TopScope]) -> Vec<(Labels, Value)> {
    let sample = |top: &TopScope| {
        let labels = vec![("scope", top.scope.clone()), ("tier", top.tier.clone())];
        (labels, Value::Number(top.value))
    };
    top.iter().map(sample).collect()
}

/// Returns the number of seconds since 1970.
fn unix(at: DateTime<Utc>) -> f64 {
    at.timestamp_millis() as f64 / 1000.0
}
