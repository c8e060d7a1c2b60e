// SPDX-License-Identifier: MIT OR Apache-2.0

//! Explanations of why a request would pass or be refused if it arrived now. The rules are those of
//! the kernel programs (`limiter-ebpf`, `decide/charge.rs` and `decide/verdict.rs`), applied to the
//! maps that the programs read.

mod limits;

use chrono::Utc;
use limiter_common::abi::{KEY_DISABLED, KeyEntry, LIMITS_IN_USE, LIMITS_OBSERVE, reason};

use crate::{
    config::UnknownKey,
    domain::{key_state::KeyState, mode::Mode, scope::ScopeName},
    engine::{
        keys::view::view_key,
        scopes::registry::{Scope, Scopes},
        setup::Setup,
        time::ClockWords,
    },
    kernel::Plane,
    protocol::{
        error::ApiError,
        insight::{ExplainView, Verdict},
        overrides::OverrideView,
    },
    store::{AuditFilter, AuditRecord, KeyFilter, KeyRecord, Store},
};

use limits::view_limit;

/// The status codes of refused requests.
const TOO_MANY: u16 = 429;
const UNAUTHORIZED: u16 = 401;

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
        let (id, state, until) = (key.id.clone(), key.state, key.until);
        let entry = self.plane.key(&key.digest)?;
        let scope = self.scopes.find(&key.scope)?;
        let mut view = self.explain_scope(scope)?;
        view.notes.clear();
        self.note_attachment(&mut view);
        view.key = Some(view_key(key, self.plane, self.clock)?);
        match entry {
            Some(entry) if !KeyEntry::is_disabled(entry.flags, self.utc_ns()) => {}
            Some(entry) if entry.flags & KEY_DISABLED == 0 => {
                view.since = until;
                self.refuse_key(&mut view, reason::DISABLED_KEY);
                view.notes.push("the end of the key has passed".to_owned());
            }
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
        let limits = match words.record == scope.record {
            true => scope.limits,
            false => self.setup.effective(&words.record)?.0,
        };
        let limits_override = words.record.limits_override.as_ref();
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
                .map(|state| view_limit(state, &limits, limits_override.map(|own| own.changes())))
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
}
