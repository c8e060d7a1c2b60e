// SPDX-License-Identifier: MIT OR Apache-2.0

//! The counters and attachments that `limiter status` shows.

use limiter_common::abi::counter;
use serde_json::Value;

use crate::{
    domain::refusals::Refusals,
    kernel::Plane,
    protocol::views::{AttachedView, Totals},
};

/// The counters that are shown under `totals`. All other counters are shown under `coverage`.
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

/// The values of the kernel's counters at one moment.
pub(crate) struct Counters(pub(crate) Vec<u64>);

impl Counters {
    fn at(&self, index: u32) -> u64 {
        self.0.get(index as usize).copied().unwrap_or(0)
    }

    pub(crate) fn totals(&self) -> Totals {
        Totals {
            admitted: self.at(counter::ADMITTED),
            refused: Refusals {
                rate: self.at(counter::REFUSED_RATE),
                concurrency: self.at(counter::REFUSED_CONCURRENCY),
                connections: self.at(counter::REFUSED_CONNECTIONS),
                daily_quota: self.at(counter::REFUSED_DAILY_QUOTA),
            },
            malformed: self.at(counter::MALFORMED),
            missing_key: self.at(counter::MISSING_KEY),
            unknown_key: self.at(counter::UNKNOWN_KEY),
        }
    }

    /// Returns the counters that are not in [`TOTALS`], by their names.
    pub(crate) fn coverage(&self) -> serde_json::Map<String, Value> {
        (0..counter::COUNT)
            .filter(|index| !TOTALS.contains(index))
            .filter_map(|index| {
                let name = counter::NAMES.get(index as usize)?;
                Some(((*name).to_owned(), Value::from(self.at(index))))
            })
            .collect()
    }
}

/// Returns the hooks at which programs are attached.
pub(crate) fn attached_view(plane: &dyn Plane) -> Vec<AttachedView> {
    let mechanism = plane.mechanism();
    let attached = plane.attached().into_iter();
    attached
        .map(|attached| AttachedView {
            interface: attached.interface,
            hook: attached.hook,
            mechanism,
            before: attached.before,
        })
        .collect()
}
