// SPDX-License-Identifier: MIT OR Apache-2.0

//! Limits and modes of individual scopes, which take precedence over those of their tiers.

use chrono::{DateTime, Utc};

use super::{
    audit::check_note,
    overrides::{described, over, replaced},
    registry::Scope,
    view::view_scope,
};
use crate::{
    domain::{limits::Override, scope::ScopeName},
    engine::{caller::Caller, state::Engine},
    protocol::{
        error::ApiError,
        requests::{SetLimits, SetMode},
        views::{ChangedScope, rfc3339},
    },
    store::{AuditEntry, ScopeRecord},
};

/// Limits that a scope is to get.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LimitsChange {
    /// The scope with the new override.
    pub(crate) record: ScopeRecord,
    /// The new override, which `record` has too.
    pub(crate) limits_override: Override,
    /// Warnings for the operator.
    pub(crate) warnings: Vec<String>,
}

/// An override that is to end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LimitsRemoval {
    /// The scope without the override.
    pub(crate) record: ScopeRecord,
    /// The reason of the removal, for the audit trail.
    pub(crate) note: String,
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
    /// Gives a scope limits of its own. Limits that the request does not name keep their values
    /// from an earlier override or from the tier.
    ///
    /// # Errors
    /// Returns an error if there is no such scope, if the request names no limit or a value that is
    /// out of range, or if the end in the request has passed. Also returns an error if that end
    /// would also apply to limits that the request does not name, unless the request confirms this
    /// (`for_all`).
    pub fn set_limits(
        &mut self,
        name: &ScopeName,
        request: SetLimits,
        caller: &Caller,
    ) -> Result<ChangedScope, ApiError> {
        let change = self.prepare_set_limits(name, request, caller)?;
        self.commit_set_limits(change, caller)
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
        let before = scope.record.limits_override.as_ref();
        let (limits_override, warnings) = over(before, request, (name, caller.now))?;
        Ok(LimitsChange {
            record: self.with_override(scope, &limits_override)?,
            limits_override,
            warnings,
        })
    }

    /// Gives a scope limits of its own as prepared.
    ///
    /// # Errors
    /// Returns an error if there is no such scope any more, if the override no longer fits its
    /// tier, or if the store or the kernel reports an error.
    pub(crate) fn commit_set_limits(
        &mut self,
        change: LimitsChange,
        caller: &Caller,
    ) -> Result<ChangedScope, ApiError> {
        let LimitsChange {
            record: ScopeRecord { name, .. },
            limits_override,
            warnings,
        } = change;
        let scope = self.find_registered(&name)?;
        let before = scope.record.limits_override.clone();
        let id = self.with_override(scope, &limits_override)?.id;
        let detail = describe(&limits_override);
        self.store.change(|store| {
            store.set_override(id, &limits_override, caller.now)?;
            let entry = caller.entry("limits set", name.as_str(), &detail);
            store.audit(&AuditEntry {
                note: Some(&limits_override.note),
                ..entry
            })
        })?;
        if let Some(scope) = self.scopes.get_mut(&name) {
            scope.record.limits_override = Some(limits_override);
        }
        self.publish_scope(&name)?;
        self.drop_unused_texts()?;
        let message = format!("limits of {name} set: {detail}");
        self.events
            .add_change(caller, "limits set", Some(&name), None, message);
        Ok(ChangedScope {
            warnings,
            ..self.changed_view(&name, before.as_ref())?
        })
    }

    /// Returns the record of a scope with another override, which must fit the scope's tier.
    fn with_override(
        &self,
        scope: &Scope,
        limits_override: &Override,
    ) -> Result<ScopeRecord, ApiError> {
        let record = ScopeRecord {
            limits_override: Some(limits_override.clone()),
            ..scope.record.clone()
        };
        self.setup.effective(&record)?;
        Ok(record)
    }

    /// Ends a scope's override.
    ///
    /// # Errors
    /// Returns an error if there is no such scope or it has no override.
    pub fn clear_limits(
        &mut self,
        name: &ScopeName,
        note: &str,
        caller: &Caller,
    ) -> Result<ChangedScope, ApiError> {
        let removal = self.prepare_clear_limits(name, note)?;
        self.commit_clear_limits(removal, caller)
    }

    /// Prepares [`Engine::clear_limits`].
    ///
    /// # Errors
    /// Returns an error if there is no such scope or it has no override.
    pub(crate) fn prepare_clear_limits(
        &self,
        name: &ScopeName,
        note: &str,
    ) -> Result<LimitsRemoval, ApiError> {
        check_note(note)?;
        let (record, _) = self.find_override(name)?;
        Ok(LimitsRemoval {
            record: ScopeRecord {
                limits_override: None,
                ..record.clone()
            },
            note: note.to_owned(),
        })
    }

    /// Ends a scope's override as prepared.
    ///
    /// # Errors
    /// Returns an error if the scope or its override no longer exists, or if the store or the
    /// kernel reports an error.
    pub(crate) fn commit_clear_limits(
        &mut self,
        removal: LimitsRemoval,
        caller: &Caller,
    ) -> Result<ChangedScope, ApiError> {
        let LimitsRemoval { record, note } = removal;
        let name = record.name;
        let before = self.find_override(&name)?.1.clone();
        self.end_override(&name, &note, caller)?;
        self.publish_scope(&name)?;
        self.drop_unused_texts()?;
        self.changed_view(&name, Some(&before))
    }

    /// Returns the record and the override of a scope.
    ///
    /// # Errors
    /// Returns an error if there is no such scope or it has no override.
    fn find_override(&self, name: &ScopeName) -> Result<(&ScopeRecord, &Override), ApiError> {
        let record = &self.scopes.find(name)?.record;
        let Some(limits_override) = &record.limits_override else {
            return Err(ApiError::conflict(format!(
                "the scope {name} has no limits of its own"
            )));
        };
        Ok((record, limits_override))
    }

    /// Returns the view of a scope after a change, including the override settings that the change
    /// has replaced.
    fn changed_view(
        &self,
        name: &ScopeName,
        before: Option<&Override>,
    ) -> Result<ChangedScope, ApiError> {
        let scope = self.scopes.find(name)?;
        let changed = replaced(before, scope.record.limits_override.as_ref(), &scope.limits);
        Ok(ChangedScope {
            changed,
            ..view_scope(scope).into()
        })
    }

    /// Removes a scope's override from the store and from memory. The caller must publish the
    /// scope.
    fn end_override(
        &mut self,
        name: &ScopeName,
        note: &str,
        caller: &Caller,
    ) -> Result<(), ApiError> {
        let (record, limits_override) = self.find_override(name)?;
        let (id, detail) = (record.id, format!("was {}", describe(limits_override)));
        self.store.change(|store| {
            store.clear_override(id)?;
            let entry = caller.entry("limits clear", name.as_str(), &detail);
            store.audit(&AuditEntry {
                note: Some(note),
                ..entry
            })
        })?;
        if let Some(scope) = self.scopes.get_mut(name) {
            scope.record.limits_override = None;
        }
        let message = format!("limits of {name} cleared, {detail}: {note}");
        self.events
            .add_change(caller, "limits clear", Some(name), None, message);
        Ok(())
    }

    /// Ends the overrides whose end has passed, and publishes their scopes.
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

    /// Removes from the store and from memory the overrides whose end has passed, and returns the
    /// names of their scopes.
    pub(crate) fn end_overrides(&mut self, now: DateTime<Utc>) -> Result<Vec<ScopeName>, ApiError> {
        let ended: Vec<ScopeName> = self
            .scopes
            .iter()
            .filter(|scope| {
                let until = scope
                    .record
                    .limits_override
                    .as_ref()
                    .and_then(|limits_override| limits_override.until);
                until.is_some_and(|until| until <= now)
            })
            .map(|scope| scope.record.name.clone())
            .collect();
        let caller = Caller {
            who: "limiter".to_owned(),
            now,
        };
        for name in &ended {
            self.end_override(name, "its end has passed", &caller)?;
        }
        Ok(ended)
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

fn describe(limits_override: &Override) -> String {
    let mut parts = described(&limits_override.changes);
    if let Some(until) = &limits_override.until {
        parts.push(format!("until {}", rfc3339(until)));
    }
    parts.join(", ")
}
