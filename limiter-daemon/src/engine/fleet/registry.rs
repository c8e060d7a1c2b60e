// SPDX-License-Identifier: MIT OR Apache-2.0

//! The changes that other hosts have made to scopes and keys, and those that the engine lacks.

use std::{
    cmp::Ordering,
    collections::{BTreeMap, HashMap},
};

use chrono::Utc;
use limiter_common::abi::Digest;
use limiter_fleet::registry::{Base, Object};

use super::objects::{KeyObject, NewValue, ObjectName, Origin, ScopeObject};
use crate::{
    domain::{key_state::KeyState, scope::ScopeName},
    engine::{
        caller::Caller,
        counts::usage::CountReset,
        keys::lifecycle::{KeyEndChange, KeyStateChange},
        scopes::{
            lifecycle::{ScopeAddition, ScopeRemoval},
            limits::{LimitsAction, LimitsChange, ModeChange},
            tiers::TierChange,
        },
        state::Engine,
    },
    protocol::error::ApiError,
    store::{KeyRecord, ScopeRecord},
};

/// The name of the store's entry with the version of the registry that this host has.
const VERSION: &str = "fleet_version";
/// The name of the store's entry with the incarnation of the server with the registry.
const INCARNATION: &str = "fleet_incarnation";

/// The state of the registry that this host has.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct RegistryState {
    /// The version.
    pub(crate) version: u64,
    /// The incarnation of the server from which the registry was read.
    pub(crate) incarnation: String,
}

/// The result of an application of objects.
#[derive(Debug, Default)]
pub(crate) struct Applied {
    /// The number of objects that have changed something.
    pub(crate) changed: u64,
    /// The objects that could not be applied, with the reasons.
    pub(crate) problems: Vec<String>,
}

impl Engine {
    /// Reads the state of the registry from the store.
    pub(crate) fn read_registry_state(&self) -> Result<RegistryState, ApiError> {
        let version = self.store.meta(VERSION)?;
        Ok(RegistryState {
            version: version.and_then(|text| text.parse().ok()).unwrap_or(0),
            incarnation: self.store.meta(INCARNATION)?.unwrap_or_default(),
        })
    }

    /// Records the state of the registry that this host has.
    pub(crate) fn set_registry_state(&mut self, state: RegistryState) -> Result<(), ApiError> {
        // After a restart, objects that could not be applied are read again.
        let member = self.fleet.as_ref();
        let has_failed = member.is_some_and(|member| !member.failed.is_empty());
        let stored = if has_failed { 0 } else { state.version };
        self.store.change_without_sync(|store| {
            store.set_meta(VERSION, &stored.to_string())?;
            store.set_meta(INCARNATION, &state.incarnation)
        })?;
        if let Some(member) = &mut self.fleet {
            member.registry = state;
        }
        Ok(())
    }

    /// Makes the changes of other hosts. Scopes come before keys, because a key needs its scope.
    pub(crate) fn apply_objects(&mut self, mut objects: Vec<Object>) -> Applied {
        objects.sort_by(scopes_first);
        let mut applied = Applied::default();
        for object in objects {
            let result = self.apply_object(&object);
            let Some(member) = &mut self.fleet else {
                continue;
            };
            match result {
                Ok(changed) => {
                    applied.changed += u64::from(changed);
                    member.failed.remove(&object.name);
                }
                Err(error) => {
                    let shown = shown_name(&object);
                    applied.problems.push(format!("{shown}: {}", error.message));
                    member.failed.insert(object.name.clone(), object);
                }
            }
        }
        applied
    }

    /// Returns the objects that could not be applied.
    pub(crate) fn failed_objects(&self) -> Vec<Object> {
        let failed = self.fleet.as_ref().map(|member| member.failed.values());
        failed.into_iter().flatten().cloned().collect()
    }

    /// Makes the change of one object. Returns whether anything has changed.
    fn apply_object(&mut self, object: &Object) -> Result<bool, ApiError> {
        if self.store.revision(&object.name)? >= object.revision {
            return Ok(false);
        }
        let invalid = |error| ApiError::failed(format!("its value cannot be read: {error}"));
        let has_lost = match ObjectName::parse(&object.name) {
            Some(ObjectName::Scope(name)) => {
                let scope = serde_json::from_str(&object.value).map_err(invalid)?;
                self.apply_scope(&name, &scope)?;
                false
            }
            Some(ObjectName::Key(digest)) => {
                let key = serde_json::from_str(&object.value).map_err(invalid)?;
                self.apply_key(digest, &key)?
            }
            // An object of a kind that a newer version has made.
            None => return Ok(false),
        };
        self.store.change(|store| {
            store.set_revision(&object.name, object.revision)?;
            match has_lost {
                true => store.set_pending(&object.name),
                false => Ok(()),
            }
        })?;
        Ok(true)
    }

    fn apply_scope(&mut self, name: &ScopeName, object: &ScopeObject) -> Result<(), ApiError> {
        let caller = caller_of(&object.origin);
        let present = self.scopes.get(name).map(|scope| scope.record.clone());
        if object.removed {
            if let Some(record) = present {
                let removal = ScopeRemoval {
                    name: name.clone(),
                    id: record.id,
                    keys: Vec::new(),
                };
                self.commit_remove_scope(removal, &caller)?;
            }
            let generation = self.store.removed_generation(name.as_str())?;
            if object.generation > generation {
                self.store
                    .change(|store| store.remember_generation(name.as_str(), object.generation))?;
            }
            return Ok(());
        }
        let wanted = object.record(name);
        let object_name = ObjectName::Scope(name.clone()).to_string();
        let is_of_fleet = self.store.revision(&object_name)? > 0;
        let was_replaced = |record: &ScopeRecord| {
            let [one, other] = [record, &wanted].map(|record| record.created_at);
            is_of_fleet && one.timestamp_millis() != other.timestamp_millis()
        };
        let replaced = present.as_ref().filter(|record| was_replaced(record));
        if let Some(record) = replaced {
            // The scope was removed, which has revoked its keys, and added again.
            let removal = ScopeRemoval {
                name: name.clone(),
                id: record.id,
                keys: Vec::new(),
            };
            self.commit_remove_scope(removal, &caller)?;
        }
        let is_new = present.is_none() || replaced.is_some();
        if is_new {
            let record = wanted.clone();
            self.commit_add_scope(ScopeAddition { record }, &caller)?;
        }
        let present = self.scopes.find(name)?.record.clone();
        let note = object.origin.note.clone().unwrap_or_default();
        if present.tier != wanted.tier {
            let change = TierChange {
                record: wanted.clone(),
                note: note.clone(),
            };
            self.commit_set_tier(change, &caller)?;
        }
        // Each host ends limits by itself.
        let limits_override = wanted.limits_override.as_ref();
        let limits_override = limits_override.and_then(|own| own.at(caller.now).non_empty());
        if present.limits_override != limits_override {
            let change = LimitsChange {
                action: LimitsAction::between(
                    present.limits_override.as_ref(),
                    limits_override.as_ref(),
                ),
                record: ScopeRecord {
                    limits_override,
                    ..wanted.clone()
                },
                note: note.clone(),
                warnings: Vec::new(),
            };
            self.commit_limits(change, &caller)?;
        }
        if present.mode != wanted.mode {
            let change = ModeChange {
                record: wanted.clone(),
                note: note.clone(),
            };
            self.commit_set_mode(change, &caller)?;
        }
        if !is_of_fleet && !is_new && present.generation != wanted.generation {
            // The counts of a host that has just joined are reported in the generation of the
            // fleet.
            let id = present.id;
            self.store
                .change(|store| store.set_generation(id, wanted.generation))?;
            self.restart_leases(name, wanted.generation)?;
        } else if present.generation < wanted.generation {
            let reset = CountReset {
                name: name.clone(),
                generation: wanted.generation,
                note,
            };
            self.commit_reset(reset, &caller)?;
        }
        Ok(())
    }

    /// Makes the change of a key. Returns whether the fleet has lost the revocation of the key.
    fn apply_key(&mut self, digest: Digest, object: &KeyObject) -> Result<bool, ApiError> {
        let caller = caller_of(&object.origin);
        let Some(present) = self.store.key_by_digest(digest)? else {
            return self.add_key_of_fleet(digest, object, &caller);
        };
        let state = object.state_at(caller.now);
        if present.state == KeyState::Revoked {
            if state == KeyState::Revoked {
                return Ok(false);
            }
            // A revoked key stays revoked. If it was revoked before this host joined the fleet,
            // that concerns this host only.
            let name = ObjectName::Key(digest).to_string();
            let is_of_fleet = self.store.revision(&name)? > 0;
            if !is_of_fleet {
                self.store.change(|store| store.set_only_here(&name))?;
            }
            return Ok(is_of_fleet && !self.store.is_only_here(&name)?);
        }
        if present.scope != object.scope {
            return Err(ApiError::conflict(format!(
                "the key belongs to {} on this host, and to {} in the fleet",
                present.scope, object.scope
            )));
        }
        let note = object.origin.note.clone();
        let wanted = object.record(digest, present.scope_id);
        if present.until != wanted.until {
            let record = KeyRecord {
                until: wanted.until,
                ..present.clone()
            };
            let note = note.clone();
            self.commit_set_key_end(KeyEndChange { record, note }, &caller)?;
        }
        if present.state != state {
            let record = KeyRecord { state, ..present };
            self.commit_set_key_state(KeyStateChange { record, note }, &caller)?;
        }
        Ok(false)
    }

    /// Adds a key. Returns whether the fleet has lost its revocation.
    fn add_key_of_fleet(
        &mut self,
        digest: Digest,
        object: &KeyObject,
        caller: &Caller,
    ) -> Result<bool, ApiError> {
        let scope = self.scopes.get(&object.scope);
        let scope_id = scope
            .filter(|scope| scope.record.unknown.is_none())
            .map(|scope| scope.record.id);
        let record = object.record(digest, scope_id);
        if scope_id.is_none() {
            let name = ObjectName::Scope(object.scope.clone()).to_string();
            let member = self.fleet.as_ref();
            let has_failed = member.is_some_and(|member| member.failed.contains_key(&name));
            let is_known = self.store.revision(&name)? > 0 && !has_failed;
            if object.state != KeyState::Revoked && !is_known {
                return Err(ApiError::not_found(format!(
                    "this host has no scope {}",
                    object.scope
                )));
            }
            // The scope was removed, and its keys stay revoked, which the fleet may not know.
            self.register_removed(&record, caller)?;
            return Ok(object.state != KeyState::Revoked);
        }
        let note = object.origin.note.as_deref();
        self.register(&record, ("key import", note), caller)?;
        Ok(false)
    }

    /// Returns the present value of an object, or `None` if this host has no such object.
    pub(crate) fn value_of(
        &self,
        name: &ObjectName,
        origin: &Origin,
    ) -> Result<Option<NewValue>, ApiError> {
        Ok(match name {
            ObjectName::Scope(scope) => Some(match self.scopes.get(scope) {
                Some(known) => ScopeObject::of(&known.record, origin.clone()).value(scope),
                None => ScopeObject {
                    generation: self.store.removed_generation(scope.as_str())?,
                    ..removed_scope(origin.clone())
                }
                .value(scope),
            }),
            ObjectName::Key(digest) => {
                let record = self.store.key_by_digest(*digest)?;
                record.map(|record| KeyObject::of(&record, origin.clone()).value(*digest))
            }
        })
    }

    /// Returns the objects that this host has and that the engine lacks or has in an older
    /// revision. `of_engine` has the revisions of the engine's objects.
    pub(crate) fn objects_to_restore(
        &self,
        of_engine: &HashMap<String, u64>,
        caller: &Caller,
    ) -> Result<Vec<(Base, Object)>, ApiError> {
        let origin = Origin::of(caller, None);
        let mut restored = Vec::new();
        for (name, revision) in self.store.revisions()? {
            let known = of_engine.get(&name).copied().unwrap_or(0);
            if revision <= known {
                continue;
            }
            if let Some(parsed) = ObjectName::parse(&name)
                && let Some(value) = self.value_of(&parsed, &origin)?
            {
                let value = value.value;
                restored.push((
                    Base::Restored,
                    Object {
                        name,
                        revision,
                        value,
                    },
                ));
            }
        }
        Ok(restored)
    }

    /// Returns the objects that this host has changed while the engine could not be reached.
    pub(crate) fn pending_objects(&self, caller: &Caller) -> Result<Vec<(Base, Object)>, ApiError> {
        let origin = Origin::of(caller, None);
        let mut pending = Vec::new();
        for (name, revision) in self.store.pending()? {
            if let Some(parsed) = ObjectName::parse(&name)
                && let Some(value) = self.value_of(&parsed, &origin)?
            {
                let value = value.value;
                let object = Object {
                    name,
                    revision: revision + 1,
                    value,
                };
                pending.push((Base::Revision(revision), object));
            }
        }
        Ok(pending)
    }

    /// Marks all scopes and keys of operators as objects that the engine does not know, because
    /// this host is the first one of a fleet.
    pub(crate) fn mark_all_pending(&mut self) -> Result<(), ApiError> {
        let scopes = self.scopes.iter();
        let scopes = scopes.filter(|scope| scope.record.unknown.is_none());
        let names: Vec<String> = scopes
            .map(|scope| ObjectName::Scope(scope.record.name.clone()).to_string())
            .collect();
        let keys = self.store.key_briefs()?;
        let keys: Vec<String> = keys
            .iter()
            .map(|key| ObjectName::Key(key.digest).to_string())
            .collect();
        self.store.change(|store| {
            names
                .iter()
                .chain(&keys)
                .try_for_each(|name| store.set_pending(name))
        })?;
        Ok(())
    }

    /// Records the results of a change that the engine has accepted.
    pub(crate) fn note_accepted(&mut self, objects: &[(Base, Object)]) -> Result<(), ApiError> {
        self.store.change(|store| {
            objects
                .iter()
                .try_for_each(|(_, object)| store.set_revision(&object.name, object.revision))
        })?;
        Ok(())
    }

    /// Gives up changes that this host has made while the engine could not be reached, because
    /// other hosts have changed the same objects since. A revoked key stays revoked: it is sent
    /// again.
    pub(crate) fn yield_to(&mut self, objects: Vec<Object>) {
        for object in objects {
            let applied = self.store.change(|store| {
                // The next application compares the object with this revision.
                store.set_revision(&object.name, object.revision.saturating_sub(1))
            });
            let applied = applied
                .map_err(ApiError::from)
                .and_then(|()| self.apply_object(&object));
            if let Err(error) = applied {
                log::error!("fleet: {}: {}", shown_name(&object), error.message);
            }
        }
    }

    /// Returns the state of the registry that this host has.
    pub(crate) fn registry_state(&self) -> RegistryState {
        let state = self.fleet.as_ref().map(|member| member.registry.clone());
        state.unwrap_or_default()
    }

    /// Returns whether there are changes that the engine does not know.
    pub(crate) fn has_pending(&self) -> bool {
        self.store.has_pending().is_ok_and(|pending| pending)
    }

    /// Returns the base and the new revision for each of `values`.
    pub(crate) fn planned(&self, values: Vec<NewValue>) -> Result<Vec<(Base, Object)>, ApiError> {
        values
            .into_iter()
            .map(|NewValue { name, value }| {
                let name = name.to_string();
                let base = self.store.revision(&name)?;
                let object = Object {
                    name,
                    revision: base + 1,
                    value,
                };
                Ok((Base::Revision(base), object))
            })
            .collect()
    }
}

/// Orders objects so that scopes come before keys.
pub(crate) fn scopes_first(one: &Object, other: &Object) -> Ordering {
    other.name.cmp(&one.name)
}

/// Returns the name of an object for people. The digest of a key is not shown.
fn shown_name(object: &Object) -> String {
    match ObjectName::parse(&object.name) {
        Some(ObjectName::Scope(name)) => format!("the scope {name}"),
        Some(ObjectName::Key(_)) => match serde_json::from_str::<KeyObject>(&object.value) {
            Ok(key) => format!("the key {} of {}", key.id, key.scope),
            Err(_) => "a key".to_owned(),
        },
        None => "an object".to_owned(),
    }
}

/// Returns the object of a scope that has been removed.
pub(crate) fn removed_scope(origin: Origin) -> ScopeObject {
    ScopeObject {
        removed: true,
        tier: String::new(),
        created: 0,
        limits: BTreeMap::new(),
        mode: None,
        generation: 0,
        origin,
    }
}

/// Returns the author of a change that another host has made, with the present time.
fn caller_of(origin: &Origin) -> Caller {
    Caller {
        who: origin.who.clone(),
        now: Utc::now(),
    }
}
