// SPDX-License-Identifier: MIT OR Apache-2.0

//! Publication of limits, texts and policies to the kernel.

use std::collections::HashSet;

use limiter_common::{
    abi::{self, LIMITS_LEASED},
    day::DayCount,
};

use super::{keys, plane, text_sets::TextSets};
use crate::{
    config::OnLimit,
    domain::{limits::Limits, mode::Mode, scope::ScopeName},
    engine::{fleet::leases::needs_lease, setup::Setup, state::Engine},
    kernel::{KernelError, Plane, boot_ns},
    protocol::error::ApiError,
    store::ScopeRecord,
};
use limiter_common::abi::Digest;

/// Enters the texts for a scope's limits into the kernel, and returns the limits in the form that
/// the kernel uses.
pub(crate) fn kernel_limits(
    texts: &mut TextSets,
    plane: &mut dyn Plane,
    setup: &Setup,
    (limits, mode): &(Limits, Mode),
    in_fleet: bool,
) -> Result<abi::Limits, KernelError> {
    let set = texts.number(plane, limits)?;
    let ahead = setup.config().accounting.ahead_of(limits.daily_quota);
    let mut own = plane::limits(limits, *mode, set, ahead);
    if in_fleet && needs_lease(limits, *mode) {
        own.flags |= LIMITS_LEASED;
    }
    Ok(own)
}

/// Returns the ends of a scope's own limits in the order of their times, in seconds since 1970,
/// each with the scope as it is from then on.
fn later(record: &ScopeRecord) -> impl Iterator<Item = (u32, ScopeRecord)> {
    let mut record = record.clone();
    std::iter::from_fn(move || {
        let own = record.limits_override.take()?;
        let end = own.next_end()?;
        record.limits_override = own.at(end).non_empty();
        // An end that the kernel cannot represent is so far in the future that it is not published.
        let until_s = u32::try_from(end.timestamp()).ok()?;
        Some((until_s, record.clone()))
    })
}

impl Engine {
    /// Puts one scope's limits into force.
    pub(crate) fn publish_scope(&mut self, name: &ScopeName) -> Result<(), ApiError> {
        let record = self.scopes.find(name)?.record.clone();
        let in_force = self.setup.effective(&record)?;
        let own = self.kernel_limits(&in_force)?;
        let mut own = self.with_share(record.id, own);
        if let Some(bounds) = self.scopes.find(name)?.bounds {
            own.ahead = own.ahead.min(bounds.ahead(own.ahead));
        }
        let after = self.after_ends(&record, &mut own)?;
        // The limits that apply after the end are written before the limits that refer to them. If
        // the present ones have ended, the kernel uses those in `ENDED`, which therefore stay until
        // the new ones are there.
        let has_ended = self.has_ended_in_kernel(record.id);
        if let Some(after) = after.as_ref().filter(|_| !has_ended) {
            self.plane.set_ended(record.id, Some(after))?;
        }
        self.limit_allowance(name, &in_force);
        self.plane.set_limits(record.id, &own)?;
        if after.is_none() || has_ended {
            self.plane.set_ended(record.id, after.as_ref())?;
        }
        if let Some(scope) = self.scopes.get_mut(name) {
            let (limits, mode) = in_force;
            // A different quota requires a different allowance, which is set when the counts are
            // next written.
            scope.unsaved |= scope.limits.daily_quota != limits.daily_quota;
            scope.limits = limits;
            scope.mode = mode;
        }
        self.follow_quota(name, &in_force)
    }

    /// Returns whether the limits of a scope in the kernel have ended.
    fn has_ended_in_kernel(&self, scope: u32) -> bool {
        let until_s = self.plane.limits(scope).until_s;
        let utc_ns = boot_ns().wrapping_add(self.clock.words().utc_offset_ns());
        !abi::Limits::apply_at(until_s, utc_ns)
    }

    /// Returns the limits that apply after the ends of a scope's own limits, and sets the first of
    /// these ends in `own`. Returns `None` if there is no end.
    fn after_ends(
        &mut self,
        record: &ScopeRecord,
        own: &mut abi::Limits,
    ) -> Result<Option<abi::Ended>, ApiError> {
        let mut ended = abi::Ended::default();
        let mut previous = own;
        for (stage, (until_s, record)) in ended.stages.iter_mut().zip(later(record)) {
            previous.until_s = until_s;
            let in_force = self.setup.effective(&record)?;
            *stage = self.kernel_limits(&in_force)?;
            previous = stage;
        }
        Ok((ended != abi::Ended::default()).then_some(ended))
    }

    pub(crate) fn kernel_limits(
        &mut self,
        in_force: &(Limits, Mode),
    ) -> Result<abi::Limits, KernelError> {
        let in_fleet = self.fleet.is_some();
        kernel_limits(
            &mut self.texts,
            self.plane.as_mut(),
            &self.setup,
            in_force,
            in_fleet,
        )
    }

    /// Writes the responses that concern no scope to the kernel.
    pub(crate) fn publish_common_texts(&mut self) -> Result<(), KernelError> {
        let keeps = self.setup.config().policy.on_limit == OnLimit::Keepalive;
        self.texts.publish_common(self.plane.as_mut(), keeps)
    }

    /// Puts all scopes' limits into force.
    pub(crate) fn publish_limits(&mut self) -> Result<(), ApiError> {
        let names: Vec<ScopeName> = self.scopes.names().cloned().collect();
        for name in names {
            self.publish_scope(&name)?;
        }
        for id in self.scopes.retired() {
            self.plane.set_limits(id, &abi::Limits::default())?;
        }
        Ok(())
    }

    /// Makes the keys in the kernel equal to those in the store ([`keys::publish`]).
    pub(crate) fn publish_keys(&mut self) -> Result<Vec<(Digest, u32)>, ApiError> {
        let adopts = self.setup.unknown_tier().is_some();
        keys::publish(self.plane.as_mut(), &self.store, &self.scopes, adopts)
    }

    /// Returns the limits of a new scope of an unknown key, or `None` if unknown keys get no
    /// scopes.
    fn adopt_limits(&mut self) -> Result<Option<abi::Limits>, ApiError> {
        let Some(name) = self.setup.unknown_tier() else {
            return Ok(None);
        };
        let tier = *self.setup.tier(name.as_str())?;
        let mut limits = self.kernel_limits(&(tier.limits, self.setup.mode_of(&tier)))?;
        let begin = self.unknown.begin();
        // A scope that shares its quota gets nothing before the engine has granted it.
        if begin.count() > 0 && limits.flags & LIMITS_LEASED == 0 {
            // The initial count is in the store, and the programs may admit `ahead` more requests
            // of a new scope on their own. The first allowance is therefore the sum of both.
            let allowed = begin.count().saturating_add(limits.ahead.into());
            let allowed = allowed.min(limits.daily_quota);
            limits.allowed = DayCount::new(begin.day(), allowed).0;
        }
        Ok(Some(limits))
    }

    /// Puts the policies, the sources of keys and the guarded ports into force.
    pub(crate) fn publish_config(&mut self) -> Result<(), ApiError> {
        let adopt = self.adopt_limits()?;
        let (config, begin) = (self.setup.config(), self.unknown.begin());
        let in_kernel = plane::config(config, **self.setup.secret(), adopt, begin)
            .map_err(|error| ApiError::configuration(format!("`identify.sources`: {error}")))?;
        self.plane.set_config(&in_kernel)?;
        self.plane.set_ports(&config.attach.ports)?;
        Ok(())
    }

    /// Removes the texts of limits that no scope has now or will have after the ends of its own
    /// limits.
    pub(crate) fn drop_unused_texts(&mut self) -> Result<(), KernelError> {
        let mut used: HashSet<Limits> = self.scopes.iter().map(|scope| scope.limits).collect();
        let later = self.scopes.iter().flat_map(|scope| later(&scope.record));
        used.extend(later.filter_map(|(_, record)| Some(self.setup.effective(&record).ok()?.0)));
        let tiers = &self.setup.config().tiers;
        used.extend(tiers.iter().map(|(_, tier)| tier.limits));
        self.texts.retain(self.plane.as_mut(), &used)
    }
}
