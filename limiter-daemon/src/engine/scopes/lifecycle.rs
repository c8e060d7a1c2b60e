// SPDX-License-Identifier: MIT OR Apache-2.0

//! Adding and removing scopes.
//!
//! Each command that changes scopes or keys has two steps. The preparation checks the request and
//! computes the change, but changes nothing. The commitment makes the change in the store, in
//! memory and in the kernel. Other commands may run between the two steps, so the commitment
//! repeats the checks without which its change could do damage.

use limiter_common::{
    abi::{self, Digest, KEY_DISABLED, KeyEntry, NO_SCOPE},
    day::{Day, DayCount},
};

use super::{free_ids::free_id, look_alikes::Names, registry::Scope};
use crate::{
    domain::{key_state::KeyState, plain::counted, scope::ScopeName},
    engine::{caller::Caller, publish::keys::key_entry, state::Engine, time::day_of},
    protocol::{
        error::ApiError,
        requests::AddScope,
        views::{ChangedScope, Report},
    },
    store::{KeyFilter, KeyRecord, ScopeRecord},
};

/// A scope that is to be added.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ScopeAddition {
    /// The new scope. Its id was free during the preparation. The commitment chooses an id again,
    /// because the kernel may have taken this one for an unknown key in the meantime.
    pub(crate) record: ScopeRecord,
}

/// A scope that is to be removed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ScopeRemoval {
    /// The name of the scope.
    pub(crate) name: ScopeName,
    /// The id of the scope, which a later scope with the same name does not have.
    pub(crate) id: u32,
    /// The keys of the scope during the preparation. The commitment also revokes keys that the
    /// scope has got since then.
    pub(crate) keys: Vec<KeyRecord>,
}

impl Engine {
    /// Adds a scope.
    ///
    /// # Errors
    /// Returns an error if the scope already exists, its tier does not exist, or the table of
    /// scopes is full.
    pub fn add_scope(
        &mut self,
        request: AddScope,
        caller: &Caller,
    ) -> Result<ChangedScope, ApiError> {
        let addition = self.prepare_add_scope(request, caller)?;
        self.commit_add_scope(addition, caller)
    }

    /// Prepares [`Engine::add_scope`].
    ///
    /// # Errors
    /// Returns an error if the scope already exists, its tier does not exist, or the table of
    /// scopes is full.
    pub(crate) fn prepare_add_scope(
        &self,
        request: AddScope,
        caller: &Caller,
    ) -> Result<ScopeAddition, ApiError> {
        let AddScope { scope: name, tier } = request;
        let tier = tier.unwrap_or_else(|| name.default_tier().to_owned());
        let id = self.id_for(&name, &tier)?;
        Ok(ScopeAddition {
            record: ScopeRecord::new(id, name, tier, caller.now),
        })
    }

    /// Adds a scope as prepared, with an id that is free now.
    ///
    /// # Errors
    /// Returns an error if the scope can no longer be added, or if the store or the kernel reports
    /// an error.
    pub(crate) fn commit_add_scope(
        &mut self,
        addition: ScopeAddition,
        caller: &Caller,
    ) -> Result<ChangedScope, ApiError> {
        let ScopeRecord { name, tier, .. } = &addition.record;
        let id = self.id_for(name, tier)?;
        let generation = self.store.removed_generation(name.as_str())?;
        let record = ScopeRecord {
            id,
            // The counts of a removed scope with the same name continue.
            generation: addition.record.generation.max(generation),
            limits_override: None,
            mode: None,
            ..addition.record
        };
        let (name, tier) = (record.name.clone(), record.tier.clone());
        self.store.change(|store| {
            store.add_scope(record.id, &name, &tier, record.created_at)?;
            store.release(record.id)?;
            if record.generation > 0 {
                store.set_generation(record.id, record.generation)?;
            }
            let detail = format!("tier {tier}");
            store.audit(&caller.entry("scope add", name.as_str(), &detail))
        })?;
        self.enter_scope(record, day_of(caller.now))?;
        let message = format!("scope {name} added, tier {tier}");
        self.events
            .add_change(caller, "scope add", Some(&name), None, message);
        let others = self.scopes.names().filter(|other| **other != name);
        let warning = Names::like(&name, others).warning(&name);
        Ok(ChangedScope {
            warnings: warning.into_iter().collect(),
            ..self.scope_view(&name)?.into()
        })
    }

    /// Checks that a scope can be added, and returns a free id for it.
    fn id_for(&self, name: &ScopeName, tier: &str) -> Result<u32, ApiError> {
        if let Some(scope) = self.scopes.get(name) {
            return Err(ApiError::conflict(format!(
                "the scope {name} exists already, with tier {}",
                scope.record.tier
            )));
        }
        self.setup.tier(tier)?;
        let tables = &self.setup.config().tables;
        free_id(&self.scopes, &self.unknown, self.plane.as_ref(), tables)
    }

    /// Adds a scope to memory and to the kernel after it has been added to the store.
    fn enter_scope(&mut self, record: ScopeRecord, today: Day) -> Result<(), ApiError> {
        let (id, name) = (record.id, record.name.clone());
        // A scope that was removed and created again on the same day continues with its count.
        let usage = self.store.usage_of(name.as_str(), today)?;
        let usage = usage.unwrap_or_default();
        self.plane.clear_state(id);
        self.plane.set_allowed(id, DayCount::default());
        self.plane.set_lease(id, &abi::Lease::default());
        self.plane.raise_day_count(id, today, usage.used);
        let in_force = self.setup.effective(&record)?;
        self.scopes.search_after(id);
        self.scopes
            .insert(Scope::new(record, in_force, usage, today));
        self.publish_scope(&name)
    }

    /// Removes a scope and revokes its keys.
    ///
    /// # Errors
    /// Returns an error if there is no such scope, or if it has active keys and `with_keys` is not
    /// set.
    pub fn remove_scope(
        &mut self,
        name: &ScopeName,
        with_keys: bool,
        caller: &Caller,
    ) -> Result<Report, ApiError> {
        let removal = self.prepare_remove_scope(name, with_keys)?;
        self.commit_remove_scope(removal, caller)
    }

    /// Prepares [`Engine::remove_scope`].
    ///
    /// # Errors
    /// Returns an error if there is no such scope, or if it has active keys and `with_keys` is not
    /// set.
    pub(crate) fn prepare_remove_scope(
        &self,
        name: &ScopeName,
        with_keys: bool,
    ) -> Result<ScopeRemoval, ApiError> {
        let id = self.find_registered(name)?.record.id;
        let keys = self.store.keys(KeyFilter::Scope(id))?;
        let active = keys
            .iter()
            .filter(|key| key.state == KeyState::Active)
            .count();
        if active > 0 && !with_keys {
            return Err(ApiError::conflict(format!(
                "the scope {name} has {}: revoke them first, or give --with-keys, which revokes them permanently",
                counted(active, "active key"),
            )));
        }
        Ok(ScopeRemoval {
            name: name.clone(),
            id,
            keys,
        })
    }

    /// Removes a scope as prepared, and revokes all keys that it has now.
    ///
    /// # Errors
    /// Returns an error if the scope has been removed since the preparation, or if the store or the
    /// kernel reports an error.
    pub(crate) fn commit_remove_scope(
        &mut self,
        removal: ScopeRemoval,
        caller: &Caller,
    ) -> Result<Report, ApiError> {
        let ScopeRemoval { name, id, keys: _ } = removal;
        if self.find_registered(&name)?.record.id != id {
            return Err(ApiError::conflict(format!(
                "the scope {name} was removed and added again in the meantime: repeat the command to remove the new scope"
            )));
        }
        // If a key stayed active, requests with it would pass without being charged. The keys are
        // therefore those of this moment, not those of the preparation.
        let keys = self.store.keys(KeyFilter::Scope(id))?;
        let entries = self.kernel_entries(&keys)?;
        if let Err(error) = self.take_out_scope(&name, id, &entries, caller) {
            // The store has not changed, so the previous state of the kernel is restored.
            self.plane.set_keys(&entries)?;
            self.publish_scope(&name)?;
            return Err(error);
        }
        self.scopes.retire(&name);
        self.forget_leases(id);
        let message = format!(
            "scope {name} removed, {} revoked",
            counted(keys.len(), "key")
        );
        self.events
            .add_change(caller, "scope remove", Some(&name), None, message);
        let mut done = vec![format!("removed the scope {name}")];
        if !keys.is_empty() {
            let revoked = match keys.len() {
                1 => "its key is".to_owned(),
                count => format!("its {count} keys are"),
            };
            done.push(format!(
                "{revoked} revoked permanently: `limiter key list --removed {name}` shows them"
            ));
        }
        Ok(Report {
            done,
            warnings: Vec::new(),
        })
    }

    /// Returns the kernel's entries for `keys`, each with the time at which the kernel last saw the
    /// key.
    fn kernel_entries(&self, keys: &[KeyRecord]) -> Result<Vec<(Digest, KeyEntry)>, ApiError> {
        keys.iter()
            .map(|key| {
                let last_used = self.plane.key(&key.digest)?;
                let last_used = last_used.map_or(0, |entry| entry.last_used_ns);
                Ok((key.digest, key_entry(key, last_used)))
            })
            .collect()
    }

    /// Removes a scope from the kernel and the store, and revokes its keys. `entries` are the
    /// entries of the scope's keys in the kernel.
    fn take_out_scope(
        &mut self,
        name: &ScopeName,
        id: u32,
        entries: &[(Digest, KeyEntry)],
        caller: &Caller,
    ) -> Result<(), ApiError> {
        // The keys are revoked first. Once the scope has no limits, requests with active keys would
        // pass without being charged.
        let revoked: Vec<(Digest, KeyEntry)> = entries
            .iter()
            .map(|(digest, entry)| {
                let entry = KeyEntry {
                    scope: NO_SCOPE,
                    flags: KEY_DISABLED,
                    ..*entry
                };
                (*digest, entry)
            })
            .collect();
        self.plane.set_keys(&revoked)?;
        // Once the scope has no limits, no request is charged to it. The flush then writes the
        // final counts of the day, which stay in the store under the name of the scope.
        self.plane.set_limits(id, &abi::Limits::default())?;
        self.flush(caller.now)?;
        let departed = self.departed.with([id], &self.scopes, self.plane.as_ref());
        let generation = self.scopes.find(name)?.record.generation;
        self.store.change(|store| {
            store.remove_scope(id, caller.now)?;
            if generation > 0 {
                store.remember_generation(name.as_str(), generation)?;
            }
            departed.save(store)?;
            let detail = format!("{}, revoked permanently", counted(entries.len(), "key"));
            store.audit(&caller.entry("scope remove", name.as_str(), &detail))?;
            Ok::<(), ApiError>(())
        })?;
        self.departed = departed;
        Ok(())
    }

    /// Returns a scope that an operator may change. Scopes that the kernel has created for unknown
    /// keys cannot be changed.
    ///
    /// # Errors
    /// Returns an error if there is no such scope or it belongs to an unknown key.
    pub(crate) fn find_registered(&self, name: &ScopeName) -> Result<&Scope, ApiError> {
        let scope = self.scopes.find(name)?;
        if scope.record.unknown.is_some() {
            return Err(ApiError::conflict(format!(
                "the scope {name} belongs to a key that is not registered: `limiter key import` with that key moves it to another scope"
            )));
        }
        Ok(scope)
    }
}
