// SPDX-License-Identifier: MIT OR Apache-2.0

//! Scopes of unknown keys. The kernel creates them if `policy.unknown_key` names a tier for them.
//!
//! The kernel takes the ids of these scopes from a stack that the daemon fills, and reports which
//! id each key got. After the report, the daemon adds the scope to the store like any other. The
//! scope is forgotten when its day is over and the kernel holds nothing for it. A flood of random
//! keys can therefore use up all ids for the rest of the day. In that case, `policy.table_full`
//! decides what happens to requests with further unknown keys. Scopes of registered keys do not
//! lose ids to such a flood.

mod commands;

use std::collections::{HashMap, HashSet};

use chrono::{DateTime, TimeDelta, Utc};
use limiter_common::{
    abi::{Digest, KEY_ADOPTED, KeyEntry, Lease, ScopeState},
    day::{Day, DayCount},
};

use crate::{
    config::Tables,
    domain::scope::ScopeName,
    engine::{
        counts::day_counts::DayCounts,
        publish::keys::{adopted, unknown_entry},
        scopes::registry::{Scopes, is_quiet},
        time::day_of,
    },
    kernel::{KernelError, Plane, boot_ns},
    store::{CounterReading, DayUsage, Store, StoreError},
};

/// The account in the names of scopes of unknown keys.
const ACCOUNT: &str = "unknown";

/// The name of the store's entry with the initial count of new scopes of unknown keys, and with the
/// day to which this count applies.
const BEGIN: &str = "unknown_keys_begin";

/// The interval between two searches for idle scopes on the same day.
const IDLE_INTERVAL: TimeDelta = TimeDelta::minutes(1);

/// The maximum number of scopes that are forgotten in one round.
const FORGET_AT_ONCE: usize = 8192;

/// The unknown keys that have scopes, and the ids that are available for more of them.
#[derive(Debug, Default)]
pub(crate) struct Unknown {
    /// The names of the scopes, by the digests of their keys.
    names: HashMap<Digest, ScopeName>,
    /// The ids that the daemon has offered to the kernel. An id stays here until the daemon has
    /// recorded the scope for which the kernel took it.
    offered: HashSet<u32>,
    /// The ids in `offered` that the kernel had already taken in the last round.
    taken: HashSet<u32>,
    /// The ids and keys of scopes that are in the kernel but not in the store yet.
    unrecorded: HashMap<u32, Digest>,
    /// The keys that the last search removed from the kernel. They are forgotten in the next round
    /// unless they are used again.
    leaving: Vec<Digest>,
    /// The day of the last search for idle scopes, and the time of the next search on that day. The
    /// first round of another day always searches.
    next_search: (Day, DateTime<Utc>),
    /// The count with which a scope begins. After maps were lost, the count includes the requests
    /// that a scope may have used in these maps.
    begin: DayCount,
}

impl Unknown {
    /// Returns the number of unknown keys that have scopes.
    pub(crate) fn count(&self) -> usize {
        self.names.len()
    }

    /// Returns the scope of a key.
    pub(crate) fn scope(&self, key: &Digest) -> Option<&ScopeName> {
        self.names.get(key)
    }

    /// Returns whether the kernel may give `id` to an unknown key without asking the daemon.
    pub(crate) fn may_take(&self, id: u32) -> bool {
        self.offered.contains(&id)
    }

    /// Returns all unknown keys that have scopes.
    fn all_keys(&self) -> Vec<Digest> {
        self.names.keys().copied().collect()
    }

    /// Returns the count with which a scope begins.
    pub(crate) fn begin(&self) -> DayCount {
        self.begin
    }

    /// Finds the scopes of unknown keys among the scopes that were read from the store.
    pub(crate) fn find_names(&mut self, scopes: &Scopes) {
        self.names = scopes
            .iter()
            .filter_map(|scope| Some((scope.record.unknown?, scope.record.name.clone())))
            .collect();
    }

    /// Takes over the ids that the previous daemon offered to the kernel.
    pub(crate) fn take_over_ids(&mut self, plane: &dyn Plane, scopes: &Scopes) {
        let unused = plane.unused();
        if unused.iter().any(|id| scopes.is_taken(*id)) {
            log::warn!(
                "some scope ids for unknown keys belong to other scopes in this store: all are withdrawn"
            );
            plane.clear_unused();
        } else {
            self.offered = unused.into_iter().collect();
        }
    }

    /// Reads from the store the count with which a scope begins.
    pub(crate) fn read_begin(&mut self, store: &Store) -> Result<(), StoreError> {
        let begin = store.meta(BEGIN)?;
        self.begin = begin
            .and_then(|word| word.parse().ok().map(DayCount))
            .unwrap_or_default();
        Ok(())
    }

    /// Raises the count with which scopes begin today by `ahead`, up to `quota`. This is necessary
    /// because lost maps may have had scopes that the store does not know. The kernel may have
    /// admitted `ahead` requests of each such scope without asking the daemon.
    pub(crate) fn raise_begin(
        &mut self,
        store: &mut Store,
        ahead: u64,
        quota: u64,
        today: Day,
    ) -> Result<(), StoreError> {
        let before = self.begin.on(today).count();
        let begin = DayCount::new(today, before.saturating_add(ahead).min(quota));
        store.change(|store| store.set_meta(BEGIN, &begin.0.to_string()))?;
        self.begin = begin;
        Ok(())
    }

    /// Offers ids to the kernel until the kernel has as many as the configuration specifies.
    pub(crate) fn fill(
        &mut self,
        plane: &mut dyn Plane,
        scopes: &Scopes,
        tables: &Tables,
    ) -> Result<(), KernelError> {
        let held = self.offered.len() + self.names.len();
        let wanted = (tables.unknown_keys as usize).saturating_sub(held);
        if wanted == 0 {
            return Ok(());
        }
        // The highest ids are taken, because registered scopes get the lowest ones.
        let ids: Vec<u32> = (0..tables.scope_ids())
            .rev()
            .filter(|id| !scopes.is_taken(*id) && !self.may_take(*id))
            .filter(|id| is_quiet(&plane.state(*id)))
            .take(wanted)
            .collect();
        for id in &ids {
            plane.clear_state(*id);
            plane.set_ended(*id, None)?;
            // The kernel admits no request of a new scope without a lease.
            plane.set_lease(*id, &Lease::default());
        }
        plane.add_unused(&ids);
        self.offered.extend(ids);
        Ok(())
    }

    /// Records the keys and ids of scopes that the kernel has reported.
    fn add_reported(&mut self, adopted: &[(Digest, u32)]) {
        let adopted = adopted.iter().map(|(key, id)| (*id, *key));
        self.unrecorded.extend(adopted);
    }

    /// Finds scopes that the kernel has created, but whose report has not reached the daemon.
    fn find_unreported(&mut self, plane: &dyn Plane) -> Result<(), KernelError> {
        if plane.unused_left() == self.offered.len() {
            self.taken.clear();
            return Ok(());
        }
        let left: HashSet<u32> = plane.unused().into_iter().collect();
        let taken: HashSet<u32> = self.offered.difference(&left).copied().collect();
        // The report about an id that has just been taken may not have arrived yet, so an id counts
        // as late only if it was already taken in the previous round.
        let before = std::mem::replace(&mut self.taken, taken);
        let late = before.intersection(&self.taken).copied();
        // While the store cannot be written, ids stay unrecorded for a long time, and reading all
        // keys again because of them would be useless.
        let late: HashSet<u32> = late
            .filter(|id| !self.unrecorded.contains_key(id))
            .collect();
        if late.is_empty() {
            return Ok(());
        }
        for (key, entry) in adopted(plane)? {
            if late.contains(&entry.scope) {
                self.unrecorded.insert(entry.scope, key);
            }
        }
        // Two packets with the same new key that arrive at once take two ids, and only one of them
        // becomes the id of the scope. The other id then becomes free again.
        for id in late {
            if !self.unrecorded.contains_key(&id) {
                self.offered.remove(&id);
            }
        }
        Ok(())
    }

    /// Returns the keys and ids that are not in the store yet.
    fn unrecorded(&self) -> Vec<(Digest, u32)> {
        self.unrecorded
            .iter()
            .map(|(id, key)| (*key, *id))
            .collect()
    }

    fn clear_unrecorded(&mut self) {
        self.unrecorded.clear();
    }

    /// Chooses names for the scopes that the kernel has created for unknown keys. If a key already
    /// has a scope, the new scope gets the same name.
    fn choose_names(
        &self,
        keys: Vec<(Digest, u32)>,
        scopes: &Scopes,
    ) -> Vec<(Digest, u32, ScopeName)> {
        let mut chosen = HashSet::new();
        keys.into_iter()
            .filter_map(|(key, id)| {
                let known = self.names.get(&key).cloned();
                let mut is_free =
                    |name: &ScopeName| !scopes.contains(name) && chosen.insert(name.clone());
                let name =
                    known.or_else(|| names(&key).into_iter().flatten().find(&mut is_free))?;
                Some((key, id, name))
            })
            .collect()
    }

    /// Records that `key` has a scope with the id `id` and the name `name`.
    fn note_scope(&mut self, key: Digest, id: u32, name: ScopeName) {
        self.offered.remove(&id);
        self.names.insert(key, name);
    }

    /// Forgets a key, and returns the name of its scope.
    fn forget(&mut self, key: &Digest) -> Option<ScopeName> {
        self.names.remove(key)
    }

    /// Returns each of `keys` that has a scope, with the id of the scope.
    fn ids_of(&self, keys: &[Digest], scopes: &Scopes) -> Vec<(Digest, u32)> {
        keys.iter()
            .filter_map(|key| Some((*key, scopes.get(self.names.get(key)?)?.record.id)))
            .collect()
    }

    /// Returns the keys that were removed in the last search and are still not in the kernel, with
    /// the ids of their scopes. A key whose scope has been used since then is entered into the
    /// kernel again, and is not returned.
    fn still_idle(
        &mut self,
        plane: &mut dyn Plane,
        scopes: &Scopes,
        today: Day,
    ) -> Result<Vec<(Digest, u32)>, KernelError> {
        let mut idle = Vec::new();
        for key in std::mem::take(&mut self.leaving) {
            if plane.key(&key)?.is_some() {
                // The kernel has adopted the key again. When the adoption is recorded, the counts
                // under both ids are combined.
                continue;
            }
            match self.idle_id(&key, plane, scopes, today) {
                Some(id) => idle.push((key, id)),
                None => self.restore_key(&key, plane, scopes)?,
            }
        }
        Ok(idle)
    }

    /// Keeps the keys for the next round, because their scopes could not be forgotten.
    fn keep_leaving(&mut self, keys: impl IntoIterator<Item = Digest>) {
        self.leaving = keys.into_iter().collect();
    }

    /// Removes from the kernel the keys of scopes that were last used on an earlier day and hold
    /// nothing.
    fn search_idle(
        &mut self,
        plane: &mut dyn Plane,
        scopes: &Scopes,
        now: DateTime<Utc>,
    ) -> Result<(), KernelError> {
        let today = day_of(now);
        if self.next_search.0 == today && self.next_search.1 > now {
            return Ok(());
        }
        let idle = self.names.keys();
        let idle = idle.filter(|key| self.idle_id(key, plane, scopes, today).is_some());
        let leaving: Vec<Digest> = idle.take(FORGET_AT_ONCE).copied().collect();
        let interval = if leaving.len() == FORGET_AT_ONCE {
            TimeDelta::zero()
        } else {
            IDLE_INTERVAL
        };
        self.next_search = (today, now + interval);
        for key in &leaving {
            plane.remove_key(key)?;
        }
        self.leaving = leaving;
        Ok(())
    }

    /// Returns the id of the key's scope if the scope can be forgotten.
    fn idle_id(&self, key: &Digest, plane: &dyn Plane, scopes: &Scopes, today: Day) -> Option<u32> {
        let scope = scopes.get(self.names.get(key)?)?;
        let state = plane.state(scope.record.id);
        let idle = is_quiet(&state)
            && DayCount(state.day_count).day() < today
            // At a slow rate, the next request may have to wait until after midnight. If the scope
            // were forgotten earlier, the key would get a new scope, and would not have to wait.
            && state.tat_ns <= boot_ns();
        let closed =
            scope.counts.day >= today && !scope.unsaved && day_of(scope.record.created_at) < today;
        (idle && closed).then_some(scope.record.id)
    }

    fn restore_key(
        &self,
        key: &Digest,
        plane: &mut dyn Plane,
        scopes: &Scopes,
    ) -> Result<(), KernelError> {
        let Some(scope) = self.names.get(key).and_then(|name| scopes.get(name)) else {
            return Ok(());
        };
        let entry = unknown_entry(scope.record.id, 0);
        // If the kernel has just adopted the key again, this call keeps the kernel's entry. The
        // kernel reports the new entry to the daemon separately.
        plane.add_key(key, &entry)
    }
}

/// Returns whether the kernel has created the scope with the id `id` for `key`, and still has the
/// key.
fn is_adopted(key: &Digest, id: u32, plane: &dyn Plane) -> Result<bool, KernelError> {
    let is_it = |entry: KeyEntry| entry.scope == id && entry.flags & KEY_ADOPTED != 0;
    Ok(plane.key(key)?.is_some_and(is_it))
}

/// Returns the two names that the scope of a key can have, the shorter one first.
fn names(key: &Digest) -> [Option<ScopeName>; 2] {
    let [first, second] = key;
    [
        format!("{ACCOUNT}/{first:016x}"),
        format!("{ACCOUNT}/{first:016x}{second:016x}"),
    ]
    .map(|name| name.parse().ok())
}

/// Returns the first counts of a scope that the kernel has created for an unknown key. `initial` is
/// the number of requests in the scope's count of today that were not admitted under this id.
fn first_counts(state: &ScopeState, initial: u64, today_so_far: DayUsage, today: Day) -> DayCounts {
    let word = DayCount(state.day_count);
    let begun = if word.day() == today {
        // If more requests were admitted than today's count includes, the remaining requests were
        // admitted before midnight and are recorded only now.
        let admitted_today = word.count().saturating_sub(initial);
        (state.admitted > admitted_today).then(|| Day(today.0.saturating_sub(1)))
    } else {
        (word.count() > 0).then(|| word.day().min(today))
    };
    match begun {
        Some(day) if day < today => {
            DayCounts::new(CounterReading::default(), day, DayUsage::default())
        }
        _ => DayCounts::new(CounterReading::default(), today, today_so_far),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TODAY: Day = Day(20_781);
    const YESTERDAY: Day = Day(20_780);

    fn state(day: Day, count: u64, admitted: u64) -> ScopeState {
        ScopeState {
            day_count: DayCount::new(day, count).0,
            admitted,
            ..ScopeState::default()
        }
    }

    #[test]
    fn requests_admitted_before_midnight_belong_to_that_day() {
        for (state, initial, closed, used) in [
            (state(TODAY, 3, 3), 0, None, 3),
            (state(TODAY, 13, 3), 10, None, 13),
            (state(TODAY, 3, 5), 0, Some(2), 3),
            (state(YESTERDAY, 4, 4), 0, Some(4), 0),
            (ScopeState::default(), 0, None, 0),
        ] {
            let mut counts = first_counts(&state, initial, DayUsage::default(), TODAY);
            let reading = counts.read(&state, TODAY);
            let closed_with = reading.closed.map(|(day, usage)| (day, usage.used));
            assert_eq!(
                closed_with,
                closed.map(|used| (YESTERDAY, used)),
                "{state:?}"
            );
            assert_eq!((counts.day, counts.usage.used), (TODAY, used), "{state:?}");
        }
    }
}
