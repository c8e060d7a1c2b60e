//! From figures to text.

use std::{borrow::Cow, fmt};

use chrono::{DateTime, Utc};
use limiter_common::abi::{self, counter};
use prometheus_client::{
    collector::Collector,
    encoding::{
        DescriptorEncoder, EncodeMetric as _, MetricEncoder, NoLabelSet, prometheus_text, text,
    },
    metrics::{MetricType, histogram::Histogram},
    registry::{Registry, Unit},
};

use crate::{
    daemon::{Figures, TierFigures, TopScope},
    store::Refusals,
};

/// Before each name.
const PREFIX: &str = "limiter";

/// How a page is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Prometheus' text format, version 0.0.4.
    Prometheus,
    /// OpenMetrics, version 1.0.0.
    OpenMetrics,
}

impl Format {
    /// The one to use for who accepts that (`Accept`, RFC 9110, section 12.5.1): whoever names
    /// OpenMetrics reads it.
    pub fn accepted<'a>(mut accepted: impl Iterator<Item = &'a str>) -> Self {
        if accepted.any(|value| value.contains("application/openmetrics-text")) {
            Self::OpenMetrics
        } else {
            Self::Prometheus
        }
    }

    /// What a response says it is.
    pub fn content_type(self) -> &'static str {
        match self {
            Self::Prometheus => prometheus_text::CONTENT_TYPE,
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

/// Names and values of a sample's labels.
type Labels = Vec<(&'static str, String)>;

#[derive(Debug)]
enum Value {
    Count(u64),
    Number(f64),
    Distribution(Histogram),
}

/// Samples of one name.
#[derive(Debug)]
struct Family {
    /// Without prefix, unit and `_total`.
    name: Cow<'static, str>,
    help: Cow<'static, str>,
    unit: Option<Unit>,
    kind: MetricType,
    samples: Vec<(Labels, Value)>,
}

/// A page.
#[derive(Debug)]
pub struct Page(Vec<Family>);

impl Collector for Page {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        // A name without samples says nothing.
        for family in self.0.iter().filter(|family| !family.samples.is_empty()) {
            let unit = family.unit.as_ref();
            let mut metric =
                encoder.encode_descriptor(&family.name, &family.help, unit, family.kind)?;
            for (labels, value) in &family.samples {
                value.encode(family.kind, metric.encode_family(labels)?)?;
            }
        }
        Ok(())
    }
}

impl Value {
    fn encode(&self, kind: MetricType, mut encoder: MetricEncoder<'_>) -> fmt::Result {
        let is_counter = matches!(kind, MetricType::Counter);
        match self {
            Self::Count(count) if is_counter => {
                encoder.encode_counter::<NoLabelSet, u64, u64>(count, None)
            }
            Self::Number(number) if is_counter => {
                encoder.encode_counter::<NoLabelSet, f64, f64>(number, None)
            }
            Self::Count(count) => encoder.encode_gauge(count),
            Self::Number(number) => encoder.encode_gauge(number),
            Self::Distribution(histogram) => histogram.encode(encoder),
        }
    }
}

impl Page {
    /// The page of these figures.
    pub fn of(figures: &Figures) -> Self {
        let mut page = Self(Vec::new());
        page.requests(figures);
        page.scopes(figures);
        page.tables(figures);
        page.counters(figures);
        page.health(figures);
        page.daemon(figures);
        page
    }

    /// Its text.
    ///
    /// # Errors
    /// None, as it is written to memory.
    pub fn write(self, format: Format) -> Result<String, fmt::Error> {
        let mut registry = Registry::with_prefix(PREFIX);
        registry.register_collector(Box::new(self));
        let mut text = String::new();
        match format {
            Format::Prometheus => prometheus_text::encode(&mut text, &registry)?,
            Format::OpenMetrics => text::encode(&mut text, &registry)?,
        }
        Ok(text)
    }

    fn add(
        &mut self,
        kind: MetricType,
        (name, unit): (impl Into<Cow<'static, str>>, Option<Unit>),
        help: impl Into<Cow<'static, str>>,
        samples: Vec<(Labels, Value)>,
    ) {
        self.0.push(Family {
            name: name.into(),
            help: help.into(),
            unit,
            kind,
            samples,
        });
    }

    fn counter(
        &mut self,
        name: impl Into<Cow<'static, str>>,
        help: impl Into<Cow<'static, str>>,
        count: u64,
    ) {
        let samples = vec![(Labels::new(), Value::Count(count))];
        self.add(MetricType::Counter, (name, None), help, samples);
    }

    fn gauge(&mut self, name: &'static str, unit: Option<Unit>, help: &'static str, value: f64) {
        let samples = vec![(Labels::new(), Value::Number(value))];
        self.add(MetricType::Gauge, (name, unit), help, samples);
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
        ] {
            let count = figures.counters.get(index as usize).copied().unwrap_or(0);
            samples.push((verdict("", "refused", reason), Value::Count(count)));
        }
        self.add(
            MetricType::Counter,
            ("requests", None),
            "Requests charged to a scope and passed (verdict admitted, no reason), or refused, since the kernel's maps were made; also of scopes removed since. Refusals that concern no scope have no tier.",
            samples,
        );
        self.add(
            MetricType::Counter,
            ("would_refuse_requests", None),
            "Requests admitted in observe mode that enforcement would have refused.",
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
        by_tier("scopes", "Scopes, those of unknown keys too.", |sums| {
            sums.scopes
        });
        by_tier(
            "requests_in_flight",
            "Requests admitted whose response has not left yet.",
            |sums| sums.in_flight,
        );
        by_tier(
            "connections",
            "Open connections on which keys of scopes were used, once for each scope.",
            |sums| sums.connections,
        );
        by_tier(
            "allowance_requests",
            "Requests that are allowed today by what the store has written and are not used yet, of scopes with a daily quota.",
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
            "Scopes that have a daily quota, by the share of it that they have used today. As it is now: not for rate().",
            shares.collect(),
        );
        for (name, unit, help, top) in [
            (
                "top_scope_quota_used",
                ratio(),
                "Share of its daily quota that a scope has used today, for the scopes where that is largest (metrics.top_scopes).",
                &figures.nearest_quota,
            ),
            (
                "top_scope_used_requests",
                None,
                "Requests charged to a scope today, for the scopes where these are most.",
                &figures.most_used,
            ),
            (
                "top_scope_refused_requests",
                None,
                "Requests of a scope refused today for one of its limits, for the scopes where these are most.",
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
            "Entries in the tables that [tables] gives a size: flows (as of the last sweep, some seconds ago), registered scopes and keys, and unknown keys that have a scope.",
            entries,
        );
        self.add(
            MetricType::Gauge,
            ("table_capacity_entries", None),
            "Entries that these tables have room for.",
            capacities,
        );
        self.gauge(
            "half_open_flows",
            None,
            "Connections followed that are half open, as of the last sweep.",
            figures.flows.half_open as f64,
        );
    }

    /// What the kernel counts, name by name.
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
            "1 where a part of the daemon works, 0 where it does not; limiter status says why.",
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
                "Requests in flight by which counts were wrong and were put right, since the daemon started.",
                healed.slots,
            ),
            (
                "healed_connections",
                "Connections by which counts were wrong and were put right, since the daemon started.",
                healed.connections,
            ),
        ] {
            self.counter(name, help, count);
        }
        let writes = &figures.writes;
        self.add(
            MetricType::Histogram,
            ("store_write", Some(Unit::Seconds)),
            "How long changes of the store took until they were on the disk, since the daemon started.",
            vec![(Labels::new(), Value::Distribution(writes.seconds.clone()))],
        );
        self.counter(
            "store_write_failures",
            "Changes of the store that failed or were refused, since the daemon started.",
            writes.failures,
        );
    }

    fn daemon(&mut self, figures: &Figures) {
        let attached = figures.attached.iter().map(|attached| {
            let labels = vec![
                ("interface", attached.interface.clone()),
                ("hook", attached.hook.as_str().to_owned()),
                ("mechanism", attached.mechanism.as_str().to_owned()),
            ];
            (labels, Value::Count(1))
        });
        self.add(
            MetricType::Gauge,
            ("attached", None),
            "1 for each place where a program is attached.",
            attached.collect(),
        );
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
            "Runs of an attached program, one a packet, since this daemon loaded it (metrics.program_time).",
            runs,
        );
        self.add(
            MetricType::Counter,
            ("program_run", Some(Unit::Seconds)),
            "Time that these runs took.",
            times,
        );
        let seconds = || Some(Unit::Seconds);
        self.gauge(
            "start_time",
            seconds(),
            "When the daemon started, in seconds since 1970.",
            unix(figures.started_at),
        );
        self.gauge(
            "uptime",
            seconds(),
            "How long the daemon has run.",
            (figures.now - figures.started_at).as_seconds_f64(),
        );
        self.gauge(
            "in_force_since_timestamp",
            seconds(),
            "Since when limits have been in force without a break, over daemons, in seconds since 1970.",
            unix(figures.since),
        );
        let build = vec![
            ("version", env!("CARGO_PKG_VERSION").to_owned()),
            ("layout", abi::ABI_VERSION.to_string()),
        ];
        self.add(
            MetricType::Gauge,
            ("build_info", None),
            "1; the daemon's version, and that of the layout of its maps.",
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

/// Seconds since 1970.
fn unix(at: DateTime<Utc>) -> f64 {
    at.timestamp_millis() as f64 / 1000.0
}
