//! What `limiter status` tells.

use limiter_common::abi::counter;
use serde_json::Value;

use super::engine::Engine;
use crate::{
    api::{ApiError, AttachedView, StatusView, Totals},
    store::Refusals,
};

/// Counters that stand under `totals`; all others are coverage.
const TOTALS: [u32; 8] = [
    counter::ADMITTED,
    counter::REFUSED_RATE,
    counter::REFUSED_CONCURRENCY,
    counter::REFUSED_CONNECTIONS,
    counter::REFUSED_DAILY_QUOTA,
    counter::MALFORMED,
    counter::MISSING_KEY,
    counter::UNKNOWN_KEY,
];

impl Engine {
    /// Where programs are attached.
    pub(super) fn attached_view(&self) -> Vec<AttachedView> {
        let mechanism = self.plane.mechanism();
        let attached = self.plane.attached().into_iter();
        attached
            .map(|attached| AttachedView {
                interface: attached.interface,
                hook: attached.hook,
                mechanism,
            })
            .collect()
    }

    /// Attachments, sums and what is wrong.
    ///
    /// # Errors
    /// The kernel's and the store's.
    pub fn status(&self) -> Result<StatusView, ApiError> {
        let counters = self.plane.counters()?;
        let at = |index: u32| counters.get(index as usize).copied().unwrap_or(0);
        let coverage = (0..counter::COUNT)
            .filter(|index| !TOTALS.contains(index))
            .filter_map(|index| {
                let name = counter::NAMES.get(index as usize)?;
                Some(((*name).to_owned(), Value::from(at(index))))
            })
            .collect();
        Ok(StatusView {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            attached: self.attached_view(),
            since: self.since,
            started_at: self.started_at,
            guarded_ports: self.config.attach.ports.clone(),
            mode: self.config.policy.mode.as_str().to_owned(),
            scopes: (self.scopes.len() - self.unknown.count()) as u64,
            unknown_scopes: self.unknown.count() as u64,
            keys: self.store.key_count()?,
            totals: Totals {
                admitted: at(counter::ADMITTED),
                refused: Refusals {
                    rate: at(counter::REFUSED_RATE),
                    concurrency: at(counter::REFUSED_CONCURRENCY),
                    connections: at(counter::REFUSED_CONNECTIONS),
                    daily_quota: at(counter::REFUSED_DAILY_QUOTA),
                },
                malformed: at(counter::MALFORMED),
                missing_key: at(counter::MISSING_KEY),
                unknown_key: at(counter::UNKNOWN_KEY),
            },
            coverage,
            flows: self.flows_view(),
            healed: self.healed,
            health: self.health(),
        })
    }
}
