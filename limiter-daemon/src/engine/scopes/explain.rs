// SPDX-License-Identifier: MIT OR Apache-2.0

//! Explanations of why a request would pass or be refused if it arrived now. The rules are those of
//! the kernel programs (`limiter-ebpf`, `decide/charge.rs` and `decide/verdict.rs`), applied to the
//! maps that the programs read.

use chrono::{DateTime, Utc};
use limiter_common::{
    abi::{self, KEY_DISABLED, LIMITS_IN_USE, LIMITS_OBSERVE, ScopeState, UNLIMITED, reason},
    day::{Day, DayCount},
    gcra::Rate,
};

use crate::{
    config::{Unattended, UnknownKey},
    domain::{
        key_state::KeyState,
        limits::{Changes, Limits},
        mode::Mode,
        scope::ScopeName,
    },
    engine::{
        counts::history::end_of,
        keys::view::view_key,
        scopes::registry::{Scope, Scopes},
        setup::Setup,
        time::ClockWords,
    },
    kernel::Plane,
    protocol::{
        error::ApiError,
        insight::{ExplainView, LimitView, Verdict},
        views::OverrideView,
    },
    store::{AuditFilter, AuditRecord, KeyFilter, KeyRecord, Store},
};

use serde_json::Value;

/// The status codes of refused requests.
const TOO_MANY: u16 = 429;
const UNAUTHORIZED: u16 = 401;

/// The values that the kernel programs read for a scope, taken at one moment.
struct ScopeWords {
    limits: abi::Limits,
    state: ScopeState,
    count: DayCount,
    /// Whether the override has ended, but the daemon has not noticed it yet.
    ended: bool,
}

/// The state of one limit.
struct LimitState {
    why: u32,
    used: Option<u64>,
    reached: bool,
    since: Option<DateTime<Utc>>,
    until: Option<DateTime<Utc>>,
}

/// The parts of the engine that explanations are based on.
pub(crate) struct Explainer<'a> {
    pub(crate) plane: &'a dyn Plane,
    pub(crate) store: &'a Store,
    pub(crate) setup: &'a Setup,
    pub(crate) scopes: &'a Scopes,
    pub(crate) clock: &'a ClockWords,
    pub(crate) boot_ns: u64,
}

impl Explainer<'_> {
    /// Explains whether a request would pass. `object` is the name of the request's scope or the id
    /// of its key.
    ///
    /// # Errors
    /// Returns an error if no such scope or key exists or has ever existed, or if the store or the
    /// kernel reports an error.
    pub(crate) fn explain(&self, object: &str) -> Result<ExplainView, ApiError> {
        let name = object.parse::<ScopeName>();
        if let Ok(name) = &name
            && let Some(scope) = self.scopes.get(name)
        {
            return self.explain_scope(scope);
        }
        if let Some(key) = self.store.key(object)? {
            return self.explain_key(key);
        }
        if let Some(removed) = self.last(object, |entry| entry.action == "scope remove")? {
            return self.explain_removed_scope(object, &removed);
        }
        if self
            .last(object, |entry| entry.action.starts_with("key "))?
            .is_some()
        {
            return Ok(self.explain_forgotten_key(object));
        }
        let none = match name {
            Ok(name) => self.scopes.find(&name).map(drop).err(),
            Err(error) => Some(ApiError::not_found(error.to_string())),
        };
        let message = none.map_or_else(String::new, |error| error.message);
        Err(ApiError::not_found(format!(
            "{message}; there is no key with that id either: `limiter key list` shows all"
        )))
    }

    /// Returns the last entry about `object` in the audit trail that `is_wanted` accepts.
    fn last(
        &self,
        object: &str,
        is_wanted: impl Fn(&AuditRecord) -> bool,
    ) -> Result<Option<AuditRecord>, ApiError> {
        let trail = self.store.audit_trail(&AuditFilter {
            object: Some(object.to_owned()),
            since: None,
            limit: 1000,
        })?;
        Ok(trail.into_iter().rev().find(is_wanted))
    }

    fn explain_key(&self, key: KeyRecord) -> Result<ExplainView, ApiError> {
        if key.scope_id.is_none() {
            return self.explain_removed_key(key);
        }
        let (id, state) = (key.id.clone(), key.state);
        let entry = self.plane.key(&key.digest)?;
        let scope = self.scopes.find(&key.scope)?;
        let mut view = self.explain_scope(scope)?;
        view.notes.clear();
        self.note_attachment(&mut view);
        view.key = Some(view_key(key, self.plane, self.clock)?);
        match entry {
            Some(entry) if entry.flags & KEY_DISABLED == 0 => {}
            Some(_) => {
                let action = match state {
                    KeyState::Revoked => "key revoke",
                    KeyState::Disabled | KeyState::Active => "key disable",
                };
                let since = self.last(&id, |entry| entry.action == action)?;
                view.since = since.map(|entry| entry.at);
                self.refuse_key(&mut view, reason::DISABLED_KEY);
                view.notes.push(match state {
                    KeyState::Revoked => "the key was revoked, which cannot be undone".to_owned(),
                    KeyState::Disabled | KeyState::Active => {
                        format!("`limiter key enable {id}` admits its requests again")
                    }
                });
            }
            None => self.explain_unknown(&mut view),
        }
        Ok(view)
    }

    /// Explains requests with a key that was revoked when its scope was removed.
    fn explain_removed_key(&self, key: KeyRecord) -> Result<ExplainView, ApiError> {
        let mut view = self.passing_view();
        self.refuse_key(&mut view, reason::DISABLED_KEY);
        view.since = key.revoked_at;
        view.scope = Some(key.scope.clone());
        view.notes.push(format!(
            "the key was revoked permanently, and its scope {} has been removed",
            key.scope
        ));
        self.note_attachment(&mut view);
        view.key = Some(view_key(key, self.plane, self.clock)?);
        Ok(view)
    }

    fn explain_scope(&self, scope: &Scope) -> Result<ExplainView, ApiError> {
        let words = self.read_words(scope)?;
        let limits = if words.ended {
            self.setup.tier(&scope.record.tier)?.limits
        } else {
            scope.limits
        };
        let limits_override = scope
            .record
            .limits_override
            .as_ref()
            .filter(|_| !words.ended);
        let limit_states = self.limit_states(scope, &words, &limits);
        let first = limit_states.iter().find(|limit| limit.reached);
        let observe = words.limits.flags & LIMITS_OBSERVE != 0;
        let mut view = ExplainView {
            scope: Some(scope.record.name.clone()),
            verdict: match first {
                None => Verdict::Passes,
                Some(_) if observe => Verdict::Observed,
                Some(_) => Verdict::Refused,
            },
            reason: first
                .and_then(|first| reason::NAMES.get(first.why as usize).copied())
                .map(str::to_owned),
            status: first.filter(|_| !observe).map(|_| TOO_MANY),
            since: first.and_then(|first| first.since),
            until: first.and_then(|first| first.until),
            tier: Some(scope.record.tier.clone()),
            mode: Some(
                if observe {
                    Mode::Observe
                } else {
                    Mode::Enforce
                }
                .as_str()
                .to_owned(),
            ),
            mode_from: Some(self.mode_from(scope)?.to_owned()),
            limits_override: limits_override.map(OverrideView::from),
            limits: limit_states
                .iter()
                .map(|state| {
                    view_limit(
                        state,
                        &limits,
                        limits_override.map(|limits_override| &limits_override.changes),
                    )
                })
                .collect(),
            ..self.passing_view()
        };
        if first.is_none() {
            self.apply_allowance(&mut view, &words);
        }
        if words.limits.flags & LIMITS_IN_USE == 0 {
            self.explain_unknown(&mut view);
        }
        let keys = self.store.keys(KeyFilter::Scope(scope.record.id))?;
        let is_active = |key: &KeyRecord| key.state == KeyState::Active;
        if scope.record.unknown.is_none() && !keys.iter().any(is_active) {
            view.notes.push(format!(
                "the scope has no active key: `limiter key create {}` makes one",
                scope.record.name
            ));
        }
        self.note_attachment(&mut view);
        Ok(view)
    }

    /// Explains requests of a scope that was removed.
    fn explain_removed_scope(
        &self,
        object: &str,
        removed: &AuditRecord,
    ) -> Result<ExplainView, ApiError> {
        let mut view = self.passing_view();
        let name: Option<ScopeName> = object.parse().ok();
        let revoked = self.store.keys(KeyFilter::Removed(name.as_ref()))?.len();
        let keys = if revoked == 0 {
            self.explain_unknown(&mut view);
            "its keys are unknown keys now".to_owned()
        } else {
            self.refuse_key(&mut view, reason::DISABLED_KEY);
            match revoked {
                1 => "its key is revoked permanently".to_owned(),
                _ => format!("its {revoked} keys are revoked permanently"),
            }
        };
        view.since = Some(removed.at);
        view.notes.push(format!(
            "the scope {object} was removed by {}; {keys}",
            removed.who
        ));
        Ok(view)
    }

    /// Explains requests with a key that an earlier version of the limiter removed together with
    /// its scope. That version did not keep such keys.
    fn explain_forgotten_key(&self, object: &str) -> ExplainView {
        let mut view = self.passing_view();
        self.explain_unknown(&mut view);
        view.notes
            .push(format!("the key {object} was removed with its scope"));
        view
    }

    /// Returns a view in which every request passes.
    fn passing_view(&self) -> ExplainView {
        ExplainView {
            scope: None,
            key: None,
            at: self.clock.utc(self.boot_ns).unwrap_or_else(Utc::now),
            verdict: Verdict::Passes,
            reason: None,
            status: None,
            since: None,
            until: None,
            tier: None,
            mode: None,
            mode_from: None,
            limits_override: None,
            limits: Vec::new(),
            notes: Vec::new(),
        }
    }

    /// Explains requests with a key that the kernel does not know.
    fn explain_unknown(&self, view: &mut ExplainView) {
        (view.since, view.until) = (None, None);
        match &self.setup.config().policy.unknown_key {
            UnknownKey::Reject => self.refuse_key(view, reason::UNKNOWN_KEY),
            UnknownKey::Pass => {
                (view.verdict, view.reason, view.status) = (Verdict::Passes, None, None);
                view.notes
                    .push("unknown keys pass without limits (policy.unknown_key)".to_owned());
            }
            UnknownKey::Tier(tier) => {
                (view.verdict, view.reason, view.status) = (Verdict::Passes, None, None);
                view.notes.push(format!(
                    "each unknown key becomes a scope of its own, of the tier {tier} (policy.unknown_key)"
                ));
            }
        }
    }

    /// Explains requests that are refused because of their key, for the reason `why`.
    fn refuse_key(&self, view: &mut ExplainView, why: u32) {
        view.until = None;
        view.reason = reason::NAMES.get(why as usize).copied().map(str::to_owned);
        if self.setup.config().policy.mode == Mode::Observe {
            (view.verdict, view.status) = (Verdict::Observed, None);
        } else {
            (view.verdict, view.status) = (Verdict::Refused, Some(UNAUTHORIZED));
        }
    }

    fn note_attachment(&self, view: &mut ExplainView) {
        if self.plane.attached().is_empty() {
            view.notes.push(
                "no program is attached, so no request is inspected (see `limiter status`)"
                    .to_owned(),
            );
        }
    }

    fn mode_from(&self, scope: &Scope) -> Result<&'static str, ApiError> {
        Ok(if scope.record.mode.is_some() {
            "scope"
        } else if self.setup.tier(&scope.record.tier)?.mode.is_some() {
            "tier"
        } else {
            "policy"
        })
    }

    fn read_words(&self, scope: &Scope) -> Result<ScopeWords, ApiError> {
        let id = scope.record.id;
        let utc_ns = self.boot_ns.wrapping_add(self.clock.utc_offset_ns());
        let own = self.plane.limits(id);
        let is_over = own.until_s != 0 && utc_ns >= u64::from(own.until_s) * 1_000_000_000;
        let then = if is_over { self.plane.ended(id)? } else { None };
        let state = self.plane.state(id);
        Ok(ScopeWords {
            // The allowance and the flags are those of the scope's own entry, even after its
            // override has ended.
            limits: then.map_or(own, |then| abi::Limits {
                allowed: own.allowed,
                ahead: own.ahead,
                flags: own.flags,
                ..then
            }),
            ended: then.is_some(),
            count: DayCount(state.day_count).on(Day::at(utc_ns)),
            state,
        })
    }

    /// Returns the states of all limits in the order in which the programs check them.
    fn limit_states(&self, scope: &Scope, words: &ScopeWords, limits: &Limits) -> [LimitState; 4] {
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
    /// midnight, or the end of the scope's override if that is earlier and the tier's quota is not
    /// used up.
    fn quota_until(&self, scope: &Scope, words: &ScopeWords, limits: &Limits) -> DateTime<Utc> {
        let midnight = end_of(words.count.day());
        let limits_override = scope
            .record
            .limits_override
            .as_ref()
            .filter(|_| !words.ended);
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
        match limits_override.and_then(|limits_override| limits_override.until) {
            Some(until) if more => until.min(midnight),
            _ => midnight,
        }
    }

    /// Changes the verdict for a request that is within all limits, if the request has to wait for
    /// the store or is refused because the store cannot be written.
    fn apply_allowance(&self, view: &mut ExplainView, words: &ScopeWords) {
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

fn view_limit(state: &LimitState, limits: &Limits, changes: Option<&Changes>) -> LimitView {
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
