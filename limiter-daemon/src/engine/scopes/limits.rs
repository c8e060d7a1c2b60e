// SPDX-License-Identifier: MIT OR Apache-2.0

//! Limits and modes of individual scopes, which take precedence over those of their tiers.

use chrono::{DateTime, Utc};

use super::{
    audit::check_note,
    overrides::{OwnLimits, changes, over, replaced},
    view::view_scope,
};
use crate::{
    domain::{
        limits::{LimitName, Override},
        scope::ScopeName,
    },
    engine::{caller::Caller, state::Engine},
    protocol::{
        error::ApiError,
        requests::{ClearLimits, SetLimits, SetMode},
        views::ChangedScope,
    },
    store::{AuditEntry, ScopeRecord},
};

/// A change of the limits of a scope's own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LimitsChange {
    /// The scope with its new override, or without one.
    pub(crate) record: ScopeRecord,
    /// The action for the audit trail.
    pub(crate) action: LimitsAction,
    /// The reason.
    pub(crate) note: String,
    /// Warnings for the operator.
    pub(crate) warnings: Vec<String>,
}

/// The kind of a change of limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LimitsAction {
    /// Limits of the scope's own are set.
    Set,
    /// Limits of the scope's own end, so that those of the tier apply.
    Clear,
}

impl LimitsAction {
    /// Returns the kind of the change from one override to another one.
    pub(crate) fn between(before: Option<&Override>, after: Option<&Override>) -> Self {
        let Some(after) = after else {
            return Self::Clear;
        };
        let ended = |before: &Override| {
            let names = before.terms().keys().copied();
            let ended = names.filter(|limit| !after.terms().contains_key(limit));
            let ended: Vec<LimitName> = ended.collect();
            !ended.is_empty() && before.without(&ended) == *after
        };
        match before.is_some_and(ended) {
            true => Self::Clear,
            false => Self::Set,
        }
    }

    fn as_str(self) -> &'static str {
        match self {
            Self::Set => "limits set",
            Self::Clear => "limits clear",
        }
    }
}

/// A mode that a scope is to get.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ModeChange {
    /// The scope with the new mode, or without a mode if that of its tier is to apply.
    pub(crate) record: ScopeRecord,
    /// The reason of the change, for the audit trail.
    pub(crate) note: String,
}

impl Engine {
    /// Gives a scope limits of its own. Limits that the request does not name stay as they are,
    /// with their ends and notes.
    ///
    /// # Errors
    /// Returns an error if there is no such scope, if the request names no limit or a value that is
    /// out of range, or if the end in the request has passed.
    pub fn set_limits(
        &mut self,
        name: &ScopeName,
        request: SetLimits,
        caller: &Caller,
    ) -> Result<ChangedScope, ApiError> {
        let change = self.prepare_set_limits(name, request, caller)?;
        self.commit_limits(change, caller)
    }

    /// Prepares [`Engine::set_limits`].
    ///
    /// # Errors
    /// Returns the errors of [`Engine::set_limits`] that concern the request.
    pub(crate) fn prepare_set_limits(
        &self,
        name: &ScopeName,
        request: SetLimits,
        caller: &Caller,
    ) -> Result<LimitsChange, ApiError> {
        check_note(&request.note)?;
        if request.limits.is_empty() {
            return Err(ApiError::invalid("name at least one limit to set"));
        }
        let scope = self.find_registered(name)?;
        // An error in the limits of the request is reported before other errors.
        request.limits.apply(scope.limits)?;
        let note = request.note.clone();
        let before = scope.record.limits_override.as_ref();
        let (own, warnings) = over(before, request, caller.now)?;
        let record = with_override(&scope.record, Some(own));
        self.setup.effective(&record)?;
        Ok(LimitsChange {
            record,
            action: LimitsAction::Set,
            note,
            warnings,
        })
    }

    /// Changes the limits of a scope's own as prepared.
    ///
    /// # Errors
    /// Returns an error if there is no such scope any more, if the override no longer fits its
    /// tier, or if the store or the kernel reports an error.
    pub(crate) fn commit_limits(
        &mut self,
        change: LimitsChange,
        caller: &Caller,
    ) -> Result<ChangedScope, ApiError> {
        let LimitsChange {
            record:
                ScopeRecord {
                    name,
                    limits_override,
                    ..
                },
            action,
            note,
            warnings,
        } = change;
        let scope = self.find_registered(&name)?;
        let (before, limits_before) = (scope.record.limits_override.clone(), scope.limits);
        self.store_override(&name, limits_override, (action, &note), caller)?;
        self.publish_scope(&name)?;
        self.drop_unused_texts()?;
        let scope = self.scopes.find(&name)?;
        let changed = replaced(
            OwnLimits {
                own: before.as_ref(),
                in_force: &limits_before,
            },
            OwnLimits {
                own: scope.record.limits_override.as_ref(),
                in_force: &scope.limits,
            },
        );
        Ok(ChangedScope {
            changed,
            warnings,
            ..view_scope(scope).into()
        })
    }

    /// Ends limits of a scope's own: those in `limits`, or all if `limits` is empty.
    ///
    /// # Errors
    /// Returns an error if there is no such scope, or if it does not have one of these limits.
    pub fn clear_limits(
        &mut self,
        name: &ScopeName,
        request: &ClearLimits,
        caller: &Caller,
    ) -> Result<ChangedScope, ApiError> {
        let change = self.prepare_clear_limits(name, request)?;
        self.commit_limits(change, caller)
    }

    /// Prepares [`Engine::clear_limits`].
    ///
    /// # Errors
    /// Returns the errors of [`Engine::clear_limits`].
    pub(crate) fn prepare_clear_limits(
        &self,
        name: &ScopeName,
        request: &ClearLimits,
    ) -> Result<LimitsChange, ApiError> {
        let ClearLimits { limits, note } = request;
        check_note(note)?;
        let record = &self.scopes.find(name)?.record;
        let Some(own) = &record.limits_override else {
            return Err(ApiError::conflict(format!(
                "the scope {name} has no limits of its own"
            )));
        };
        if let Some(other) = limits.iter().find(|limit| !own.terms().contains_key(limit)) {
            let names: Vec<&str> = own.terms().keys().map(|limit| limit.as_str()).collect();
            return Err(ApiError::conflict(format!(
                "the scope {name} has no {other} of its own, only {}; nothing was changed",
                names.join(", ")
            )));
        }
        let rest = match limits.is_empty() {
            true => None,
            false => own.without(limits).non_empty(),
        };
        Ok(LimitsChange {
            record: with_override(record, rest),
            action: LimitsAction::Clear,
            note: note.clone(),
            warnings: Vec::new(),
        })
    }

    /// Replaces the override of a scope in the store and in memory. The caller must publish the
    /// scope.
    fn store_override(
        &mut self,
        name: &ScopeName,
        limits_override: Option<Override>,
        (action, note): (LimitsAction, &str),
        caller: &Caller,
    ) -> Result<(), ApiError> {
        let record = self.scopes.find(name)?.record.clone();
        let after = with_override(&record, limits_override.clone());
        let in_force = self.setup.effective(&after)?.0;
        // A tier that is missing in the configuration is not an error here.
        let before = self
            .setup
            .effective(&record)
            .map_or(in_force, |(limits, _)| limits);
        let detail = changes(
            OwnLimits {
                own: record.limits_override.as_ref(),
                in_force: &before,
            },
            OwnLimits {
                own: limits_override.as_ref(),
                in_force: &in_force,
            },
        );
        self.store.change(|store| {
            store.set_override(
                record.id,
                &limits_override.clone().unwrap_or_default(),
                caller.now,
            )?;
            let entry = caller.entry(action.as_str(), name.as_str(), &detail);
            store.audit(&AuditEntry {
                note: Some(note),
                ..entry
            })
        })?;
        if let Some(scope) = self.scopes.get_mut(name) {
            scope.record.limits_override = limits_override;
        }
        let message = match action {
            LimitsAction::Set => format!("limits of {name} set: {detail}"),
            LimitsAction::Clear => format!("limits of {name} cleared: {detail}: {note}"),
        };
        self.events
            .add_change(caller, action.as_str(), Some(name), None, message);
        Ok(())
    }

    /// Ends the limits of scopes' own whose end has passed, and publishes their scopes.
    ///
    /// # Errors
    /// Returns an error if the store or the kernel reports one.
    pub fn expire_overrides(&mut self, now: DateTime<Utc>) -> Result<(), ApiError> {
        let ended = self.end_overrides(now)?;
        for name in &ended {
            self.publish_scope(name)?;
        }
        if !ended.is_empty() {
            self.drop_unused_texts()?;
        }
        Ok(())
    }

    /// Removes from the store and from memory the limits of scopes' own whose end has passed, and
    /// returns the names of their scopes.
    pub(crate) fn end_overrides(&mut self, now: DateTime<Utc>) -> Result<Vec<ScopeName>, ApiError> {
        let ended = self.scopes.iter().filter_map(|scope| {
            let own = scope.record.limits_override.as_ref()?;
            let has_ended = own.next_end().is_some_and(|end| end <= now);
            has_ended.then(|| (scope.record.name.clone(), own.at(now).non_empty()))
        });
        let ended: Vec<_> = ended.collect();
        let caller = Caller {
            who: "limiter".to_owned(),
            now,
        };
        let mut names = Vec::with_capacity(ended.len());
        for (name, rest) in ended {
            let reason = (LimitsAction::Clear, "its end has passed");
            self.store_override(&name, rest, reason, &caller)?;
            names.push(name);
        }
        Ok(names)
    }

    /// Sets the mode of a scope, or removes the scope's own mode, after which the mode of the tier
    /// applies again. The change applies from the next request of the scope on.
    ///
    /// # Errors
    /// Returns an error if there is no such scope, the note is empty, or the store or the kernel
    /// reports an error.
    pub fn set_mode(
        &mut self,
        name: &ScopeName,
        request: &SetMode,
        caller: &Caller,
    ) -> Result<ChangedScope, ApiError> {
        let change = self.prepare_set_mode(name, request)?;
        self.commit_set_mode(change, caller)
    }

    /// Prepares [`Engine::set_mode`].
    ///
    /// # Errors
    /// Returns an error if there is no such scope or the note is empty.
    pub(crate) fn prepare_set_mode(
        &self,
        name: &ScopeName,
        request: &SetMode,
    ) -> Result<ModeChange, ApiError> {
        check_note(&request.note)?;
        let scope = self.find_registered(name)?;
        Ok(ModeChange {
            record: ScopeRecord {
                mode: request.mode.own(),
                ..scope.record.clone()
            },
            note: request.note.clone(),
        })
    }

    /// Sets the mode of a scope as prepared.
    ///
    /// # Errors
    /// Returns an error if there is no such scope any more, or if the store or the kernel reports
    /// an error.
    pub(crate) fn commit_set_mode(
        &mut self,
        change: ModeChange,
        caller: &Caller,
    ) -> Result<ChangedScope, ApiError> {
        let ModeChange {
            record: ScopeRecord { name, mode, .. },
            note,
        } = change;
        let record = &self.find_registered(&name)?.record;
        let id = record.id;
        let was = record.mode.map_or("tier", |mode| mode.as_str());
        let detail = format!("{}, was {was}", mode.map_or("tier", |mode| mode.as_str()));
        self.store.change(|store| {
            store.set_mode(id, mode)?;
            let entry = caller.entry("scope mode", name.as_str(), &detail);
            store.audit(&AuditEntry {
                note: Some(&note),
                ..entry
            })
        })?;
        if let Some(scope) = self.scopes.get_mut(&name) {
            scope.record.mode = mode;
        }
        self.publish_scope(&name)?;
        let message = format!("mode of {name} is {detail}");
        self.events
            .add_change(caller, "scope mode", Some(&name), None, message);
        self.scopes
            .find(&name)
            .map(|scope| view_scope(scope).into())
    }
}

fn with_override(record: &ScopeRecord, limits_override: Option<Override>) -> ScopeRecord {
    ScopeRecord {
        limits_override,
        ..record.clone()
    }
}
