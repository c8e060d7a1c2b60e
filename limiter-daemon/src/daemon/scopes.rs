//! Changing scopes and their limits.

use chrono::{DateTime, Utc};
use limiter_common::{abi, day::DayCount};

use super::{
    audit::check_note,
    engine::{Caller, Engine, Scope, day_of},
};
use crate::{
    api::{
        AddScope, ApiError, OverrideView, Report, ScopeDetail, ScopeView, SetLimits, TierView,
        rfc3339,
    },
    kernel::KernelError,
    limits::Override,
    scope::ScopeName,
    store::{KeyState, ScopeRecord},
};

impl Engine {
    /// Adds a scope.
    ///
    /// # Errors
    /// It exists, its tier does not, or the table of scopes is full.
    pub fn add_scope(&mut self, request: AddScope, caller: &Caller) -> Result<ScopeView, ApiError> {
        let AddScope { scope: name, tier } = request;
        let tier = tier.unwrap_or_else(|| name.default_tier().to_owned());
        if let Some(scope) = self.scopes.get(&name) {
            return Err(ApiError::conflict(format!(
                "the scope {name} exists already, with tier {}",
                scope.record.tier
            )));
        }
        self.tier(&tier)?;
        let id = self.free_id()?;
        self.store.change(|store| {
            store.add_scope(id, &name, &tier, caller.now)?;
            store.release(id)?;
            let detail = format!("tier {tier}");
            store.audit(&caller.entry("scope add", name.as_str(), &detail))
        })?;
        self.enter_scope(id, &name, &tier, caller.now)?;
        let what = format!("scope {name} added, tier {tier}");
        self.tell_change(caller, "scope add", Some(&name), None, what);
        self.scope_view(&name)
    }

    /// Takes a scope that is in the store into memory and into the kernel.
    pub(super) fn enter_scope(
        &mut self,
        id: u32,
        name: &ScopeName,
        tier: &str,
        now: DateTime<Utc>,
    ) -> Result<(), ApiError> {
        let today = day_of(now);
        // A scope that was removed today and is made again goes on where it was.
        let usage = self
            .store
            .usage_of(name.as_str(), today)?
            .unwrap_or_default();
        self.retired.remove(&id);
        self.ids.insert(id, name.clone());
        self.next_id = id.saturating_add(1);
        self.plane.clear_state(id);
        self.plane.set_allowed(id, DayCount::default());
        self.plane.raise_day_count(id, today, usage.used);
        let record = ScopeRecord::new(id, name.clone(), tier.to_owned(), now);
        let in_force = self.effective(&record)?;
        let scope = Scope::new(record, in_force, usage, today);
        self.scopes.insert(name.clone(), scope);
        self.publish_scope(name)
    }

    /// An id that no scope has and no flow in the kernel can still name.
    fn free_id(&self) -> Result<u32, ApiError> {
        let full = || KernelError::scopes_full(self.config.tables.scopes).into();
        self.free_ids().next().ok_or_else(full)
    }

    /// All such ids, each once, as many as there can be scopes more.
    pub(super) fn free_ids(&self) -> impl Iterator<Item = u32> {
        let tables = &self.config.tables;
        let (limit, all) = (tables.scopes, tables.scope_ids());
        let next = self.next_id.min(limit);
        let unused = |id: &u32| {
            !self.ids.contains_key(id)
                && !self.retired.contains(id)
                && !self.unknown.may_take(*id)
                && self.is_quiet(*id)
        };
        // Removed scopes' ids come back once nothing in the kernel holds on to them.
        let retired = self.retired.iter().copied();
        let busy = retired.clone().filter(|id| !self.is_quiet(*id)).count();
        let registered = self.scopes.len() - self.unknown.count();
        // Those beyond the limit are for unknown keys, which may have had some below it when the
        // limit was a smaller one.
        (next..limit)
            .chain(0..next)
            .filter(unused)
            .chain(retired.filter(|id| self.is_quiet(*id)))
            .chain((limit..all).filter(unused))
            .take((limit as usize).saturating_sub(registered + busy))
    }

    /// Removes a scope with its keys.
    ///
    /// # Errors
    /// There is none, or keys of it are active and `with_keys` is not set.
    pub fn remove_scope(
        &mut self,
        name: &ScopeName,
        with_keys: bool,
        caller: &Caller,
    ) -> Result<Report, ApiError> {
        self.check_registered(name)?;
        let id = self.scope(name)?.record.id;
        let keys = self.store.keys(Some(id))?;
        let active = keys
            .iter()
            .filter(|key| key.state == KeyState::Active)
            .count();
        if active > 0 && !with_keys {
            return Err(ApiError::conflict(format!(
                "the scope {name} has {active} active keys: revoke them first, or say --with-keys"
            )));
        }
        // Nothing is charged to it any more; the day's last counts stay in the store, under its name.
        self.plane.set_limits(id, &abi::Limits::default())?;
        let removed = self.flush(caller.now).and_then(|()| {
            let departed = self.departed_with([id]);
            self.store.change(|store| {
                store.remove_scope(id)?;
                departed.save(store)?;
                let detail = format!("{} keys", keys.len());
                store.audit(&caller.entry("scope remove", name.as_str(), &detail))?;
                Ok::<(), ApiError>(())
            })?;
            Ok(departed)
        });
        match removed {
            Ok(departed) => self.departed = departed,
            Err(error) => {
                self.publish_scope(name)?;
                return Err(error);
            }
        }
        for key in &keys {
            self.plane.remove_key(&key.digest)?;
        }
        self.scopes.remove(name);
        self.ids.remove(&id);
        self.retired.insert(id);
        let what = format!("scope {name} removed with {} keys", keys.len());
        self.tell_change(caller, "scope remove", Some(name), None, what);
        let done = vec![format!(
            "removed the scope {name} and its {} keys",
            keys.len()
        )];
        Ok(Report {
            done,
            warnings: Vec::new(),
        })
    }

    /// All scopes.
    pub fn list_scopes(&self) -> Vec<ScopeView> {
        self.scopes.values().map(view).collect()
    }

    /// One scope with its keys.
    ///
    /// # Errors
    /// There is none.
    pub fn show_scope(&self, name: &ScopeName) -> Result<ScopeDetail, ApiError> {
        Ok(ScopeDetail {
            scope: self.scope_view(name)?,
            keys: self.list_keys(Some(name))?,
        })
    }

    pub(super) fn scope_view(&self, name: &ScopeName) -> Result<ScopeView, ApiError> {
        self.scope(name).map(view)
    }

    /// Gives a scope limits of its own; what this names no value for stays as an earlier
    /// override had it, or as the tier has it.
    ///
    /// # Errors
    /// There is no such scope, nothing to change, a limit out of range, an end that has passed.
    pub fn set_limits(
        &mut self,
        name: &ScopeName,
        request: SetLimits,
        caller: &Caller,
    ) -> Result<ScopeView, ApiError> {
        let SetLimits {
            limits: changes,
            until,
            note,
        } = request;
        check_note(&note)?;
        if changes.is_empty() {
            return Err(ApiError::invalid("name at least one limit to set"));
        }
        if until.is_some_and(|until| until <= caller.now) {
            let until = until.as_ref().map(rfc3339).unwrap_or_default();
            return Err(ApiError::invalid(format!(
                "the end {until} has passed already"
            )));
        }
        self.check_registered(name)?;
        let scope = self.scope(name)?;
        // Over an override that is there already: what this one does not name stays, its end too.
        let (changes, until) = match &scope.record.own {
            Some(own) => (changes.over(&own.changes), until.or(own.until)),
            None => (changes, until),
        };
        let own = Override {
            changes,
            until,
            note,
        };
        let record = ScopeRecord {
            own: Some(own.clone()),
            ..scope.record.clone()
        };
        self.effective(&record)?;
        let detail = describe(&own);
        self.store.change(|store| {
            store.set_override(record.id, &own, caller.now)?;
            let entry = caller.entry("limits set", name.as_str(), &detail);
            store.audit(&crate::store::AuditEntry {
                note: Some(&own.note),
                ..entry
            })
        })?;
        if let Some(scope) = self.scopes.get_mut(name) {
            scope.record.own = Some(own);
        }
        self.publish_scope(name)?;
        self.drop_unused_texts()?;
        let what = format!("limits of {name} set: {detail}");
        self.tell_change(caller, "limits set", Some(name), None, what);
        self.scope_view(name)
    }

    /// Ends a scope's override.
    ///
    /// # Errors
    /// There is no such scope, or it has none.
    pub fn clear_limits(
        &mut self,
        name: &ScopeName,
        note: &str,
        caller: &Caller,
    ) -> Result<ScopeView, ApiError> {
        check_note(note)?;
        self.end_override(name, note, caller)?;
        self.publish_scope(name)?;
        self.drop_unused_texts()?;
        self.scope_view(name)
    }

    /// Takes a scope's override out of the store and of memory; the kernel comes next.
    fn end_override(
        &mut self,
        name: &ScopeName,
        note: &str,
        caller: &Caller,
    ) -> Result<(), ApiError> {
        let record = &self.scope(name)?.record;
        let Some(own) = &record.own else {
            return Err(ApiError::conflict(format!(
                "the scope {name} has no limits of its own"
            )));
        };
        let (id, detail) = (record.id, format!("was {}", describe(own)));
        self.store.change(|store| {
            store.clear_override(id)?;
            let entry = caller.entry("limits clear", name.as_str(), &detail);
            store.audit(&crate::store::AuditEntry {
                note: Some(note),
                ..entry
            })
        })?;
        if let Some(scope) = self.scopes.get_mut(name) {
            scope.record.own = None;
        }
        let what = format!("limits of {name} cleared, {detail}: {note}");
        self.tell_change(caller, "limits clear", Some(name), None, what);
        Ok(())
    }

    /// Ends the overrides whose time has come.
    ///
    /// # Errors
    /// The store's and the kernel's.
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

    /// Takes the overrides whose time has come out of the store and of memory; which scopes'
    /// these were.
    pub(super) fn end_overrides(&mut self, now: DateTime<Utc>) -> Result<Vec<ScopeName>, ApiError> {
        let ended: Vec<ScopeName> = self
            .scopes
            .iter()
            .filter(|(_, scope)| {
                let until = scope.record.own.as_ref().and_then(|own| own.until);
                until.is_some_and(|until| until <= now)
            })
            .map(|(name, _)| name.clone())
            .collect();
        let caller = Caller {
            who: "limiter".to_owned(),
            now,
        };
        for name in &ended {
            self.end_override(name, "its end has come", &caller)?;
        }
        Ok(ended)
    }

    /// All tiers.
    pub fn list_tiers(&self) -> Vec<TierView> {
        self.config
            .tiers
            .iter()
            .map(|(name, tier)| TierView {
                tier: name.to_string(),
                limits: tier.limits,
                mode: tier
                    .mode
                    .unwrap_or(self.config.policy.mode)
                    .as_str()
                    .to_owned(),
                scopes: self
                    .scopes
                    .values()
                    .filter(|scope| scope.record.tier == name.as_str())
                    .count() as u64,
            })
            .collect()
    }
}

fn view(scope: &Scope) -> ScopeView {
    ScopeView {
        scope: scope.record.name.clone(),
        tier: scope.record.tier.clone(),
        limits: scope.limits,
        own: scope.record.own.as_ref().map(OverrideView::from),
        mode: scope.mode.as_str().to_owned(),
        own_mode: scope.record.mode.map(|mode| mode.as_str().to_owned()),
        unknown_key: scope.record.unknown.is_some(),
        created_at: scope.record.created_at,
    }
}

fn describe(own: &Override) -> String {
    let view = OverrideView::from(own);
    let mut parts: Vec<String> = view
        .limits
        .iter()
        .map(|(name, value)| match value {
            serde_json::Value::Null => format!("{name} unlimited"),
            serde_json::Value::String(text) => format!("{name} {text}"),
            other => format!("{name} {other}"),
        })
        .collect();
    if let Some(until) = &own.until {
        parts.push(format!("until {}", rfc3339(until)));
    }
    parts.join(", ")
}
