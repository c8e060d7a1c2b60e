//! Putting limits, keys, texts and policies into the kernel.

use std::collections::{HashMap, HashSet};

use limiter_common::{
    abi::{self, Digest, KEY_ADOPTED, KEY_DISABLED, KeyEntry},
    day::DayCount,
};

use super::{engine::Engine, publish};
use crate::{
    api::ApiError,
    config::{Mode, UnknownKey},
    kernel::KernelError,
    limits::Limits,
    scope::ScopeName,
    store::{KeyRecord, KeyState, ScopeRecord},
};

impl Engine {
    /// Puts one scope's limits into force.
    pub(super) fn publish_scope(&mut self, name: &ScopeName) -> Result<(), ApiError> {
        let record = self.scope(name)?.record.clone();
        let (limits, mode) = self.effective(&record)?;
        let mut own = self.kernel_limits(&limits, mode)?;
        let until = record.own.as_ref().and_then(|own| own.until);
        // Before the limits that refer to it. A moment that the kernel cannot tell never comes there.
        let then = match until.map(|until| u32::try_from(until.timestamp())) {
            Some(Ok(until_s)) => {
                own.until_s = until_s;
                let without = ScopeRecord {
                    own: None,
                    ..record.clone()
                };
                let (limits, mode) = self.effective(&without)?;
                Some(self.kernel_limits(&limits, mode)?)
            }
            Some(Err(_)) | None => None,
        };
        if let Some(then) = &then {
            self.plane.set_ended(record.id, Some(then))?;
        }
        self.plane.set_limits(record.id, &own)?;
        if then.is_none() {
            self.plane.set_ended(record.id, None)?;
        }
        if let Some(scope) = self.scopes.get_mut(name) {
            // Another quota allows another count.
            scope.unsaved |= scope.limits.daily_quota != limits.daily_quota;
            scope.limits = limits;
            scope.mode = mode;
        }
        Ok(())
    }

    /// The kernel's form of a scope's limits.
    pub(super) fn kernel_limits(
        &mut self,
        limits: &Limits,
        mode: Mode,
    ) -> Result<abi::Limits, ApiError> {
        let set = self.texts.number(self.plane.as_mut(), limits)?;
        let ahead = self.config.accounting.ahead_of(limits.daily_quota);
        Ok(publish::limits(limits, mode, set, ahead))
    }

    /// Puts all scopes' limits into force.
    pub(super) fn publish_limits(&mut self) -> Result<(), ApiError> {
        let names: Vec<ScopeName> = self.scopes.keys().cloned().collect();
        for name in names {
            self.publish_scope(&name)?;
        }
        let retired: Vec<u32> = self.retired.iter().copied().collect();
        for id in retired {
            self.plane.set_limits(id, &abi::Limits::default())?;
        }
        Ok(())
    }

    /// The kernel's keys become the store's; when each was last used stays. What is there already
    /// is not written again. Returns those that the kernel has made scopes of, of which the store
    /// does not know, or not under these ids.
    pub(super) fn publish_keys(&mut self) -> Result<Vec<(Digest, u32)>, ApiError> {
        let mut present: HashMap<Digest, KeyEntry> = self.plane.keys()?.into_iter().collect();
        let mut different = Vec::new();
        let mut same = 0u64;
        let registered = self.store.key_briefs()?;
        let registered = registered
            .into_iter()
            .map(|key| (key.digest, key.scope_id, flags(key.state)));
        let of_unknown_keys = self.scopes.values().filter_map(|scope| {
            let key = scope.record.unknown?;
            // Where the kernel has it as another one, that is the newer truth.
            let other = present.get(&key).is_some_and(|entry| {
                entry.flags & KEY_ADOPTED != 0 && entry.scope != scope.record.id
            });
            (!other).then_some((key, scope.record.id, KEY_ADOPTED))
        });
        let of_unknown_keys: Vec<_> = of_unknown_keys.collect();
        for (digest, scope, flags) in registered.chain(of_unknown_keys) {
            let old = present.remove(&digest);
            let entry = KeyEntry {
                scope,
                flags,
                last_used_ns: old.map_or(0, |entry| entry.last_used_ns),
            };
            if old == Some(entry) {
                same += 1;
            } else {
                different.push((digest, entry));
            }
        }
        let adopts = self.unknown_tier().is_some();
        let (adopted, strange): (Vec<_>, Vec<_>) = present
            .into_iter()
            .partition(|(_, entry)| adopts && entry.flags & KEY_ADOPTED != 0);
        log::info!(
            "{same} keys in the kernel are the store's, {} entered, {} removed",
            different.len(),
            strange.len()
        );
        // First, to make room.
        for (digest, _) in strange {
            self.plane.remove_key(&digest)?;
        }
        self.plane.set_keys(&different)?;
        let adopted = adopted.into_iter();
        Ok(adopted.map(|(key, entry)| (key, entry.scope)).collect())
    }

    /// The keys that the kernel has made scopes of.
    pub(super) fn adopted_keys(&self) -> Result<Vec<(Digest, KeyEntry)>, KernelError> {
        let mut keys = self.plane.keys()?;
        keys.retain(|(_, entry)| entry.flags & KEY_ADOPTED != 0);
        Ok(keys)
    }

    /// What a scope of an unknown key gets, when the configuration makes scopes of them.
    fn adopt_limits(&mut self) -> Result<Option<abi::Limits>, ApiError> {
        let Some(name) = self.unknown_tier() else {
            return Ok(None);
        };
        let tier = *self.tier(name.as_str())?;
        let mode = tier.mode.unwrap_or(self.config.policy.mode);
        let mut limits = self.kernel_limits(&tier.limits, mode)?;
        let begin = self.unknown.begin;
        if begin.count() > 0 {
            // The store knows of that much, and of what comes by itself.
            let allowed = begin.count().saturating_add(limits.ahead.into());
            let allowed = allowed.min(limits.daily_quota);
            limits.allowed = DayCount::new(begin.day(), allowed).0;
        }
        Ok(Some(limits))
    }

    /// Policies, sources and ports.
    pub(super) fn publish_config(&mut self) -> Result<(), ApiError> {
        let adopt = self.adopt_limits()?;
        let config = publish::config(&self.config, *self.secret, adopt, self.unknown.begin)
            .map_err(|error| ApiError::configuration(format!("`identify.sources`: {error}")))?;
        self.plane.set_config(&config)?;
        self.plane.set_ports(&self.config.attach.ports)?;
        Ok(())
    }

    pub(super) fn drop_unused_texts(&mut self) -> Result<(), KernelError> {
        let mut used: HashSet<Limits> = self.scopes.values().map(|scope| scope.limits).collect();
        // What comes into force when own limits end.
        used.extend(self.config.tiers.iter().map(|(_, tier)| tier.limits));
        if let UnknownKey::Tier(name) = &self.config.policy.unknown_key
            && let Some(tier) = self.config.tiers.get(name.as_str())
        {
            used.insert(tier.limits);
        }
        self.texts.retain(self.plane.as_mut(), &used)
    }
}

/// The kernel's entry for a key.
pub(super) fn key_entry(key: &KeyRecord, last_used_ns: u64) -> KeyEntry {
    KeyEntry {
        scope: key.scope_id,
        flags: flags(key.state),
        last_used_ns,
    }
}

fn flags(state: KeyState) -> u32 {
    if state == KeyState::Active {
        0
    } else {
        KEY_DISABLED
    }
}
