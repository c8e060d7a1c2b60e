// SPDX-License-Identifier: MIT OR Apache-2.0

//! The section `[healing]`, which states how often the counts are checked and corrected.

use std::time::Duration;

use super::{
    document::{Document, Section},
    interval::Interval,
};

/// The section `[healing]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Healing {
    /// The time between two checks of whether the sockets of silent connections still exist.
    pub check_interval: Interval,
    /// The time for which a connection must have been silent before it is checked.
    pub suspect_after: Interval,
    /// The time between two recounts of the requests in flight and the connections.
    pub recount_interval: Interval,
}

impl Default for Healing {
    fn default() -> Self {
        Self {
            check_interval: Interval(Duration::from_secs(10)),
            suspect_after: Interval(Duration::from_secs(5)),
            recount_interval: Interval(Duration::from_secs(30)),
        }
    }
}

impl Healing {
    pub(super) fn read<'a>(document: &mut Document<'a>, root: &Section<'a>) -> Self {
        let base = Self::default();
        let Some(section) = document.section(root, "healing") else {
            return base;
        };
        document.known(
            &section,
            &["check_interval", "suspect_after", "recount_interval"],
        );
        let mut interval =
            |name: &str, default: Interval| Interval::read(document, &section, name, default);
        Self {
            check_interval: interval("check_interval", base.check_interval),
            suspect_after: interval("suspect_after", base.suspect_after),
            recount_interval: interval("recount_interval", base.recount_interval),
        }
    }
}
