// SPDX-License-Identifier: MIT OR Apache-2.0

//! Changes to unknown keys that affect the store, the kernel and the registry of scopes.

use std::collections::HashSet;

use chrono::{DateTime, Utc};
use limiter_common::{
    abi::Digest,
    day::{Day, DayCount},
};

use super::{first_counts, is_adopted, names};
use crate::{
    domain::scope::ScopeName,
    engine::{
        counts::flush::Occasion, publish::keys, scopes::registry::Scope, state::Engine,
        time::day_of,
    },
    protocol::error::ApiError,
    store::ScopeRecord,
};

impl Engine {
    /// Takes over the scopes of unknown keys from the previous daemon after all scopes have been
    /// read.
    pub(crate) fn continue_unknown(&mut self) -> Result<(), ApiError> {
        self.unknown.find_names(&self.scopes);
        self.unknown.read_begin(&self.store)?;
        self.follow_unknown_tier()?;
        self.unknown
            .take_over_ids(self.plane.as_ref(), &self.scopes);
        Ok(())
    }

    /// Does the work for unknown keys that is due every second.
    ///
    /// # Errors
    /// Returns an error if the store or the kernel reports one.
    pub(crate) fn maintain_unknown(&mut self, now: DateTime<Utc>) -> Result<(), ApiError> {
        self.unknown.find_unreported(self.plane.as_ref())?;
        self.record_adopted(now)?;
        self.forget_idle(now)?;
        self.fill_unused()
    }

    /// Offers ids to the kernel if the configuration gives scopes to unknown keys.
    pub(crate) fn fill_unused(&mut self) -> Result<(), ApiError> {
        if self.setup.unknown_tier().is_some() {
            let tables = &self.setup.config().tables;
            self.unknown
                .fill(self.plane.as_mut(), &self.scopes, tables)?;
        }
        Ok(())
    }

    /// Writes the usage of scopes that the kernel has created but the daemon has not recorded yet.
    /// The caller must do this before it removes the maps.
    ///
    /// # Errors
    /// Returns an error if the store or the kernel reports one.
    pub(crate) fn record_unreported(&mut self, now: DateTime<Utc>) -> Result<(), ApiError> {
        let today = day_of(now);
        let plane = self.plane.as_ref();
        let unreported: Vec<(ScopeName, u64)> = keys::adopted(plane)?
            .into_iter()
            .filter(|(_, entry)| !self.scopes.has_id(entry.scope))
            .filter_map(|(key, entry)| {
                let [name, _] = names(&key);
                let word = DayCount(plane.state(entry.scope).day_count).on(today);
                Some((name?, word.count()))
            })
            .collect();
        self.store.change(|store| {
            for (name, used) in &unreported {
                let mut usage = store.usage_of(name.as_str(), today)?.unwrap_or_default();
                usage.used = usage.used.saturating_add(*used);
                usage.allowed = usage.used;
                store.set_usage(name.as_str(), today, &usage)?;
            }
            Ok::<(), ApiError>(())
        })
    }

    /// Moves the scopes of unknown keys to the tier that the configuration now names for them.
    ///
    /// # Errors
    /// Returns an error if the store reports one.
    pub(crate) fn follow_unknown_tier(&mut self) -> Result<(), ApiError> {
        let Some(tier) = self.setup.unknown_tier().map(ToString::to_string) else {
            return Ok(());
        };
        let of_unknown = self
            .scopes
            .iter()
            .filter(|scope| scope.record.unknown.is_some());
        let others = of_unknown.filter(|scope| scope.record.tier != tier);
        let others: Vec<u32> = others.map(|scope| scope.record.id).collect();
        if others.is_empty() {
            return Ok(());
        }
        let plane = self.plane.as_ref();
        let departed = self
            .departed
            .with_moved(&tier, &others, &self.scopes, plane);
        self.store.change(|store| {
            store.set_unknown_tier(&tier)?;
            departed.save(store)
        })?;
        self.departed = departed;
        for id in others {
            if let Some(scope) = self.scopes.by_id_mut(id) {
                scope.record.tier.clone_from(&tier);
            }
        }
        Ok(())
    }

    /// Raises the count with which scopes of unknown keys begin today. This is necessary after maps
    /// were lost, because the lost maps may have had scopes that the store does not know.
    pub(crate) fn raise_unknown_begin(&mut self, today: Day) -> Result<(), ApiError> {
        let Some(tier) = self.setup.unknown_tier() else {
            return Ok(());
        };
        let tier = *self.setup.tier(tier.as_str())?;
        let Some(quota) = tier.limits.daily_quota else {
            return Ok(());
        };
        // A scope that needs a lease had none before the daemon knew the scope.
        if self.shares(&(tier.limits, self.setup.mode_of(&tier))) {
            return Ok(());
        }
        let ahead = u64::from(self.setup.config().accounting.ahead_of(Some(quota)));
        self.unknown
            .raise_begin(&mut self.store, ahead, quota, today)?;
        Ok(())
    }

    /// Records the scopes in `adopted`, which are the scopes that the kernel has reported to have
    /// created for unknown keys.
    ///
    /// # Errors
    /// Returns an error if the store or the kernel reports one. The next round tries again.
    pub(crate) fn note_adopted(
        &mut self,
        adopted: &[(Digest, u32)],
        now: DateTime<Utc>,
    ) -> Result<(), ApiError> {
        if self.detached {
            return Ok(());
        }
        self.unknown.add_reported(adopted);
        self.record_adopted(now)
    }

    fn record_adopted(&mut self, now: DateTime<Utc>) -> Result<(), ApiError> {
        let unrecorded = self.unknown.unrecorded();
        if !unrecorded.is_empty() {
            self.record_unknown(&unrecorded, now)?;
            self.unknown.clear_unrecorded();
        }
        Ok(())
    }

    /// Adds to the store and to memory the scopes in `adopted`, which the kernel has created for
    /// unknown keys.
    ///
    /// # Errors
    /// Returns an error if the store or the kernel reports one.
    pub(crate) fn record_unknown(
        &mut self,
        adopted: &[(Digest, u32)],
        now: DateTime<Utc>,
    ) -> Result<(), ApiError> {
        let Some(tier) = self.setup.unknown_tier().map(ToString::to_string) else {
            return Ok(());
        };
        let new = self.new_among(adopted)?;
        // Some of these keys may already have a scope with another id. The counts under the old ids
        // are written first, because the daemon no longer reads them after the change.
        let old: HashSet<u32> = new
            .iter()
            .filter_map(|(key, _)| self.scopes.get(self.unknown.scope(key)?))
            .map(|scope| scope.record.id)
            .collect();
        self.flush_some(&old, Occasion::Other, now)?;
        let named = self.unknown.choose_names(new, &self.scopes);
        if named.is_empty() {
            return Ok(());
        }
        let plane = self.plane.as_ref();
        let departed = (!old.is_empty()).then(|| self.departed.with(old, &self.scopes, plane));
        self.store.change(|store| {
            for (key, id, name) in &named {
                store.add_unknown(*id, name, &tier, *key, now)?;
            }
            departed
                .iter()
                .try_for_each(|departed| departed.save(store))
        })?;
        if let Some(departed) = departed {
            self.departed = departed;
        }
        let ids = named.iter().map(|(_, id, _)| *id).collect();
        for (key, id, name) in named {
            self.add_to_memory(key, id, name, &tier, now)?;
        }
        self.flush_some(&ids, Occasion::Other, now)
    }

    /// Returns the entries of `adopted` for which scopes have to be added. Skips an entry if its
    /// key has been registered since then, or if its scope is already in memory. If the id of an
    /// entry belongs to the scope of another key, also removes the entry's key from the kernel.
    fn new_among(&mut self, adopted: &[(Digest, u32)]) -> Result<Vec<(Digest, u32)>, ApiError> {
        let mut new = Vec::new();
        for (key, id) in adopted {
            if !is_adopted(key, *id, self.plane.as_ref())? {
                continue;
            }
            match self.scopes.name_of(*id) {
                Some(name) if self.unknown.scope(key) == Some(name) => {}
                Some(name) => {
                    log::warn!("an unknown key was charged to {name}: it is unknown again");
                    self.plane.remove_key(key)?;
                }
                None => new.push((*key, *id)),
            }
        }
        Ok(new)
    }

    /// Adds the scope of an unknown key to memory after it has been added to the store and the
    /// kernel.
    fn add_to_memory(
        &mut self,
        key: Digest,
        id: u32,
        name: ScopeName,
        tier: &str,
        now: DateTime<Utc>,
    ) -> Result<(), ApiError> {
        let today = day_of(now);
        // The scope may already have usage of today, either because its key was registered for some
        // time, or because the scope had another id until now.
        let usage = self.store.usage_of(name.as_str(), today)?;
        let mut usage = usage.unwrap_or_default();
        if usage.used > 0 {
            self.plane.add_to_day_count(id, today, usage.used);
        }
        let begin = self.unknown.begin();
        if begin.day() == today {
            usage.lost = usage.lost.saturating_add(begin.count());
        }
        let initial = usage.used.saturating_add(begin.on(today).count());
        let counts = first_counts(&self.plane.state(id), initial, usage, today);
        let record = match self.scopes.remove(&name) {
            Some(known) => {
                // The leases of the scope continue under the new id.
                self.forget_leases(known.record.id);
                ScopeRecord { id, ..known.record }
            }
            None => ScopeRecord {
                unknown: Some(key),
                ..ScopeRecord::new(id, name.clone(), tier.to_owned(), now)
            },
        };
        let in_force = self.setup.effective(&record)?;
        self.unknown.note_scope(key, id, name.clone());
        self.scopes.insert(Scope {
            unsaved: true,
            ..Scope::with_counts(record, in_force, counts)
        });
        self.publish_scope(&name)
    }

    /// Forgets idle scopes, and removes from the kernel the keys of scopes that have become idle.
    fn forget_idle(&mut self, now: DateTime<Utc>) -> Result<(), ApiError> {
        let idle = self
            .unknown
            .still_idle(self.plane.as_mut(), &self.scopes, day_of(now))?;
        if let Err(error) = self.forget_unknown(&idle) {
            self.unknown
                .keep_leaving(idle.into_iter().map(|(key, _)| key));
            return Err(error);
        }
        if !idle.is_empty() {
            log::info!("forgot {} unknown keys of earlier days", idle.len());
        }
        self.unknown
            .search_idle(self.plane.as_mut(), &self.scopes, now)?;
        Ok(())
    }

    /// Removes the scopes that `keys` got while they were unknown. The usage of the scopes stays in
    /// the store.
    ///
    /// # Errors
    /// Returns an error if the store or the kernel reports one.
    pub(crate) fn drop_unknown(
        &mut self,
        keys: &[Digest],
        now: DateTime<Utc>,
    ) -> Result<(), ApiError> {
        let dropped = self.unknown.ids_of(keys, &self.scopes);
        if dropped.is_empty() {
            return Ok(());
        }
        let ids = dropped.iter().map(|(_, id)| *id).collect();
        self.flush_some(&ids, Occasion::Other, now)?;
        self.forget_unknown(&dropped)
    }

    /// Removes the scopes of unknown keys from the store and from memory. Their ids can be used
    /// again when no connection uses them any more.
    fn forget_unknown(&mut self, keys: &[(Digest, u32)]) -> Result<(), ApiError> {
        if keys.is_empty() {
            return Ok(());
        }
        let ids = keys.iter().map(|(_, id)| *id);
        let departed = self.departed.with(ids, &self.scopes, self.plane.as_ref());
        self.store.change(|store| {
            keys.iter()
                .try_for_each(|(_, id)| store.forget_unknown(*id))?;
            departed.save(store)
        })?;
        self.departed = departed;
        for (key, _) in keys {
            if let Some(name) = self.unknown.forget(key)
                && let Some(scope) = self.scopes.remove(&name)
            {
                self.forget_leases(scope.record.id);
            }
        }
        Ok(())
    }

    /// Removes the scopes of all unknown keys, and removes these keys from the kernel. The caller
    /// does this when the configuration no longer gives scopes to unknown keys.
    ///
    /// # Errors
    /// Returns an error if the store or the kernel reports one.
    pub(crate) fn drop_all_unknown(&mut self, now: DateTime<Utc>) -> Result<(), ApiError> {
        for (key, _) in keys::adopted(self.plane.as_ref())? {
            self.plane.remove_key(&key)?;
        }
        self.drop_unknown_scopes(now)
    }

    /// Removes the scopes of all unknown keys. The caller must remove the keys from the kernel.
    ///
    /// # Errors
    /// Returns an error if the store or the kernel reports one.
    pub(crate) fn drop_unknown_scopes(&mut self, now: DateTime<Utc>) -> Result<(), ApiError> {
        let keys = self.unknown.all_keys();
        self.drop_unknown(&keys, now)
    }
}
