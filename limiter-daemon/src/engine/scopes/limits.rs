// SPDX-License-Identifier: MIT OR Apache-2.0

//! Limits and modes of individual scopes, which take precedence over those of their tiers.

use chrono::{DateTime, Utc};

use super::{
    audit::check_note,
    overrides::{described, over, replaced},
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
        check_note(&request.note)?;
        if request.limits.is_empty() {
            return Err(ApiError::invalid("name at least one limit to set"));
        }
        self.check_registered(name)?;
        let scope = self.scopes.find(name)?;
        // An error in the limits of the request is reported before other errors.
        request.limits.apply(scope.limits)?;
        let before = scope.record.limits_override.clone();
        let (limits_override, warnings) = over(before.as_ref(), request, (name, caller.now))?;
        let record = ScopeRecord {
            limits_override: Some(limits_override.clone()),
            ..scope.record.clone()
        };
        self.setup.effective(&record)?;
        let detail = describe(&limits_override);
        self.store.change(|store| {
            store.set_override(record.id, &limits_override, caller.now)?;
            let entry = caller.entry("limits set", name.as_str(), &detail);
            store.audit(&AuditEntry {
                note: Some(&limits_override.note),
                ..entry
            })
        })?;
        if let Some(scope) = self.scopes.get_mut(name) {
            scope.record.limits_override = Some(limits_override);
        }
        self.publish_scope(name)?;
        self.drop_unused_texts()?;
        let message = format!("limits of {name} set: {detail}");
        self.events
            .add_change(caller, "limits set", Some(name), None, message);
        Ok(ChangedScope {
            warnings,
            ..self.changed_view(name, before.as_ref())?
        })
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
        check_note(note)?;
        let before = self.scopes.find(name)?.record.limits_override.clone();
        self.end_override(name, note, caller)?;
        self.publish_scope(name)?;
        self.drop_unused_texts()?;
        self.changed_view(name, before.as_ref())
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
        let record = &self.scopes.find(name)?.record;
        let Some(limits_override) = &record.limits_override else {
            return Err(ApiError::conflict(format!(
                "the scope {name} has no limits of its own"
            )));
        };
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
        check_note(&request.note)?;
        self.check_registered(name)?;
        let record = &self.scopes.find(name)?.record;
        let (id, own_mode) = (record.id, request.mode.own());
        let was = record.mode.map_or("tier", |mode| mode.as_str());
        let detail = format!(
            "{}, was {was}",
            own_mode.map_or("tier", |mode| mode.as_str())
        );
        self.store.change(|store| {
            store.set_mode(id, own_mode)?;
            let entry = caller.entry("scope mode", name.as_str(), &detail);
            store.audit(&AuditEntry {
                note: Some(&request.note),
                ..entry
            })
        })?;
        if let Some(scope) = self.scopes.get_mut(name) {
            scope.record.mode = own_mode;
        }
        self.publish_scope(name)?;
        let message = format!("mode of {name} is {detail}");
        self.events
            .add_change(caller, "scope mode", Some(name), None, message);
        self.scopes.find(name).map(|scope| view_scope(scope).into())
    }
}

fn describe(limits_override: &Override) -> String {
    let mut parts = described(&limits_override.changes);
    if let Some(until) = &limits_override.until {
        parts.push(format!("until {}", rfc3339(until)));
    }
    parts.join(", ")
}
