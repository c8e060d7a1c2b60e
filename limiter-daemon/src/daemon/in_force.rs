//! Putting limits, keys, texts and policies into the kernel.

use std::collections::{HashMap, HashSet};

use limiter_common::abi::{self, Digest, KEY_ADOPTED, KEY_DISABLED, KeyEntry};

use super::{engine::Engine, publish};
use crate::{
    api::ApiError,
    config::UnknownKey,
    kernel::KernelError,
    limits::Limits,
    scope::ScopeName,
    store::{KeyRecord, KeyState},
};

impl Engine {
    /// Puts one scope's limits into force.
    pub(super) fn publish_scope(&mut self, name: &ScopeName) -> Result<(), ApiError> {
        let record = self.scope(name)?.record.clone();
        let (limits, mode) = self.effective(&record)?;
        let set = self.texts.number(self.plane.as_mut(), &limits)?;
        self.plane
            .set_limits(record.id, &publish::limits(&limits, mode, set))?;
        if let Some(scope) = self.scopes.get_mut(name) {
            scope.limits = limits;
            scope.mode = mode;
        }
        Ok(())
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

    /// The kernel's keys become the store's; when each was last used stays.
    pub(super) fn publish_keys(&mut self) -> Result<(), ApiError> {
        let mut present: HashMap<Digest, KeyEntry> = self.plane.keys()?.into_iter().collect();
        for key in self.store.keys(None)? {
            let old = present.remove(&key.digest);
            let entry = key_entry(&key, old.map_or(0, |entry| entry.last_used_ns));
            if old != Some(entry) {
                self.plane.set_key(&key.digest, &entry)?;
            }
        }
        // Those that the kernel adopted are not the store's: see `publish_adopted`.
        for (digest, entry) in present {
            if entry.flags & KEY_ADOPTED == 0 {
                self.plane.remove_key(&digest)?;
            }
        }
        Ok(())
    }

    /// Scopes that the kernel made of unknown keys get the limits that the configuration has
    /// for them now; where it has none any more, their keys are unknown again.
    pub(super) fn publish_adopted(&mut self) -> Result<(), ApiError> {
        let adopt = self.adopt_limits()?;
        for (digest, entry) in self.plane.keys()? {
            if entry.flags & KEY_ADOPTED == 0 {
                continue;
            }
            match &adopt {
                Some(limits) => self.plane.set_limits(entry.scope, limits)?,
                None => self.plane.remove_key(&digest)?,
            }
        }
        Ok(())
    }

    /// What a scope of an unknown key gets, when the configuration makes scopes of them.
    fn adopt_limits(&mut self) -> Result<Option<abi::Limits>, ApiError> {
        let UnknownKey::Tier(name) = &self.config.policy.unknown_key else {
            return Ok(None);
        };
        let tier = *self.tier(name.as_str())?;
        let set = self.texts.number(self.plane.as_mut(), &tier.limits)?;
        let mode = tier.mode.unwrap_or(self.config.policy.mode);
        Ok(Some(publish::limits(&tier.limits, mode, set)))
    }

    /// Policies, sources and ports.
    pub(super) fn publish_config(&mut self) -> Result<(), ApiError> {
        let adopt = self.adopt_limits()?;
        let config = publish::config(&self.config, *self.secret, adopt)
            .map_err(|error| ApiError::configuration(format!("`identify.sources`: {error}")))?;
        self.plane.set_config(&config)?;
        self.plane.set_ports(&self.config.attach.ports)?;
        Ok(())
    }

    pub(super) fn drop_unused_texts(&mut self) -> Result<(), KernelError> {
        let mut used: HashSet<Limits> = self.scopes.values().map(|scope| scope.limits).collect();
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
    let flags = if key.state == KeyState::Active {
        0
    } else {
        KEY_DISABLED
    };
    KeyEntry {
        scope: key.scope_id,
        flags,
        last_used_ns,
    }
}
