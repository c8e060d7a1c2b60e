//! Would a request pass now, and if not, why: by the rules of the programs (`limiter-ebpf`, `charge.rs`
//! and `decide.rs`), over what they read.

use std::sync::atomic::Ordering::SeqCst;

use chrono::{DateTime, Utc};
use limiter_common::{
    abi::{self, KEY_DISABLED, LIMITS_IN_USE, LIMITS_OBSERVE, ScopeState, UNLIMITED, reason},
    day::{Day, DayCount},
    gcra::Rate,
};
use serde_json::Value;

use super::{
    engine::{Engine, Scope},
    history::end_of,
    refusals::NAMES,
};
use crate::{
    api::{ApiError, ExplainView, LimitView, OverrideView, Verdict},
    config::{Mode, Unattended, UnknownKey},
    kernel::boot_ns,
    limits::{Changes, Limits},
    scope::ScopeName,
    store::{AuditFilter, AuditRecord, KeyRecord, KeyState},
};

/// The statuses of refusals.
const TOO_MANY: u16 = 429;
const UNAUTHORIZED: u16 = 401;

/// What the programs read of a scope, at one moment.
struct Look {
    limits: abi::Limits,
    state: ScopeState,
    count: DayCount,
    /// The override has ended, and the daemon has not noticed yet.
    ended: bool,
    boot_ns: u64,
}

/// One limit as it stands.
struct Standing {
    why: u32,
    used: Option<u64>,
    reached: bool,
    since: Option<DateTime<Utc>>,
    until: Option<DateTime<Utc>>,
}

impl Engine {
    /// Whether a request of a scope, or with a key by its id, would pass now, and why not.
    ///
    /// # Errors
    /// There is and was no such thing; the store's and the kernel's.
    pub fn explain(&self, object: &str) -> Result<ExplainView, ApiError> {
        let boot_ns = boot_ns();
        let name = object.parse::<ScopeName>();
        if let Ok(name) = &name
            && let Some(scope) = self.scopes.get(name)
        {
            return self.explain_scope(scope, boot_ns);
        }
        if let Some(key) = self.store.key(object)? {
            return self.explain_key(key, boot_ns);
        }
        if let Some(removed) = self.last(object, |entry| entry.action == "scope remove")? {
            return Ok(self.explain_removed(object, Some(&removed), boot_ns));
        }
        if self
            .last(object, |entry| entry.action.starts_with("key "))?
            .is_some()
        {
            return Ok(self.explain_removed(object, None, boot_ns));
        }
        let none = match name {
            Ok(name) => self.scope(&name).map(drop).err(),
            Err(error) => Some(ApiError::not_found(error.to_string())),
        };
        let message = none.map_or_else(String::new, |error| error.message);
        Err(ApiError::not_found(format!(
            "{message}; nor is there a key of that id: `limiter key list` shows all"
        )))
    }

    /// The last entry about `object` in the audit trail that is such a one.
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

    fn explain_key(&self, key: KeyRecord, boot_ns: u64) -> Result<ExplainView, ApiError> {
        let (id, state) = (key.id.clone(), key.state);
        let entry = self.plane.key(&key.digest)?;
        let scope = self.scope(&key.scope)?;
        let mut view = self.explain_scope(scope, boot_ns)?;
        view.notes.clear();
        self.note_attachment(&mut view);
        view.key = Some(self.view_key(key)?);
        match entry {
            Some(entry) if entry.flags & KEY_DISABLED == 0 => {}
            Some(_) => {
                let action = match state {
                    KeyState::Revoked => "key revoke",
                    KeyState::Disabled | KeyState::Active => "key disable",
                };
                let since = self.last(&id, |entry| entry.action == action)?;
                view.since = since.map(|entry| entry.at);
                self.refuse_anonymous(&mut view, reason::DISABLED_KEY);
                view.notes.push(match state {
                    KeyState::Revoked => "the key was revoked, which is for ever".to_owned(),
                    KeyState::Disabled | KeyState::Active => {
                        format!("`limiter key enable {id}` admits its requests again")
                    }
                });
            }
            None => self.explain_unknown(&mut view),
        }
        Ok(view)
    }

    fn explain_scope(&self, scope: &Scope, boot_ns: u64) -> Result<ExplainView, ApiError> {
        let look = self.look_as_programs(scope, boot_ns)?;
        let limits = if look.ended {
            self.tier(&scope.record.tier)?.limits
        } else {
            scope.limits
        };
        let own = scope.record.own.as_ref().filter(|_| !look.ended);
        let standings = self.standings(scope, &look, &limits);
        let first = standings.iter().find(|standing| standing.reached);
        let observe = look.limits.flags & LIMITS_OBSERVE != 0;
        let mut view = ExplainView {
            scope: Some(scope.record.name.clone()),
            verdict: match first {
                None => Verdict::Passes,
                Some(_) if observe => Verdict::Observed,
                Some(_) => Verdict::Refused,
            },
            reason: first
                .and_then(|first| NAMES.get(first.why as usize).copied())
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
            own: own.map(OverrideView::from),
            limits: standings
                .iter()
                .map(|standing| view_limit(standing, &limits, own.map(|own| &own.changes)))
                .collect(),
            ..self.nothing(boot_ns)
        };
        if first.is_none() {
            self.hold(&mut view, &look);
        }
        if look.limits.flags & LIMITS_IN_USE == 0 {
            self.explain_unknown(&mut view);
        }
        let keys = self.store.keys(Some(scope.record.id))?;
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

    /// A scope, or a key with its scope, that was removed.
    fn explain_removed(
        &self,
        object: &str,
        removed: Option<&AuditRecord>,
        boot_ns: u64,
    ) -> ExplainView {
        let mut view = self.nothing(boot_ns);
        self.explain_unknown(&mut view);
        view.since = removed.map(|entry| entry.at);
        view.notes.push(match removed {
            Some(entry) => format!(
                "the scope {object} was removed by {}; its keys are keys that nobody knows",
                entry.who
            ),
            None => format!("the key {object} was removed with its scope"),
        });
        view
    }

    fn nothing(&self, boot_ns: u64) -> ExplainView {
        ExplainView {
            scope: None,
            key: None,
            at: self.utc(boot_ns).unwrap_or_else(Utc::now),
            verdict: Verdict::Passes,
            reason: None,
            status: None,
            since: None,
            until: None,
            tier: None,
            mode: None,
            mode_from: None,
            own: None,
            limits: Vec::new(),
            notes: Vec::new(),
        }
    }

    /// A request with a key that the programs do not know.
    fn explain_unknown(&self, view: &mut ExplainView) {
        (view.since, view.until) = (None, None);
        match &self.config.policy.unknown_key {
            UnknownKey::Reject => self.refuse_anonymous(view, reason::UNKNOWN_KEY),
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

    /// A request that is refused for its key.
    fn refuse_anonymous(&self, view: &mut ExplainView, why: u32) {
        view.until = None;
        view.reason = NAMES.get(why as usize).copied().map(str::to_owned);
        if self.config.policy.mode == Mode::Observe {
            (view.verdict, view.status) = (Verdict::Observed, None);
        } else {
            (view.verdict, view.status) = (Verdict::Refused, Some(UNAUTHORIZED));
        }
    }

    fn note_attachment(&self, view: &mut ExplainView) {
        if self.plane.attached().is_empty() {
            view.notes.push(
                "nothing is attached: no request is looked at (see `limiter status`)".to_owned(),
            );
        }
    }

    fn mode_from(&self, scope: &Scope) -> Result<&'static str, ApiError> {
        Ok(if scope.record.mode.is_some() {
            "scope"
        } else if self.tier(&scope.record.tier)?.mode.is_some() {
            "tier"
        } else {
            "policy"
        })
    }

    fn look_as_programs(&self, scope: &Scope, boot_ns: u64) -> Result<Look, ApiError> {
        let id = scope.record.id;
        let utc_ns = boot_ns.wrapping_add(self.utc_offset_ns());
        let own = self.plane.limits(id);
        let is_over = own.until_s != 0 && utc_ns >= u64::from(own.until_s) * 1_000_000_000;
        let then = if is_over { self.plane.ended(id)? } else { None };
        let state = self.plane.state(id);
        Ok(Look {
            // What is allowed stands in the scope's own entry.
            limits: then.map_or(own, |then| abi::Limits {
                allowed: own.allowed,
                ahead: own.ahead,
                flags: own.flags,
                ..then
            }),
            ended: then.is_some(),
            count: DayCount(state.day_count).on(Day::at(utc_ns)),
            state,
            boot_ns,
        })
    }

    /// All limits, in the order in which the programs look at them.
    fn standings(&self, scope: &Scope, look: &Look, limits: &Limits) -> [Standing; 4] {
        let Look {
            limits: kernel,
            state,
            count,
            boot_ns,
            ..
        } = look;
        let now = self.utc(*boot_ns).unwrap_or_else(Utc::now);
        let pace = &scope.pace;
        let wait_ns = if kernel.interval_ns == 0 {
            0
        } else {
            let rate = Rate {
                interval_ns: kernel.interval_ns,
                tolerance_ns: kernel.tolerance_ns,
            };
            rate.judge(state.tat_ns, *boot_ns).err().unwrap_or(0)
        };
        // Without a burst a schedule tells when the last request was.
        let last_ns =
            (kernel.tolerance_ns == 0).then(|| state.tat_ns.saturating_sub(kernel.interval_ns));
        let quota = count.count() >= kernel.daily_quota;
        let connections = state.connections >= kernel.connections;
        let concurrency = state.in_flight >= kernel.concurrency;
        let when = |reached: bool, at: Option<DateTime<Utc>>| at.filter(|_| reached);
        [
            Standing {
                why: reason::DAILY_QUOTA,
                used: Some(count.count()),
                reached: quota,
                since: when(quota, pace.daily_quota.since(now)),
                until: when(quota, Some(self.quota_until(scope, look, limits))),
            },
            Standing {
                why: reason::CONNECTIONS,
                used: Some(state.connections),
                reached: connections,
                since: when(connections, pace.connections.since(now)),
                until: None,
            },
            Standing {
                why: reason::CONCURRENCY,
                used: Some(state.in_flight),
                reached: concurrency,
                since: when(concurrency, pace.concurrency.since(now)),
                until: None,
            },
            Standing {
                why: reason::RATE,
                used: None,
                reached: wait_ns > 0,
                since: when(wait_ns > 0, last_ns.and_then(|ns| self.utc(ns))),
                until: when(wait_ns > 0, self.utc(boot_ns.saturating_add(wait_ns))),
            },
        ]
    }

    /// When a quota that is used up is one no longer: at midnight, or when an override ends that has
    /// brought less than what there is without it.
    fn quota_until(&self, scope: &Scope, look: &Look, limits: &Limits) -> DateTime<Utc> {
        let midnight = end_of(look.count.day());
        let own = scope.record.own.as_ref().filter(|_| !look.ended);
        let tier = self.tier(&scope.record.tier).ok().map(|tier| tier.limits);
        let more = tier.is_some_and(|tier| {
            tier.daily_quota != limits.daily_quota
                && tier
                    .daily_quota
                    .is_none_or(|quota| look.count.count() < quota)
        });
        match own.and_then(|own| own.until) {
            Some(until) if more => until.min(midnight),
            _ => midnight,
        }
    }

    /// A request that no limit stands against may have to wait for the store, or be refused when that
    /// cannot be written.
    fn hold(&self, view: &mut ExplainView, look: &Look) {
        let limits = &look.limits;
        if limits.ahead == 0 || limits.daily_quota == UNLIMITED {
            return;
        }
        let word = DayCount(limits.allowed);
        let allowed = if word.day() == look.count.day() {
            word.count()
        } else {
            u64::from(limits.ahead)
        };
        if look.count.count() < allowed {
            return;
        }
        if look.boot_ns < self.attended.load(SeqCst) {
            view.verdict = Verdict::Held;
            view.notes.push(
                "what the store has allowed so far is used up: it is about to allow more"
                    .to_owned(),
            );
            return;
        }
        if self.config.accounting.unattended == Unattended::Reject {
            view.verdict = Verdict::Refused;
            view.status = Some(TOO_MANY);
            view.reason = Some("daily_quota".to_owned());
            view.notes.push(
                "the store cannot be written, and what it has allowed is used up (accounting.unattended)"
                    .to_owned(),
            );
        }
    }
}

fn view_limit(standing: &Standing, limits: &Limits, own: Option<&Changes>) -> LimitView {
    let is_own = |of: fn(&Changes) -> bool| own.is_some_and(of);
    let (value, own): (Value, bool) = match standing.why {
        reason::DAILY_QUOTA => (
            limits.daily_quota.into(),
            is_own(|own| own.daily_quota.is_some()),
        ),
        reason::CONNECTIONS => (
            limits.connections.into(),
            is_own(|own| own.connections.is_some()),
        ),
        reason::CONCURRENCY => (
            limits.concurrency.into(),
            is_own(|own| own.concurrency.is_some()),
        ),
        _ => (
            limits.rate.map(|rate| rate.to_string()).into(),
            is_own(|own| own.rate.is_some() || own.burst.is_some()),
        ),
    };
    LimitView {
        limit: NAMES
            .get(standing.why as usize)
            .copied()
            .unwrap_or_default()
            .to_owned(),
        value,
        from: if own { "override" } else { "tier" }.to_owned(),
        used: standing.used,
        reached: standing.reached,
        since: standing.since,
        until: standing.until,
    }
}
