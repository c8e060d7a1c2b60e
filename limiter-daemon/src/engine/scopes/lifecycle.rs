// SPDX-License-Identifier: MIT OR Apache-2.0

//! Adding and removing scopes.

use limiter_common::{
    abi::{self, Digest, KEY_DISABLED, KeyEntry, NO_SCOPE},
    day::DayCount,
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
        let AddScope { scope: name, tier } = request;
        let tier = tier.unwrap_or_else(|| name.default_tier().to_owned());
        if let Some(scope) = self.scopes.get(&name) {
            return Err(ApiError::conflict(format!(
                "the scope {name} exists already, with tier {}",
                scope.record.tier
            )));
        }
        self.setup.tier(&tier)?;
        let tables = &self.setup.config().tables;
        let id = free_id(&self.scopes, &self.unknown, self.plane.as_ref(), tables)?;
        self.store.change(|store| {
            store.add_scope(id, &name, &tier, caller.now)?;
            store.release(id)?;
            let detail = format!("tier {tier}");
            store.audit(&caller.entry("scope add", name.as_str(), &detail))
        })?;
        self.enter_scope(ScopeRecord::new(id, name.clone(), tier.clone(), caller.now))?;
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

    /// Adds a scope to memory and to the kernel after it has been added to the store.
    fn enter_scope(&mut self, record: ScopeRecord) -> Result<(), ApiError> {
        let (id, name, today) = (record.id, record.name.clone(), day_of(record.created_at));
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
        self.check_registered(name)?;
        let id = self.scopes.find(name)?.record.id;
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
        let entries = self.kernel_entries(&keys)?;
        if let Err(error) = self.take_out_scope(name, id, &entries, caller) {
            // The store has not changed, so the previous state of the kernel is restored.
            self.plane.set_keys(&entries)?;
            self.publish_scope(name)?;
            return Err(error);
        }
        self.scopes.retire(name);
        let message = format!(
            "scope {name} removed, {} revoked",
            counted(keys.len(), "key")
        );
        self.events
            .add_change(caller, "scope remove", Some(name), None, message);
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
        self.store.change(|store| {
            store.remove_scope(id, caller.now)?;
            departed.save(store)?;
            let detail = format!("{}, revoked permanently", counted(entries.len(), "key"));
            store.audit(&caller.entry("scope remove", name.as_str(), &detail))?;
            Ok::<(), ApiError>(())
        })?;
        self.departed = departed;
        Ok(())
    }

    /// Checks that an operator may change a scope. Scopes that the kernel has created for unknown
    /// keys cannot be changed.
    ///
    /// # Errors
    /// Returns an error if the scope belongs to an unknown key.
    pub(crate) fn check_registered(&self, name: &ScopeName) -> Result<(), ApiError> {
        let scope = self.scopes.get(name);
        if scope.is_some_and(|scope| scope.record.unknown.is_some()) {
            return Err(ApiError::conflict(format!(
                "the scope {name} belongs to a key that is not registered: `limiter key import` with that key moves it to another scope"
            )));
        }
        Ok(())
    }
}
