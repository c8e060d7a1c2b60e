//! What scopes used, and keeping the store up with it.

use std::collections::HashSet;

use chrono::{DateTime, NaiveDate, NaiveTime, Utc};
use limiter_common::{
    abi::ScopeState,
    day::{Day, DayCount},
};

use super::{
    audit::check_note,
    book::{Book, seen},
    engine::{Caller, Engine, Scope, day_of},
    history::end_of,
};
use crate::{
    api::{ApiError, UsageView},
    config::Accounting,
    kernel::Plane,
    scope::ScopeName,
    store::{AuditEntry, DayUsage, Seen, StoreError, date_of},
};

/// What a flush has to write.
struct Pending {
    /// The book before the look.
    before: Book,
    /// What the kernel may be told when it is written; `None`: nothing is held against the count.
    allowed: Option<DayCount>,
    id: u32,
    name: ScopeName,
    seen: Seen,
    day: Day,
    usage: DayUsage,
    closed: Option<(Day, DayUsage)>,
}

/// Looks at a scope's counters: what there is to write, if anything. Its book is then as after that.
fn look_at(
    scope: &mut Scope,
    plane: &dyn Plane,
    accounting: &Accounting,
    now: DateTime<Utc>,
) -> Option<Pending> {
    let before = scope.book;
    let state = plane.state(scope.record.id);
    scope.pace.note(&state, &scope.limits, now);
    let look = scope.book.look(&state, day_of(now));
    if !look.changed && !scope.unsaved {
        return None;
    }
    let Book { seen, day, usage } = scope.book;
    let closed_nothing = look.closed.is_none_or(|(_, usage)| usage.is_nothing());
    if !scope.unsaved && seen == before.seen && usage.is_nothing() && closed_nothing {
        // A day has turned for a scope that nobody uses.
        return None;
    }
    scope.unsaved = true;
    let quota = scope.limits.daily_quota;
    let ahead = u64::from(accounting.ahead_of(quota));
    // A day on which nothing happened yet is allowed that much anyway.
    let begins = look.closed.is_some() && usage.is_nothing();
    let allowed = quota.filter(|_| !begins).map(|quota| {
        let allowed = usage.used.saturating_add(ahead).min(quota);
        let known = plane.allowed(scope.record.id);
        let known = if known.day() == day { known.count() } else { 0 };
        DayCount::new(day, allowed.max(known))
    });
    let used = usage.used;
    scope.book.usage.allowed = allowed.map_or(used, |allowed| allowed.count().max(used));
    Some(Pending {
        before,
        allowed,
        id: scope.record.id,
        name: scope.record.name.clone(),
        seen,
        day,
        usage: scope.book.usage,
        closed: look.closed,
    })
}

impl Engine {
    /// Looks at every scope's counters and writes what changed; closes the books of a day that
    /// has ended.
    ///
    /// # Errors
    /// The store's; what could not be written is written with the next change of the scope, and
    /// the kernel's counts go on whatever the store does.
    pub fn flush(&mut self, now: DateTime<Utc>) -> Result<(), ApiError> {
        let looks = self.look_at_all(now);
        self.write(looks)?;
        self.stay_attended();
        Ok(())
    }

    /// As [`Self::flush`], for some scopes.
    ///
    /// # Errors
    /// As there.
    pub(super) fn flush_some(
        &mut self,
        ids: &HashSet<u32>,
        now: DateTime<Utc>,
    ) -> Result<(), ApiError> {
        let mut pending = Vec::new();
        for id in ids {
            // Others have just been removed, or are not known yet.
            if let Some(name) = self.ids.get(id)
                && let Some(scope) = self.scopes.get_mut(name)
            {
                let accounting = &self.config.accounting;
                pending.extend(look_at(scope, self.plane.as_ref(), accounting, now));
            }
        }
        // Nothing to write for these says nothing of the disk, and of what others wait for.
        let writes = !pending.is_empty();
        self.write(pending)?;
        if writes {
            self.stay_attended();
        }
        Ok(())
    }

    fn look_at_all(&mut self, now: DateTime<Utc>) -> Vec<Pending> {
        let (plane, accounting) = (self.plane.as_ref(), &self.config.accounting);
        self.scopes
            .values_mut()
            .filter_map(|scope| look_at(scope, plane, accounting, now))
            .collect()
    }

    fn write(&mut self, pending: Vec<Pending>) -> Result<(), ApiError> {
        if pending.is_empty() {
            return Ok(());
        }
        let map = self.plane.identity();
        // What is allowed must be on the disk before the kernel hears of it.
        let written = self.store.change(|store| {
            for scope in &pending {
                let name = scope.name.as_str();
                if let Some((day, usage)) = &scope.closed {
                    store.set_usage(name, *day, usage)?;
                }
                if !scope.usage.is_nothing() || scope.closed.is_none() {
                    store.set_usage(name, scope.day, &scope.usage)?;
                }
                store.set_seen(scope.id, &map, &scope.seen)?;
            }
            Ok::<(), StoreError>(())
        });
        match written {
            Ok(()) => {
                for scope in &pending {
                    if let Some(allowed) = scope.allowed {
                        self.plane.set_allowed(scope.id, allowed);
                    }
                    if let Some(scope) = self.scopes.get_mut(&scope.name) {
                        scope.unsaved = false;
                    }
                }
                Ok(())
            }
            Err(error) => {
                // As if the look had not been: a day that was to be closed is closed next time.
                for Pending { name, before, .. } in pending {
                    if let Some(scope) = self.scopes.get_mut(&name) {
                        scope.book = before;
                    }
                }
                Err(error.into())
            }
        }
    }

    /// All scopes' usage today, or on a past day.
    ///
    /// # Errors
    /// The store's; a day that has not begun, or is kept no longer.
    pub fn usage(
        &self,
        date: Option<NaiveDate>,
        now: DateTime<Utc>,
    ) -> Result<Vec<UsageView>, ApiError> {
        if let Some(day) = self.past_day(date, now)? {
            return self.usage_on(day);
        }
        self.scopes
            .values()
            .map(|scope| Ok(self.usage_view(scope, now)))
            .collect()
    }

    /// One scope's usage today, or on a past day.
    ///
    /// # Errors
    /// There is no such scope; the day has not begun, or is kept no longer.
    pub fn usage_of(
        &self,
        name: &ScopeName,
        date: Option<NaiveDate>,
        now: DateTime<Utc>,
    ) -> Result<UsageView, ApiError> {
        if let Some(day) = self.past_day(date, now)? {
            return self.past_usage_of(name, day);
        }
        match self.scopes.get(name) {
            Some(scope) => Ok(self.usage_view(scope, now)),
            // One that was removed today has its books closed already.
            None if date.is_some() => self.past_usage_of(name, day_of(now)),
            None => self.scope(name).map(|scope| self.usage_view(scope, now)),
        }
    }

    /// The day asked for, unless it is today.
    fn past_day(
        &self,
        date: Option<NaiveDate>,
        now: DateTime<Utc>,
    ) -> Result<Option<Day>, ApiError> {
        let Some(date) = date else { return Ok(None) };
        let today = now.date_naive();
        if date > today {
            return Err(ApiError::invalid(format!(
                "{date} has not begun: today is {today} (UTC)"
            )));
        }
        if date == today {
            return Ok(None);
        }
        self.check_kept(date, today)?;
        let midnight = date.and_time(NaiveTime::MIN).and_utc();
        Ok(Some(day_of(midnight)))
    }

    fn usage_view(&self, scope: &Scope, now: DateTime<Utc>) -> UsageView {
        let state: ScopeState = self.plane.state(scope.record.id);
        // Look without keeping it: reading changes nothing.
        let mut book = scope.book;
        book.look(&state, day_of(now));
        let quota = scope.limits.daily_quota;
        UsageView {
            scope: scope.record.name.clone(),
            tier: Some(scope.record.tier.clone()),
            removed: false,
            day: date_of(book.day).unwrap_or(NaiveDate::MAX),
            used: book.usage.used,
            lost: book.usage.lost,
            daily_quota: quota,
            remaining: quota.map(|quota| quota.saturating_sub(book.usage.used)),
            rate: scope.limits.rate,
            in_flight: Some(state.in_flight),
            connections: Some(state.connections),
            refused: book.usage.refused,
            would_refuse: book.usage.would_refuse,
            resets_at: end_of(book.day),
        }
    }

    /// Sets a scope's count of today back to zero.
    ///
    /// # Errors
    /// There is no such scope, or the store's.
    pub fn reset(
        &mut self,
        name: &ScopeName,
        note: &str,
        caller: &Caller,
    ) -> Result<UsageView, ApiError> {
        check_note(note)?;
        let id = self.scope(name)?.record.id;
        self.flush(caller.now)?;
        let today = day_of(caller.now);
        let used = self.scope(name)?.book.usage.used;
        // The store first: after a crash in between, the kernel's higher count stands.
        self.store.change(|store| {
            let usage = store.usage_of(name.as_str(), today)?.unwrap_or_default();
            // What is allowed stands until the kernel knows of less.
            let reset = DayUsage {
                used: 0,
                lost: 0,
                ..usage
            };
            store.set_usage(name.as_str(), today, &reset)?;
            let detail = format!("was {used}");
            let entry = caller.entry("reset", name.as_str(), &detail);
            store.audit(&AuditEntry {
                note: Some(note),
                ..entry
            })
        })?;
        self.plane.set_day_count(id, DayCount::new(today, 0));
        // As on a day of which nothing is known.
        self.plane.set_allowed(id, DayCount::default());
        if let Some(scope) = self.scopes.get_mut(name) {
            // What was charged before is no part of this day's count any more.
            scope.book.day = today;
            scope.book.usage.used = 0;
            scope.book.usage.lost = 0;
            scope.book.seen.day = today;
            scope.book.seen.used = 0;
            scope.book.seen.admitted = seen(&self.plane.state(id)).admitted;
            scope.unsaved = true;
        }
        self.flush(caller.now)?;
        let what = format!("today's count of {name} set back from {used} to 0");
        self.tell_change(caller, "reset", Some(name), None, what);
        self.usage_of(name, None, caller.now)
    }
}
