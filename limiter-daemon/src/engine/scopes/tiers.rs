// SPDX-License-Identifier: MIT OR Apache-2.0

//! Scopes that move to another tier.

use super::{
    audit::check_note,
    overrides::{OwnLimits, replaced},
    view::view_scope,
};
use crate::{
    domain::scope::ScopeName,
    engine::{caller::Caller, state::Engine},
    protocol::{error::ApiError, overrides::Replaced, requests::SetTier, views::ChangedScope},
    store::{AuditEntry, ScopeRecord},
};

/// A tier that a scope is to get.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TierChange {
    /// The scope with the new tier.
    pub(crate) record: ScopeRecord,
    /// The reason of the change, for the audit trail.
    pub(crate) note: String,
}

impl Engine {
    /// Moves a scope to another tier. Its counts, its keys and its own limits stay, and the new
    /// limits apply from the next request on.
    ///
    /// # Errors
    /// Returns an error if there is no such scope or tier, the note is empty, or the store or the
    /// kernel reports an error.
    pub fn set_tier(
        &mut self,
        name: &ScopeName,
        request: &SetTier,
        caller: &Caller,
    ) -> Result<ChangedScope, ApiError> {
        let change = self.prepare_set_tier(name, request)?;
        self.commit_set_tier(change, caller)
    }

    /// Prepares [`Engine::set_tier`].
    ///
    /// # Errors
    /// Returns an error if there is no such scope or tier, or the note is empty.
    pub(crate) fn prepare_set_tier(
        &self,
        name: &ScopeName,
        request: &SetTier,
    ) -> Result<TierChange, ApiError> {
        check_note(&request.note)?;
        let scope = self.find_registered(name)?;
        let record = ScopeRecord {
            tier: request.tier.clone(),
            ..scope.record.clone()
        };
        self.setup.effective(&record)?;
        Ok(TierChange {
            record,
            note: request.note.clone(),
        })
    }

    /// Moves a scope to another tier as prepared.
    ///
    /// # Errors
    /// Returns an error if there is no such scope or tier any more, or if the store or the kernel
    /// reports an error.
    pub(crate) fn commit_set_tier(
        &mut self,
        change: TierChange,
        caller: &Caller,
    ) -> Result<ChangedScope, ApiError> {
        let TierChange {
            record: ScopeRecord { name, tier, .. },
            note,
        } = change;
        let scope = self.find_registered(&name)?;
        let before = scope.record.clone();
        let limits_before = scope.limits;
        self.setup.effective(&ScopeRecord {
            tier: tier.clone(),
            ..before.clone()
        })?;
        let detail = format!("tier {} to {tier}", before.tier);
        self.store.change(|store| {
            store.set_tier(before.id, &tier)?;
            let entry = caller.entry("scope set", name.as_str(), &detail);
            store.audit(&AuditEntry {
                note: Some(&note),
                ..entry
            })
        })?;
        if let Some(scope) = self.scopes.get_mut(&name) {
            scope.record.tier.clone_from(&tier);
        }
        self.publish_scope(&name)?;
        self.drop_unused_texts()?;
        let message = format!("{name}: {detail}");
        self.events
            .add_change(caller, "scope set", Some(&name), None, message);
        let scope = self.scopes.find(&name)?;
        let limits = |in_force| OwnLimits {
            own: before.limits_override.as_ref(),
            in_force,
        };
        let mut changed = replaced(limits(&limits_before), limits(&scope.limits));
        if before.tier != tier {
            let tiers = Replaced {
                what: "tier".to_owned(),
                from: before.tier.into(),
                to: tier.into(),
            };
            changed.insert(0, tiers);
        }
        Ok(ChangedScope {
            changed,
            ..view_scope(scope).into()
        })
    }
}
