//! `[accounting]`: how far counts may run ahead of what the store knows.

use super::document::{Document, Section};

/// Most requests that may run ahead.
const MOST: u64 = 1_000_000;
/// A scope with a small quota gets no less than this many.
const LEAST: u64 = 10;

/// The whole section.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Accounting {
    /// Requests that a scope may make before the store is written, and so how many a crash of the host
    /// may cost it. No more than a tenth of its daily quota, but at least ten.
    pub ahead: u32,
    /// What happens beyond that while no daemon can write.
    pub unattended: Unattended,
}

/// What happens beyond the allowance while no daemon can write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unattended {
    /// Requests are admitted up to the daily quota.
    Pass,
    /// Requests are refused.
    Reject,
}

impl Unattended {
    /// The word for it.
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
                .integer(&section, "ahead", 1, MOST)
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

    /// How far a scope with this daily quota may run ahead; 0: as far as it likes, since nothing is
    /// held against its count.
    pub fn ahead_of(&self, daily_quota: Option<u64>) -> u32 {
        let Some(quota) = daily_quota else { return 0 };
        let ahead = (quota / 10)
            .max(LEAST)
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
        // Not 0, which would be no limit.
        assert_eq!(of(1000, Some(0)), 1);
    }
}
