// SPDX-License-Identifier: MIT OR Apache-2.0

//! The section `[accounting]`, which states how far counts may run ahead of the store.

use limiter_fleet::EngineLost;

use super::document::{Document, Section};

/// The largest value of `ahead`, in requests.
const MAX_AHEAD: u64 = 1_000_000;
/// The number of requests by which the count of a scope may run ahead of the store even if this
/// number exceeds a tenth of the daily quota.
const MIN_AHEAD: u64 = 10;

/// The section `[accounting]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Accounting {
    /// The maximum number of requests that the kernel programs count for a scope with a daily quota
    /// before the store has counted them. A crash of the host can lose at most this number of
    /// requests for each such scope. The maximum is lowered to a tenth of the quota or to ten
    /// requests, whichever is more, and it never exceeds the quota.
    pub ahead: u32,
    /// The action for requests beyond the number `ahead` while no daemon writes to the store.
    pub unattended: Unattended,
}

/// The action for requests beyond the allowance while no daemon writes to the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unattended {
    /// Requests are admitted up to the daily quota.
    Pass,
    /// Requests are refused.
    Reject,
}

impl Unattended {
    /// Returns the word for this action in the configuration.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Reject => "reject",
        }
    }
}

impl Default for Accounting {
    fn default() -> Self {
        Self {
            ahead: 10_000,
            unattended: Unattended::Pass,
        }
    }
}

impl Accounting {
    pub(super) fn read<'a>(document: &mut Document<'a>, root: &Section<'a>) -> Self {
        let base = Self::default();
        let Some(section) = document.section(root, "accounting") else {
            return base;
        };
        document.known(&section, &["ahead", "unattended"]);
        Self {
            ahead: document
                .integer(&section, "ahead", 1, MAX_AHEAD)
                .and_then(|ahead| u32::try_from(ahead).ok())
                .unwrap_or(base.ahead),
            unattended: document
                .choice(
                    &section,
                    "unattended",
                    &[("pass", Unattended::Pass), ("reject", Unattended::Reject)],
                )
                .unwrap_or(base.unattended),
        }
    }

    /// Makes requests beyond the allowance be refused while no daemon runs, which is the default in
    /// a fleet. Reports a problem if the file says the opposite although the fleet must not exceed
    /// its quotas.
    pub(super) fn join_fleet<'a>(
        &mut self,
        document: &mut Document<'a>,
        root: &Section<'a>,
        engine_lost: EngineLost,
    ) {
        let section = document.section(root, "accounting");
        let entry = section.and_then(|section| section.entry("unattended"));
        match entry {
            Some(entry)
                if self.unattended == Unattended::Pass && engine_lost == EngineLost::Lease =>
            {
                let message = format!(
                    "`{} = \"pass\"` contradicts `fleet.engine_lost = \"lease\"`, with which a host admits no request beyond its lease: write \"reject\", or choose another rule for a lost engine",
                    entry.path
                );
                document.problem(&entry.span, message);
            }
            Some(_) => {}
            None => self.unattended = Unattended::Reject,
        }
    }

    /// Returns the number of requests by which the count of a scope with the daily quota
    /// `daily_quota` may run ahead of the store. A scope without a quota needs no exact count. For
    /// such a scope the result is 0, which means that there is no limit.
    pub fn ahead_of(&self, daily_quota: Option<u64>) -> u32 {
        let Some(quota) = daily_quota else { return 0 };
        let ahead = (quota / 10)
            .max(MIN_AHEAD)
            .min(u64::from(self.ahead))
            .min(quota);
        u32::try_from(ahead).unwrap_or(self.ahead).max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_than_a_tenth_runs_ahead_but_at_least_ten() {
        let of = |ahead: u32, quota: Option<u64>| {
            let accounting = Accounting {
                ahead,
                ..Accounting::default()
            };
            accounting.ahead_of(quota)
        };
        assert_eq!(of(1000, None), 0);
        assert_eq!(of(1000, Some(1000)), 100);
        assert_eq!(of(1000, Some(1_000_000)), 1000);
        assert_eq!(of(1000, Some(50)), 10);
        assert_eq!(of(1000, Some(3)), 3);
        assert_eq!(of(5, Some(1000)), 5);
        // The result must not be 0, which would mean that there is no limit.
        assert_eq!(of(1000, Some(0)), 1);
    }
}
