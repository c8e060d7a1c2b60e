//! Scopes that the kernel makes of unknown keys, where `policy.unknown_key` names a tier for them.
//!
//! The kernel takes their ids from a stack that the daemon fills, and tells it which key has got
//! which. From then on such a scope is in the store as any other is. It is forgotten when its day is
//! over and nothing of it is left in the kernel; so a flood of random keys can use up the ids of a day
//! (then `policy.table_full` decides over further unknown keys), but takes none from a known one.

mod rounds;

use std::collections::{HashMap, HashSet};

use chrono::{DateTime, Utc};
use limiter_common::{
    abi::{Digest, KEY_ADOPTED, KeyEntry, ScopeState},
    day::{Day, DayCount},
};

use super::{
    book::Book,
    engine::{Engine, Scope, day_of},
    pace::Pace,
};
use crate::{
    api::ApiError,
    config::{TierName, UnknownKey},
    scope::ScopeName,
    store::{DayUsage, ScopeRecord, Seen},
};

/// The account that these scopes' names say they are of.
const ACCOUNT: &str = "unknown";

/// What a scope of an unknown key begins with: the day, and how many requests of it.
const BEGIN: &str = "unknown_keys_begin";

/// What is known of unknown keys.
#[derive(Debug, Default)]
pub(super) struct Unknown {
    /// Their scopes.
    names: HashMap<Digest, ScopeName>,
    /// Ids that the kernel can take, or has taken without that being known yet.
    offered: HashSet<u32>,
    /// Of these, what it had taken at the last round.
    taken: HashSet<u32>,
    /// Keys that it has made scopes of by these ids, and that are not on record yet.
    unrecorded: HashMap<u32, Digest>,
    /// Keys that have been taken out of the kernel, to be forgotten if they have not come back.
    leaving: Vec<Digest>,
    /// When to look for more of them: on the first round of a day, and from this moment on.
    next_look: (Day, DateTime<Utc>),
    /// What a scope begins with: after a crash, what may have been used already.
    pub(super) begin: DayCount,
}

impl Unknown {
    /// How many there are.
    pub(super) fn count(&self) -> usize {
        self.names.len()
    }

    /// A key's scope.
    pub(super) fn scope(&self, key: &Digest) -> Option<&ScopeName> {
        self.names.get(key)
    }

    /// Whether the kernel may take this id by itself.
    pub(super) fn may_take(&self, id: u32) -> bool {
        self.offered.contains(&id)
    }
}

/// A scope's name, the shorter the better.
fn names(key: &Digest) -> [Option<ScopeName>; 2] {
    let [first, second] = key;
    [
        format!("{ACCOUNT}/{first:016x}"),
        format!("{ACCOUNT}/{first:016x}{second:016x}"),
    ]
    .map(|name| name.parse().ok())
}

impl Engine {
    /// The tier of unknown keys, if they get scopes.
    pub(super) fn unknown_tier(&self) -> Option<&TierName> {
        match &self.config.policy.unknown_key {
            UnknownKey::Tier(name) => Some(name),
            UnknownKey::Pass | UnknownKey::Reject => None,
        }
    }

    /// Takes up what the daemon before this one knew: its scopes have been read.
    pub(super) fn continue_unknown(&mut self) -> Result<(), ApiError> {
        self.name_unknown();
        let begin = self.store.meta(BEGIN)?;
        self.unknown.begin = begin
            .and_then(|word| word.parse().ok().map(DayCount))
            .unwrap_or_default();
        self.follow_unknown_tier()?;
        let unused = self.plane.unused();
        if unused.iter().any(|id| self.is_named(*id)) {
            log::warn!("scope ids for unknown keys were others', by this store: taken back");
            self.plane.clear_unused();
        } else {
            self.unknown.offered = unused.into_iter().collect();
        }
        Ok(())
    }

    /// Finds scopes of unknown keys among those that have been read.
    pub(super) fn name_unknown(&mut self) {
        let known = self.scopes.iter();
        self.unknown.names = known
            .filter_map(|(name, scope)| Some((scope.record.unknown?, name.clone())))
            .collect();
    }

    /// Puts on record what scopes have used of which the kernel has not told yet: it is about to be
    /// taken down.
    ///
    /// # Errors
    /// The store's and the kernel's.
    pub(super) fn record_unheard(&mut self, now: DateTime<Utc>) -> Result<(), ApiError> {
        let today = day_of(now);
        let unheard: Vec<(ScopeName, u64)> = self
            .adopted_keys()?
            .into_iter()
            .filter(|(_, entry)| !self.ids.contains_key(&entry.scope))
            .filter_map(|(key, entry)| {
                let [name, _] = names(&key);
                let word = DayCount(self.plane.state(entry.scope).day_count).on(today);
                Some((name?, word.count()))
            })
            .collect();
        self.store.change(|store| {
            for (name, used) in &unheard {
                let mut usage = store.usage_of(name.as_str(), today)?.unwrap_or_default();
                usage.used = usage.used.saturating_add(*used);
                usage.allowed = usage.used;
                store.set_usage(name.as_str(), today, &usage)?;
            }
            Ok::<(), ApiError>(())
        })?;
        Ok(())
    }

    fn is_named(&self, id: u32) -> bool {
        self.ids.contains_key(&id) || self.retired.contains(&id)
    }

    /// The scopes of unknown keys get the tier that the configuration has for them now.
    ///
    /// # Errors
    /// The store's.
    pub(super) fn follow_unknown_tier(&mut self) -> Result<(), ApiError> {
        let Some(tier) = self.unknown_tier().map(ToString::to_string) else {
            return Ok(());
        };
        let scopes = self.unknown.names.values();
        let scopes = scopes.filter_map(|name| self.scopes.get(name));
        let others = scopes.filter(|scope| scope.record.tier != tier);
        let others: Vec<u32> = others.map(|scope| scope.record.id).collect();
        if others.is_empty() {
            return Ok(());
        }
        let departed = self.departed_to(&tier, others);
        self.store.change(|store| {
            store.set_unknown_tier(&tier)?;
            departed.save(store)
        })?;
        self.departed = departed;
        for name in self.unknown.names.values() {
            if let Some(scope) = self.scopes.get_mut(name) {
                scope.record.tier.clone_from(&tier);
            }
        }
        Ok(())
    }

    /// The maps are lost, with scopes of which the store knew nothing: each may have used `ahead` by
    /// itself, so that is what one begins with for the rest of the day.
    pub(super) fn begin_unknown_later(&mut self, today: Day) -> Result<(), ApiError> {
        let Some(tier) = self.unknown_tier() else {
            return Ok(());
        };
        let quota = self.tier(tier.as_str())?.limits.daily_quota;
        let Some(quota) = quota else { return Ok(()) };
        let ahead = u64::from(self.config.accounting.ahead_of(Some(quota)));
        let before = self.unknown.begin;
        let before = if before.day() == today {
            before.count()
        } else {
            0
        };
        let begin = DayCount::new(today, before.saturating_add(ahead).min(quota));
        self.store
            .change(|store| store.set_meta(BEGIN, &begin.0.to_string()))?;
        self.unknown.begin = begin;
        Ok(())
    }

    /// The kernel says that it has made scopes of these unknown keys.
    ///
    /// # Errors
    /// The store's and the kernel's; the next round tries again.
    pub(super) fn hear_of_unknown(
        &mut self,
        adopted: &[(Digest, u32)],
        now: DateTime<Utc>,
    ) -> Result<(), ApiError> {
        if self.detached {
            return Ok(());
        }
        let adopted = adopted.iter().map(|(key, id)| (*id, *key));
        self.unknown.unrecorded.extend(adopted);
        self.note_unrecorded(now)
    }

    fn note_unrecorded(&mut self, now: DateTime<Utc>) -> Result<(), ApiError> {
        let unrecorded = &self.unknown.unrecorded;
        let adopted: Vec<(Digest, u32)> = unrecorded.iter().map(|(id, key)| (*key, *id)).collect();
        if !adopted.is_empty() {
            self.note_unknown(&adopted, now)?;
            self.unknown.unrecorded.clear();
        }
        Ok(())
    }

    /// The kernel has made scopes of these keys; the store learns of them.
    ///
    /// # Errors
    /// The store's and the kernel's.
    pub(super) fn note_unknown(
        &mut self,
        adopted: &[(Digest, u32)],
        now: DateTime<Utc>,
    ) -> Result<(), ApiError> {
        let Some(tier) = self.unknown_tier().map(ToString::to_string) else {
            return Ok(());
        };
        let mut new = Vec::new();
        for (key, id) in adopted {
            let entry = self.plane.key(key)?;
            let holds = |entry: KeyEntry| entry.scope == *id && entry.flags & KEY_ADOPTED != 0;
            if !entry.is_some_and(holds) {
                // It has been registered since, or is older than what is known.
                continue;
            }
            match self.ids.get(id) {
                Some(name) if self.unknown.names.get(key) == Some(name) => {}
                Some(name) => {
                    log::warn!("an unknown key was charged to {name}: it is unknown again");
                    self.plane.remove_key(key)?;
                }
                None => new.push((*key, *id)),
            }
        }
        let old: HashSet<u32> = new
            .iter()
            .filter_map(|(key, _)| self.unknown.names.get(key))
            .filter_map(|name| Some(self.scopes.get(name)?.record.id))
            .collect();
        self.flush_some(&old, now)?;
        let mut chosen = HashSet::new();
        let named: Vec<(Digest, u32, ScopeName)> = new
            .into_iter()
            .filter_map(|(key, id)| {
                let known = self.unknown.names.get(&key).cloned();
                let mut free = |name: &ScopeName| {
                    !self.scopes.contains_key(name) && chosen.insert(name.clone())
                };
                let name = known.or_else(|| names(&key).into_iter().flatten().find(&mut free))?;
                Some((key, id, name))
            })
            .collect();
        if named.is_empty() {
            return Ok(());
        }
        let departed = (!old.is_empty()).then(|| self.departed_with(old));
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
            self.unknown.offered.remove(&id);
            self.take_up(key, id, name, &tier, now)?;
        }
        self.flush_some(&ids, now)
    }

    /// Takes the scope of an unknown key that is in the store and in the kernel into memory.
    fn take_up(
        &mut self,
        key: Digest,
        id: u32,
        name: ScopeName,
        tier: &str,
        now: DateTime<Utc>,
    ) -> Result<(), ApiError> {
        let today = day_of(now);
        // It may have been forgotten today, with its key registered for a while, or have had another
        // id until now.
        let mut usage = self
            .store
            .usage_of(name.as_str(), today)?
            .unwrap_or_default();
        if usage.used > 0 {
            self.plane.add_to_day_count(id, today, usage.used);
        }
        let begin = self.unknown.begin;
        if begin.day() == today {
            usage.lost = usage.lost.saturating_add(begin.count());
        }
        let initial = usage.used.saturating_add(begin.on(today).count());
        let book = first_book(&self.plane.state(id), initial, usage, today);
        let record = match self.scopes.remove(&name) {
            Some(known) => {
                self.ids.remove(&known.record.id);
                ScopeRecord { id, ..known.record }
            }
            None => ScopeRecord {
                unknown: Some(key),
                ..ScopeRecord::new(id, name.clone(), tier.to_owned(), now)
            },
        };
        let (limits, mode) = self.effective(&record)?;
        let scope = Scope {
            record,
            book,
            limits,
            mode,
            unsaved: true,
            pace: Pace::default(),
        };
        self.ids.insert(id, name.clone());
        self.unknown.names.insert(key, name.clone());
        self.scopes.insert(name.clone(), scope);
        self.publish_scope(&name)
    }

    /// Keys that are unknown no longer, or get no scopes any more: what they used stays on record.
    ///
    /// # Errors
    /// The store's and the kernel's.
    pub(super) fn drop_unknown(
        &mut self,
        keys: &[Digest],
        now: DateTime<Utc>,
    ) -> Result<(), ApiError> {
        let dropped: Vec<(Digest, u32)> = keys
            .iter()
            .filter_map(|key| {
                let scope = self.scopes.get(self.unknown.names.get(key)?)?;
                Some((*key, scope.record.id))
            })
            .collect();
        if dropped.is_empty() {
            return Ok(());
        }
        self.flush_some(&dropped.iter().map(|(_, id)| *id).collect(), now)?;
        self.forget_unknown(&dropped)
    }

    /// Takes scopes out of store and memory. Their ids are free when no connection holds them.
    fn forget_unknown(&mut self, keys: &[(Digest, u32)]) -> Result<(), ApiError> {
        if keys.is_empty() {
            return Ok(());
        }
        let departed = self.departed_with(keys.iter().map(|(_, id)| *id));
        self.store.change(|store| {
            keys.iter()
                .try_for_each(|(_, id)| store.forget_unknown(*id))?;
            departed.save(store)
        })?;
        self.departed = departed;
        for (key, id) in keys {
            if let Some(name) = self.unknown.names.remove(key) {
                self.scopes.remove(&name);
            }
            self.ids.remove(id);
        }
        Ok(())
    }

    /// Unknown keys get no scopes (any more): none that had one keeps it.
    ///
    /// # Errors
    /// The store's and the kernel's.
    pub(super) fn drop_all_unknown(&mut self, now: DateTime<Utc>) -> Result<(), ApiError> {
        for (key, _) in self.adopted_keys()? {
            self.plane.remove_key(&key)?;
        }
        self.drop_unknown_scopes(now)
    }

    /// As that; the kernel's keys are somebody else's business.
    ///
    /// # Errors
    /// The store's.
    pub(super) fn drop_unknown_scopes(&mut self, now: DateTime<Utc>) -> Result<(), ApiError> {
        let keys: Vec<Digest> = self.unknown.names.keys().copied().collect();
        self.drop_unknown(&keys, now)
    }

    /// Complains about a scope that was not made by an operator, and is no operator's to change.
    pub(super) fn check_registered(&self, name: &ScopeName) -> Result<(), ApiError> {
        if self.is_of_unknown_key(name) {
            return Err(ApiError::conflict(format!(
                "the scope {name} is of a key that is not registered: `limiter key import` with that key makes it another scope's"
            )));
        }
        Ok(())
    }

    /// Whether the kernel has made this scope.
    pub(super) fn is_of_unknown_key(&self, name: &ScopeName) -> bool {
        let scope = self.scopes.get(name);
        scope.is_some_and(|scope| scope.record.unknown.is_some())
    }
}

/// The kernel's entry of an unknown key.
pub(super) fn unknown_entry(scope: u32, last_used_ns: u64) -> KeyEntry {
    KeyEntry {
        scope,
        flags: KEY_ADOPTED,
        last_used_ns,
    }
}

/// Whether no connection counts for the scope any more.
fn is_quiet(state: &ScopeState) -> bool {
    state.in_flight == 0 && state.connections == 0
}

/// The books of a scope that the kernel has made: `initial` requests of today are counted in its
/// state that were not admitted under this id.
fn first_book(state: &ScopeState, initial: u64, today_so_far: DayUsage, today: Day) -> Book {
    let word = DayCount(state.day_count);
    let begun = if word.day() == today {
        // It was admitted before midnight, and is noted after it.
        let admitted_today = word.count().saturating_sub(initial);
        (state.admitted > admitted_today).then(|| Day(today.0.saturating_sub(1)))
    } else {
        (word.count() > 0).then(|| word.day().min(today))
    };
    match begun {
        Some(day) if day < today => Book::new(Seen::default(), day, DayUsage::default()),
        _ => Book::new(Seen::default(), today, today_so_far),
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
    fn what_was_admitted_before_midnight_is_of_that_day() {
        for (state, initial, closed, used) in [
            (state(TODAY, 3, 3), 0, None, 3),
            (state(TODAY, 13, 3), 10, None, 13),
            (state(TODAY, 3, 5), 0, Some(2), 3),
            (state(YESTERDAY, 4, 4), 0, Some(4), 0),
            (ScopeState::default(), 0, None, 0),
        ] {
            let mut book = first_book(&state, initial, DayUsage::default(), TODAY);
            let look = book.look(&state, TODAY);
            let closed_with = look.closed.map(|(day, usage)| (day, usage.used));
            assert_eq!(
                closed_with,
                closed.map(|used| (YESTERDAY, used)),
                "{state:?}"
            );
            assert_eq!((book.day, book.usage.used), (TODAY, used), "{state:?}");
        }
    }
}
