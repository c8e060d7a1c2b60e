//! Requests of scopes that are no more, by tier, so that the sums of tiers go on without them.
//!
//! A scope's counters are in the kernel for as long as its maps are, and a tier's sum is that of its
//! scopes. What a scope takes along when it is removed, or changes its tier, is kept here, and in the store
//! in the same transaction: a sum of a set of maps never goes back, whatever becomes of scopes and daemons.

use std::collections::BTreeMap;

use limiter_common::abi::{ScopeState, reason};
use serde::{Deserialize, Serialize};

use super::engine::Engine;
use crate::store::{Store, StoreError};

/// Where the store has it.
const NAME: &str = "departed";

/// How many limits can be a reason.
const LIMITS: usize = reason::LIMITS as usize;

/// Requests by what became of them. Signed: a tier that scopes have come to owes what they bring along.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Requests {
    pub(super) admitted: i64,
    /// By `limiter_common::abi::reason`.
    pub(super) refused: [i64; LIMITS],
    /// Likewise; these were admitted.
    pub(super) would_refuse: [i64; LIMITS],
}

impl Requests {
    /// A scope's, since its maps were made.
    pub(super) fn of(state: &ScopeState) -> Self {
        Self {
            admitted: state.admitted.cast_signed(),
            refused: state.refused.map(u64::cast_signed),
            would_refuse: state.would_refuse.map(u64::cast_signed),
        }
    }

    pub(super) fn add(&mut self, other: &Self) {
        self.each(other, i64::saturating_add);
    }

    fn take(&mut self, other: &Self) {
        self.each(other, i64::saturating_sub);
    }

    fn each(&mut self, other: &Self, change: impl Fn(i64, i64) -> i64) {
        self.admitted = change(self.admitted, other.admitted);
        for (mine, theirs) in self.refused.iter_mut().zip(other.refused) {
            *mine = change(*mine, theirs);
        }
        for (mine, theirs) in self.would_refuse.iter_mut().zip(other.would_refuse) {
            *mine = change(*mine, theirs);
        }
    }
}

/// What a tier's sum has besides what its scopes count.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Departed {
    /// `Plane::identity`: other maps begin at zero.
    maps: String,
    pub(super) tiers: BTreeMap<String, Requests>,
}

impl Departed {
    /// What the store has for this set of maps.
    pub(super) fn load(store: &Store, maps: String) -> Result<Self, StoreError> {
        let kept = store.meta(NAME)?;
        let kept = kept.and_then(|text| serde_json::from_str::<Self>(&text).ok());
        Ok(kept.filter(|kept| kept.maps == maps).unwrap_or(Self {
            maps,
            tiers: BTreeMap::new(),
        }))
    }

    /// Keeps it; within the transaction of the change that it is about.
    pub(super) fn save(&self, store: &Store) -> Result<(), StoreError> {
        // Names and numbers always have a JSON.
        let text = serde_json::to_string(self).unwrap_or_default();
        store.set_meta(NAME, &text)
    }

    fn leave(&mut self, tier: &str, requests: &Requests) {
        self.tiers.entry(tier.to_owned()).or_default().add(requests);
    }

    fn come(&mut self, tier: &str, requests: &Requests) {
        self.tiers
            .entry(tier.to_owned())
            .or_default()
            .take(requests);
    }
}

impl Engine {
    /// What is departed once the scopes with these ids are, whatever others have the ids then.
    pub(super) fn departed_with(&self, ids: impl IntoIterator<Item = u32>) -> Departed {
        let mut departed = self.departed.clone();
        for id in ids {
            let name = self.ids.get(&id);
            if let Some(scope) = name.and_then(|name| self.scopes.get(name)) {
                let requests = Requests::of(&self.plane.state(id));
                departed.leave(&scope.record.tier, &requests);
            }
        }
        departed
    }

    /// What is departed once the scopes with these ids have another tier.
    pub(super) fn departed_to(&self, tier: &str, ids: impl IntoIterator<Item = u32>) -> Departed {
        let ids: Vec<u32> = ids.into_iter().collect();
        let mut departed = self.departed_with(ids.iter().copied());
        for id in ids {
            departed.come(tier, &Requests::of(&self.plane.state(id)));
        }
        departed
    }
}
