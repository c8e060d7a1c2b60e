// SPDX-License-Identifier: MIT OR Apache-2.0

//! For each tier, the requests of its departed scopes, which have been removed or moved to another
//! tier. They stay in the sums of the tier, so that the sums never decrease.
//!
//! The kernel keeps the counters of a scope for as long as its maps exist, and the sum of a tier
//! begins with the counters of its present scopes. The counters of a scope that departs are saved
//! here, in the transaction that removes or moves the scope. As long as the maps exist, the sums
//! therefore never decrease, even if scopes are removed or the daemon is restarted.

use std::collections::BTreeMap;

use limiter_common::abi::{ScopeState, reason};
use serde::{Deserialize, Serialize};

use crate::{
    engine::scopes::registry::Scopes,
    kernel::Plane,
    store::{Store, StoreError},
};

/// The name of the entry in the store.
const NAME: &str = "departed";

/// The number of refusal reasons that are limits.
const LIMITS: usize = reason::LIMITS as usize;

/// The numbers of requests, by outcome. They are signed, because they can be negative. When a scope
/// joins a tier, its earlier requests are subtracted from the numbers of the tier, since the sum
/// over the tier's scopes includes them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Requests {
    pub(crate) admitted: i64,
    /// The number of refused requests for each `limiter_common::abi::reason`.
    pub(crate) refused: [i64; LIMITS],
    /// The number of admitted requests that would have been refused if the limits had been
    /// enforced, for each reason, as in `refused`.
    pub(crate) would_refuse: [i64; LIMITS],
}

impl Requests {
    /// Returns the numbers of a scope's requests since the maps were created.
    pub(crate) fn of(state: &ScopeState) -> Self {
        Self {
            admitted: state.admitted.cast_signed(),
            refused: state.refused.map(u64::cast_signed),
            would_refuse: state.would_refuse.map(u64::cast_signed),
        }
    }

    pub(crate) fn add(&mut self, other: &Self) {
        self.each(other, i64::saturating_add);
    }

    fn subtract(&mut self, other: &Self) {
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

/// For each tier, the numbers to add to the sums over the scopes that are in the tier now.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Departed {
    /// The identity of the maps (`Plane::identity`). The counters in other maps begin at zero.
    maps: String,
    tiers: BTreeMap<String, Requests>,
}

impl Departed {
    /// Returns the numbers that the store has for the maps with the identity `maps`. If the store
    /// has none, there are no departed scopes.
    pub(crate) fn load(store: &Store, maps: String) -> Result<Self, StoreError> {
        let kept = store.meta(NAME)?;
        let kept = kept.and_then(|text| serde_json::from_str::<Self>(&text).ok());
        Ok(kept.filter(|kept| kept.maps == maps).unwrap_or(Self {
            maps,
            tiers: BTreeMap::new(),
        }))
    }

    /// Saves the numbers. The caller must call this within the transaction that removes or moves
    /// the scopes.
    pub(crate) fn save(&self, store: &Store) -> Result<(), StoreError> {
        // This cannot fail, because names and numbers can always be written as JSON.
        let text = serde_json::to_string(self).unwrap_or_default();
        store.set_meta(NAME, &text)
    }

    pub(crate) fn tiers(&self) -> impl Iterator<Item = (&String, &Requests)> {
        self.tiers.iter()
    }

    /// Returns the numbers as they will be after the removal of the scopes with the ids in `ids`.
    pub(crate) fn with(
        &self,
        ids: impl IntoIterator<Item = u32>,
        scopes: &Scopes,
        plane: &dyn Plane,
    ) -> Self {
        let mut departed = self.clone();
        for id in ids {
            if let Some(scope) = scopes.by_id(id) {
                let requests = Requests::of(&plane.state(id));
                let tier = scope.record.tier.clone();
                departed.tiers.entry(tier).or_default().add(&requests);
            }
        }
        departed
    }

    /// Returns the numbers as they will be after the scopes with the ids in `ids` have moved to
    /// `tier`.
    pub(crate) fn with_moved(
        &self,
        tier: &str,
        ids: &[u32],
        scopes: &Scopes,
        plane: &dyn Plane,
    ) -> Self {
        let mut departed = self.with(ids.iter().copied(), scopes, plane);
        let joined = departed.tiers.entry(tier.to_owned()).or_default();
        for id in ids {
            joined.subtract(&Requests::of(&plane.state(*id)));
        }
        departed
    }
}
