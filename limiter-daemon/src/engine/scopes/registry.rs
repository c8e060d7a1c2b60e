// SPDX-License-Identifier: MIT OR Apache-2.0

//! All scopes in memory, indexed by their names and by the ids that the kernel programs use.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    ops::Bound,
};

use limiter_common::{abi::ScopeState, day::Day};

use super::pace::Pace;
use crate::{
    domain::{limits::Limits, mode::Mode, scope::ScopeName},
    engine::{
        counts::day_counts::DayCounts,
        fleet::{bounds::Bounds, leases::needs_lease},
    },
    protocol::error::ApiError,
    store::{CounterReading, DayUsage, ScopeRecord},
    suggest::did_you_mean,
};

/// A scope in the daemon's memory.
pub(crate) struct Scope {
    pub(crate) record: ScopeRecord,
    pub(crate) counts: DayCounts,
    /// The limits in force.
    pub(crate) limits: Limits,
    /// Whether the limits are enforced.
    pub(crate) mode: Mode,
    /// Whether `counts` has changes that are not in the store.
    pub(crate) unsaved: bool,
    /// The rate of the scope's requests, and the times since which its limits have been used up.
    pub(crate) pace: Pace,
    /// The bounds in the kernel, if this host has shared the scope's quota with other hosts.
    pub(crate) bounds: Option<Bounds>,
}

impl Scope {
    /// Returns a scope that begins today. `usage` is the usage of earlier scopes with the same name
    /// today. Apart from this usage, the counters of the scope in the kernel are zero.
    pub(crate) fn new(
        record: ScopeRecord,
        in_force: (Limits, Mode),
        usage: DayUsage,
        today: Day,
    ) -> Self {
        // The reading of a scope without requests has day 0, as in the kernel.
        let seen = match usage.used {
            0 => CounterReading::default(),
            used => CounterReading {
                day: today,
                used,
                ..CounterReading::default()
            },
        };
        Self::with_counts(record, in_force, DayCounts::new(seen, today, usage))
    }

    /// Returns a scope with the counts `counts`.
    pub(crate) fn with_counts(
        record: ScopeRecord,
        (limits, mode): (Limits, Mode),
        counts: DayCounts,
    ) -> Self {
        Self {
            record,
            counts,
            limits,
            mode,
            unsaved: false,
            pace: Pace::default(),
            bounds: None,
        }
    }

    /// Returns the bounds in the kernel, if this host shares the scope's quota with other hosts.
    pub(crate) fn shared_bounds(&self) -> Option<Bounds> {
        self.bounds.filter(|_| needs_lease(&self.limits, self.mode))
    }
}

/// All scopes, and the ids that cannot be given to new scopes.
#[derive(Default)]
pub(crate) struct Scopes {
    by_name: BTreeMap<ScopeName, Scope>,
    names: HashMap<u32, ScopeName>,
    /// The ids of removed scopes that the kernel may still use.
    retired: BTreeSet<u32>,
    /// The id at which the search for a free id begins.
    next_id: u32,
}

impl Scopes {
    /// Returns a registry that is empty except for the ids of removed scopes.
    pub(crate) fn with_retired(retired: impl IntoIterator<Item = u32>) -> Self {
        Self {
            retired: retired.into_iter().collect(),
            ..Self::default()
        }
    }

    pub(crate) fn get(&self, name: &ScopeName) -> Option<&Scope> {
        self.by_name.get(name)
    }

    pub(crate) fn get_mut(&mut self, name: &ScopeName) -> Option<&mut Scope> {
        self.by_name.get_mut(name)
    }

    /// Returns the scope with the name `name`.
    ///
    /// # Errors
    /// Returns an error if no scope has this name. The message suggests a similar name.
    pub(crate) fn find(&self, name: &ScopeName) -> Result<&Scope, ApiError> {
        self.get(name).ok_or_else(|| {
            let names = self.names().map(ScopeName::as_str);
            ApiError::not_found(format!(
                "there is no scope `{name}`{}: add it with `limiter scope add {name}`",
                did_you_mean(name.as_str(), names)
            ))
        })
    }

    /// Returns the scope to which the kernel programs refer by `id`.
    pub(crate) fn by_id(&self, id: u32) -> Option<&Scope> {
        self.get(self.names.get(&id)?)
    }

    pub(crate) fn by_id_mut(&mut self, id: u32) -> Option<&mut Scope> {
        self.by_name.get_mut(self.names.get(&id)?)
    }

    pub(crate) fn name_of(&self, id: u32) -> Option<&ScopeName> {
        self.names.get(&id)
    }

    pub(crate) fn contains(&self, name: &ScopeName) -> bool {
        self.by_name.contains_key(name)
    }

    pub(crate) fn len(&self) -> usize {
        self.by_name.len()
    }

    pub(crate) fn names(&self) -> impl Iterator<Item = &ScopeName> {
        self.by_name.keys()
    }

    /// Returns all scopes in the order of their names.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Scope> {
        self.by_name.values()
    }

    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Scope> {
        self.by_name.values_mut()
    }

    /// Returns the scopes whose names come after `last`, or all scopes if `last` is `None`.
    pub(crate) fn after(&self, last: Option<ScopeName>) -> impl Iterator<Item = &Scope> {
        let from = last.map_or(Bound::Unbounded, Bound::Excluded);
        let rest = self.by_name.range((from, Bound::Unbounded));
        rest.map(|(_, scope)| scope)
    }

    /// Adds a scope. The id of the scope no longer counts as retired.
    pub(crate) fn insert(&mut self, scope: Scope) {
        let (id, name) = (scope.record.id, scope.record.name.clone());
        self.retired.remove(&id);
        self.names.insert(id, name.clone());
        self.by_name.insert(name, scope);
    }

    /// Removes a scope and frees its id.
    pub(crate) fn remove(&mut self, name: &ScopeName) -> Option<Scope> {
        let scope = self.by_name.remove(name)?;
        self.names.remove(&scope.record.id);
        Some(scope)
    }

    /// Removes a scope, but keeps its id, which the kernel may still use.
    pub(crate) fn retire(&mut self, name: &ScopeName) {
        if let Some(scope) = self.remove(name) {
            self.retired.insert(scope.record.id);
        }
    }

    pub(crate) fn retired(&self) -> impl Iterator<Item = u32> + Clone {
        self.retired.iter().copied()
    }

    /// Returns whether an id belongs to a present scope or is still kept for a removed one.
    pub(crate) fn is_taken(&self, id: u32) -> bool {
        self.has_id(id) || self.retired.contains(&id)
    }

    pub(crate) fn has_id(&self, id: u32) -> bool {
        self.names.contains_key(&id)
    }

    pub(crate) fn ids(&self) -> impl Iterator<Item = u32> {
        self.names.keys().copied()
    }

    /// Returns all ids for which the kernel may have counts.
    pub(crate) fn counted_ids(&self) -> Vec<u32> {
        self.ids().chain(self.retired()).collect()
    }

    pub(crate) fn next_id(&self) -> u32 {
        self.next_id
    }

    /// Makes the next search for a free id begin after `id`.
    pub(crate) fn search_after(&mut self, id: u32) {
        self.next_id = id.saturating_add(1);
    }
}

/// Returns whether a scope has neither requests in flight nor connections.
pub(crate) fn is_quiet(state: &ScopeState) -> bool {
    state.in_flight == 0 && state.connections == 0
}
