// SPDX-License-Identifier: MIT OR Apache-2.0

//! The health of the daemon's parts: which of them work, and the problems of the others.

use std::collections::BTreeMap;

use super::events::log::EventLog;
use crate::protocol::views::Health;

/// The state of each part of the daemon at its last check.
#[derive(Debug, Default)]
pub(crate) struct PartStates(BTreeMap<&'static str, Option<String>>);

impl PartStates {
    /// Records the state of a part. `problem` is `None` if the part works. Each change of the state
    /// is logged once and becomes an event.
    pub(crate) fn note(&mut self, part: &'static str, problem: Option<String>, events: &EventLog) {
        let before = self.0.get(part).and_then(Option::as_ref);
        match &problem {
            Some(message) if before != Some(message) => {
                log::error!("{part}: {message}");
                events.add_health(format!("{part}: {message}"));
            }
            None if before.is_some() => {
                log::info!("{part}: works again");
                events.add_health(format!("{part}: works again"));
            }
            _ => {}
        }
        self.0.insert(part, problem);
    }

    /// Returns the parts that do not work.
    pub(crate) fn view(&self) -> Vec<Health> {
        self.0
            .iter()
            .filter_map(|(part, problem)| {
                Some(Health {
                    part: (*part).to_owned(),
                    message: problem.clone()?,
                })
            })
            .collect()
    }

    /// Returns all parts that have been checked, each with a flag that is true if the part works.
    pub(crate) fn all(&self) -> impl Iterator<Item = (&'static str, bool)> {
        self.0
            .iter()
            .map(|(part, problem)| (*part, problem.is_none()))
    }
}
