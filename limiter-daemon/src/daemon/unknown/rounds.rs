//! What comes round for unknown keys: finding those of which no word came, forgetting those whose day is
//! over, and filling the stack of ids.

use std::collections::HashSet;

use chrono::{DateTime, TimeDelta, Utc};
use limiter_common::{
    abi::Digest,
    day::{Day, DayCount},
};

use super::{is_quiet, unknown_entry};
use crate::{
    api::ApiError,
    daemon::engine::{Engine, day_of},
    kernel::boot_ns,
};

/// Between two looks for what can be forgotten, on one day.
const LOOK_EVERY: TimeDelta = TimeDelta::minutes(1);

/// Scopes that are forgotten in one round.
const FORGET_AT_ONCE: usize = 8192;

impl Engine {
    /// What comes round every second.
    ///
    /// # Errors
    /// The store's and the kernel's.
    pub(in crate::daemon) fn tend_unknown(&mut self, now: DateTime<Utc>) -> Result<(), ApiError> {
        self.find_taken(now)?;
        self.forget_idle(now)?;
        self.fill_unused()
    }

    /// Finds out about scopes that the kernel has made without a word, or whose word was lost.
    fn find_taken(&mut self, now: DateTime<Utc>) -> Result<(), ApiError> {
        if self.plane.unused_left() == self.unknown.offered.len() {
            self.unknown.taken.clear();
            return Ok(());
        }
        let left: HashSet<u32> = self.plane.unused().into_iter().collect();
        let taken: HashSet<u32> = self.unknown.offered.difference(&left).copied().collect();
        // The word of what was taken just now is under way.
        let before = std::mem::replace(&mut self.unknown.taken, taken);
        let late = before.intersection(&self.unknown.taken).copied();
        // With a store that cannot be written they are late for long: all keys are not looked through again.
        let late: HashSet<u32> = late
            .filter(|id| !self.unknown.unrecorded.contains_key(id))
            .collect();
        if !late.is_empty() {
            for (key, entry) in self.adopted_keys()? {
                if late.contains(&entry.scope) {
                    self.unknown.unrecorded.insert(entry.scope, key);
                }
            }
            // Two packets of one new key at once take two ids, of which one is no scope's.
            for id in late {
                if !self.unknown.unrecorded.contains_key(&id) {
                    self.unknown.offered.remove(&id);
                }
            }
        }
        self.note_unrecorded(now)
    }

    /// Forgets what was used last on an earlier day and holds nothing in the kernel.
    fn forget_idle(&mut self, now: DateTime<Utc>) -> Result<(), ApiError> {
        let today = day_of(now);
        let mut gone = Vec::new();
        for key in std::mem::take(&mut self.unknown.leaving) {
            if self.plane.key(&key)?.is_some() {
                // Adopted anew: the word of it brings count and scope together.
                continue;
            }
            match self.idle(&key, today) {
                Some(id) => gone.push((key, id)),
                // A packet was under way with it.
                None => self.enter_unknown_key(&key)?,
            }
        }
        if let Err(error) = self.forget_unknown(&gone) {
            self.unknown.leaving = gone.into_iter().map(|(key, _)| key).collect();
            return Err(error);
        }
        if !gone.is_empty() {
            log::info!("{} unknown keys of earlier days are forgotten", gone.len());
        }
        let next = &mut self.unknown.next_look;
        if next.0 == today && next.1 > now {
            return Ok(());
        }
        *next = (today, now + LOOK_EVERY);
        let idle = self.unknown.names.keys();
        let idle = idle.filter(|key| self.idle(key, today).is_some());
        let leaving: Vec<Digest> = idle.take(FORGET_AT_ONCE).copied().collect();
        if leaving.len() == FORGET_AT_ONCE {
            self.unknown.next_look = (today, now);
        }
        for key in &leaving {
            self.plane.remove_key(key)?;
        }
        self.unknown.leaving = leaving;
        Ok(())
    }

    /// The id of a key's scope, if that can be forgotten.
    fn idle(&self, key: &Digest, today: Day) -> Option<u32> {
        let scope = self.scopes.get(self.unknown.names.get(key)?)?;
        let state = self.plane.state(scope.record.id);
        let idle = is_quiet(&state)
            && DayCount(state.day_count).day() < today
            // A slow rate outlasts its day.
            && state.tat_ns <= boot_ns();
        let closed =
            scope.book.day >= today && !scope.unsaved && day_of(scope.record.created_at) < today;
        (idle && closed).then_some(scope.record.id)
    }

    fn enter_unknown_key(&mut self, key: &Digest) -> Result<(), ApiError> {
        let Some(scope) = self
            .unknown
            .names
            .get(key)
            .and_then(|name| self.scopes.get(name))
        else {
            return Ok(());
        };
        let entry = unknown_entry(scope.record.id, 0);
        // If it has been adopted anew this moment, that stands, and the word of it is under way.
        Ok(self.plane.add_key(key, &entry)?)
    }

    /// Whether no connection counts for the scope with this id.
    pub(in crate::daemon) fn is_quiet(&self, id: u32) -> bool {
        is_quiet(&self.plane.state(id))
    }

    /// Lets the kernel have as many ids as the configuration says.
    pub(in crate::daemon) fn fill_unused(&mut self) -> Result<(), ApiError> {
        if self.unknown_tier().is_none() {
            return Ok(());
        }
        let tables = &self.config.tables;
        let held = self.unknown.offered.len() + self.unknown.names.len();
        let wanted = (tables.unknown_keys as usize).saturating_sub(held);
        if wanted == 0 {
            return Ok(());
        }
        // From the end: registered scopes begin at the beginning.
        let ids: Vec<u32> = (0..tables.scope_ids())
            .rev()
            .filter(|id| !self.is_named(*id) && !self.unknown.may_take(*id))
            .filter(|id| self.is_quiet(*id))
            .take(wanted)
            .collect();
        for id in &ids {
            self.plane.clear_state(*id);
            self.plane.set_ended(*id, None)?;
        }
        self.plane.add_unused(&ids);
        self.unknown.offered.extend(ids);
        Ok(())
    }
}
