// SPDX-License-Identifier: MIT OR Apache-2.0

//! The states of the limits of a scope, as the kernel programs would judge them now.

use chrono::{DateTime, Utc};
use limiter_common::{
    abi::{self, ScopeState, UNLIMITED, reason},
    day::{Day, DayCount},
    gcra::Rate,
};
use serde_json::Value;

use super::{Explainer, TOO_MANY};
use crate::{
    config::Unattended,
    domain::limits::{Changes, LimitName, Limits},
    engine::{counts::history::end_of, scopes::registry::Scope},
    protocol::{
        error::ApiError,
        insight::{ExplainView, LimitView, Verdict},
    },
    store::ScopeRecord,
};

/// The values that the kernel programs read for a scope, taken at one moment.
pub(super) struct ScopeWords {
    pub(super) limits: abi::Limits,
    pub(super) state: ScopeState,
    pub(super) count: DayCount,
    /// The scope without those of its own limits that have ended, but that the daemon has not
    /// removed yet.
    pub(super) record: ScopeRecord,
}

/// The state of one limit.
pub(super) struct LimitState {
    pub(super) why: u32,
    pub(super) used: Option<u64>,
    pub(super) reached: bool,
    pub(super) since: Option<DateTime<Utc>>,
    pub(super) until: Option<DateTime<Utc>>,
}

impl Explainer<'_> {
    pub(super) fn read_words(&self, scope: &Scope) -> Result<ScopeWords, ApiError> {
        let id = scope.record.id;
        let utc_ns = self.utc_ns();
        let own = self.plane.limits(id);
        let is_over = !abi::Limits::apply_at(own.until_s, utc_ns);
        let ended = if is_over { self.plane.ended(id)? } else { None };
        let then = ended.and_then(|ended| {
            let mut stages = ended.stages.into_iter();
            stages.find(|stage| abi::Limits::apply_at(stage.until_s, utc_ns))
        });
        let state = self.plane.state(id);
        Ok(ScopeWords {
            // The allowance and the flags are those of the scope's own entry, even after one of its
            // limits has ended.
            limits: then.map_or(own, |then| abi::Limits {
                allowed: own.allowed,
                ahead: own.ahead,
                flags: own.flags,
                ..then
            }),
            record: self.without_ended(&scope.record),
            count: DayCount(state.day_count).on(Day::at(utc_ns)),
            state,
        })
    }

    /// Returns the time of the kernel programs in ns since the Unix epoch.
    pub(super) fn utc_ns(&self) -> u64 {
        self.boot_ns.wrapping_add(self.clock.utc_offset_ns())
    }

    /// Returns a scope without the limits of its own that have ended. In the kernel, a limit ends
    /// at the beginning of the second that contains its end.
    fn without_ended(&self, record: &ScopeRecord) -> ScopeRecord {
        let now = self.clock.utc(self.boot_ns).unwrap_or_else(Utc::now);
        let second = DateTime::from_timestamp(now.timestamp(), 999_999_999).unwrap_or(now);
        let own = record.limits_override.as_ref();
        ScopeRecord {
            limits_override: own.and_then(|own| own.at(second).non_empty()),
            ..record.clone()
        }
    }

    /// Returns the states of all limits in the order in which the programs check them.
    pub(super) fn limit_states(
        &self,
        scope: &Scope,
        words: &ScopeWords,
        limits: &Limits,
    ) -> [LimitState; 4] {
        let ScopeWords {
            limits: kernel,
            state,
            count,
            ..
        } = words;
        let now = self.clock.utc(self.boot_ns).unwrap_or_else(Utc::now);
        let pace = &scope.pace;
        let wait_ns = if kernel.interval_ns == 0 {
            0
        } else {
            let rate = Rate {
                interval_ns: kernel.interval_ns,
                tolerance_ns: kernel.tolerance_ns,
            };
            rate.judge(state.tat_ns, self.boot_ns).err().unwrap_or(0)
        };
        // If no burst is allowed, `tat_ns` is the time of the last request plus `interval_ns`, and
        // the time of the last request can therefore be calculated.
        let last_ns =
            (kernel.tolerance_ns == 0).then(|| state.tat_ns.saturating_sub(kernel.interval_ns));
        let quota = count.count() >= kernel.daily_quota;
        let connections = state.connections >= kernel.connections;
        let concurrency = state.in_flight >= kernel.concurrency;
        let when = |reached: bool, at: Option<DateTime<Utc>>| at.filter(|_| reached);
        [
            LimitState {
                why: reason::DAILY_QUOTA,
                used: Some(count.count()),
                reached: quota,
                since: when(quota, pace.daily_quota.since(now)),
                until: when(quota, Some(self.quota_until(scope, words, limits))),
            },
            LimitState {
                why: reason::CONNECTIONS,
                used: Some(state.connections),
                reached: connections,
                since: when(connections, pace.connections.since(now)),
                until: None,
            },
            LimitState {
                why: reason::CONCURRENCY,
                used: Some(state.in_flight),
                reached: concurrency,
                since: when(concurrency, pace.concurrency.since(now)),
                until: None,
            },
            LimitState {
                why: reason::RATE,
                used: None,
                reached: wait_ns > 0,
                since: when(wait_ns > 0, last_ns.and_then(|ns| self.clock.utc(ns))),
                until: when(
                    wait_ns > 0,
                    self.clock.utc(self.boot_ns.saturating_add(wait_ns)),
                ),
            },
        ]
    }

    /// Returns the time at which requests pass again after the quota is used up. This time is
    /// midnight, or the end of the scope's own quota if that is earlier and the tier's quota is not
    /// used up.
    fn quota_until(&self, scope: &Scope, words: &ScopeWords, limits: &Limits) -> DateTime<Utc> {
        let midnight = end_of(words.count.day());
        let own = words.record.limits_override.as_ref();
        let terms = own.and_then(|own| own.terms().get(&LimitName::DailyQuota));
        let tier = self
            .setup
            .tier(&scope.record.tier)
            .ok()
            .map(|tier| tier.limits);
        let more = tier.is_some_and(|tier| {
            tier.daily_quota != limits.daily_quota
                && tier
                    .daily_quota
                    .is_none_or(|quota| words.count.count() < quota)
        });
        match terms.and_then(|terms| terms.until) {
            Some(until) if more => until.min(midnight),
            _ => midnight,
        }
    }

    /// Changes the verdict for a request that is within all limits, if the request has to wait for
    /// the store or is refused because the store cannot be written.
    pub(super) fn apply_allowance(&self, view: &mut ExplainView, words: &ScopeWords) {
        let limits = &words.limits;
        if limits.ahead == 0 || limits.daily_quota == UNLIMITED {
            return;
        }
        let word = DayCount(limits.allowed);
        let allowed = if word.day() == words.count.day() {
            word.count()
        } else {
            u64::from(limits.ahead)
        };
        if words.count.count() < allowed {
            return;
        }
        if self.boot_ns < self.clock.attended_until_ns() {
            view.verdict = Verdict::Held;
            view.notes.push(
                "the allowance of the store is used up: the daemon is about to extend it"
                    .to_owned(),
            );
            return;
        }
        if self.setup.config().accounting.unattended == Unattended::Reject {
            view.verdict = Verdict::Refused;
            view.status = Some(TOO_MANY);
            view.reason = Some("daily_quota".to_owned());
            view.notes.push(
                "the store cannot be written, and its allowance is used up (accounting.unattended)"
                    .to_owned(),
            );
        }
    }
}

/// Returns the view of one limit. `changes` are those of the scope's override.
pub(super) fn view_limit(
    state: &LimitState,
    limits: &Limits,
    changes: Option<&Changes>,
) -> LimitView {
    let is_overridden = |of: fn(&Changes) -> bool| changes.is_some_and(of);
    let (value, overridden): (Value, bool) = match state.why {
        reason::DAILY_QUOTA => (
            limits.daily_quota.into(),
            is_overridden(|changes| changes.daily_quota.is_some()),
        ),
        reason::CONNECTIONS => (
            limits.connections.into(),
            is_overridden(|changes| changes.connections.is_some()),
        ),
        reason::CONCURRENCY => (
            limits.concurrency.into(),
            is_overridden(|changes| changes.concurrency.is_some()),
        ),
        _ => (
            limits.rate.map(|rate| rate.to_string()).into(),
            is_overridden(|changes| changes.rate.is_some() || changes.burst.is_some()),
        ),
    };
    LimitView {
        limit: reason::NAMES
            .get(state.why as usize)
            .copied()
            .unwrap_or_default()
            .to_owned(),
        value,
        from: if overridden { "override" } else { "tier" }.to_owned(),
        used: state.used,
        reached: state.reached,
        since: state.since,
        until: state.until,
    }
}
