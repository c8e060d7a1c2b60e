// SPDX-License-Identifier: MIT OR Apache-2.0

//! A page of metrics, and its text in the two formats.

use std::{borrow::Cow, fmt};

use prometheus_client::{
    collector::Collector,
    encoding::{
        DescriptorEncoder, EncodeMetric as _, MetricEncoder, NoLabelSet, prometheus_text, text,
    },
    metrics::{MetricType, histogram::Histogram},
    registry::{Registry, Unit},
};

/// The prefix of each metric's name.
const PREFIX: &str = "limiter";

/// The format of a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Prometheus' text format, version 0.0.4.
    Prometheus,
    /// OpenMetrics, version 1.0.0.
    OpenMetrics,
}

impl Format {
    /// Returns the format for a client that has sent the values `accepted` in `Accept` (RFC 9110,
    /// section 12.5.1). The format is OpenMetrics if one of the values names OpenMetrics,
    /// regardless of the weight of that value.
    pub fn accepted<'a>(mut accepted: impl Iterator<Item = &'a str>) -> Self {
        if accepted.any(|value| value.contains("application/openmetrics-text")) {
            Self::OpenMetrics
        } else {
            Self::Prometheus
        }
    }

    /// Returns the value of `Content-Type` for this format.
    pub fn content_type(self) -> &'static str {
        match self {
            Self::Prometheus => prometheus_text::CONTENT_TYPE,
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

/// The names and values of a sample's labels.
pub(super) type Labels = Vec<(&'static str, String)>;

/// The value of a sample.
#[derive(Debug)]
pub(super) enum Value {
    Count(u64),
    Number(f64),
    Distribution(Histogram),
}

/// All samples with the same name.
#[derive(Debug)]
struct Family {
    /// The name without the prefix, the unit and `_total`.
    name: Cow<'static, str>,
    help: Cow<'static, str>,
    unit: Option<Unit>,
    kind: MetricType,
    samples: Vec<(Labels, Value)>,
}

/// A page of metrics.
#[derive(Debug, Default)]
pub struct Page(Vec<Family>);

impl Collector for Page {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        // A family without samples is left out.
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
    /// Returns the text of the page.
    ///
    /// # Errors
    /// Returns an error only if writing to memory fails, which does not happen in practice.
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

    /// Adds a family with these samples.
    pub(super) fn add(
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

    /// Adds a counter without labels.
    pub(super) fn counter(
        &mut self,
        name: impl Into<Cow<'static, str>>,
        help: impl Into<Cow<'static, str>>,
        count: u64,
    ) {
        let samples = vec![(Labels::new(), Value::Count(count))];
        self.add(MetricType::Counter, (name, None), help, samples);
    }

    /// Adds a gauge without labels.
    pub(super) fn gauge(
        &mut self,
        name: &'static str,
        unit: Option<Unit>,
        help: &'static str,
        value: f64,
    ) {
        let samples = vec![(Labels::new(), Value::Number(value))];
        self.add(MetricType::Gauge, (name, unit), help, samples);
    }
}
