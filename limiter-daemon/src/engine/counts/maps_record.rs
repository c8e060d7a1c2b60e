// SPDX-License-Identifier: MIT OR Apache-2.0

//! The store's record of the maps in force: their identity, the time since which the kernel
//! programs have enforced the limits in them without interruption, and the day up to which their
//! counts have been read.

use std::time::Duration;

use chrono::{DateTime, Utc};
use limiter_common::day::Day;

use crate::{
    config::Days,
    engine::time::day_of,
    store::{AuditEntry, Store, StoreError},
};

/// The name of the entry with the identity of the maps in force. The entry is written after all
/// counts have been entered into the maps. The entry is empty if there are no maps and the store
/// has counted all admitted requests.
const MAPS: &str = "maps";
/// The name of the entry with the time since which the limits in the maps have been enforced.
const SINCE: &str = "since";
/// The name of the entry with the boot during which the last daemon wrote all counts and ended.
const STOPPED: &str = "stopped";
/// The name of the entry with the last day on which the kernel may have admitted requests that the
/// store has not counted.
const OPEN: &str = "open";
/// The name of the entry with the day on which a daemon last read all counts.
const WATCHED: &str = "watched";

/// The time before midnight at which the next day is recorded under [`OPEN`].
const OPENED_EARLY_BY: Duration = Duration::from_secs(60);

/// The store's record of the maps in force.
pub(crate) struct MapsRecord {
    /// The identity of the maps ([`Plane::identity`](crate::kernel::Plane::identity)).
    maps: String,
    since: DateTime<Utc>,
    /// The day that the store has under `OPEN`.
    open: Day,
    /// The day that the store has under `WATCHED`.
    watched: Day,
    /// The day on which old usage was last removed, and the number of days for which usage was
    /// kept.
    pruned: Option<(Day, Days)>,
}

/// Maps that no longer exist, with counts that may be missing from the store.
pub(crate) struct LostMaps {
    /// Whether these maps may have admitted requests today.
    pub(crate) were_open: bool,
}

impl MapsRecord {
    /// Returns an empty record of the maps with the identity `maps`.
    pub(crate) fn new(maps: String, now: DateTime<Utc>) -> Self {
        Self {
            maps,
            since: now,
            open: Day::default(),
            watched: Day::default(),
            pruned: None,
        }
    }

    /// Returns whether the last daemon that used `store` also used these maps.
    pub(crate) fn is_known(&self, store: &Store) -> Result<bool, StoreError> {
        Ok(store.meta(MAPS)?.as_deref() == Some(&self.maps))
    }

    /// Reads the time since which the limits in the maps have been enforced. A daemon that takes
    /// over the maps of an earlier daemon keeps this time, because enforcement was not interrupted.
    pub(crate) fn resume(&mut self, store: &Store) -> Result<(), StoreError> {
        let since = store.meta(SINCE)?;
        let since = since.and_then(|since| DateTime::parse_from_rfc3339(&since).ok());
        if let Some(since) = since {
            self.since = since.with_timezone(&Utc);
        }
        Ok(())
    }

    pub(crate) fn since(&self) -> DateTime<Utc> {
        self.since
    }

    /// Returns the last day on which a daemon read the counts of these maps, or `None` if the maps
    /// are new.
    pub(crate) fn last_watched(&self, store: &Store) -> Result<Option<Day>, StoreError> {
        if !self.is_known(store)? {
            return Ok(None);
        }
        let watched = store.meta(WATCHED)?;
        Ok(watched.and_then(|day| day.parse().ok()).map(Day))
    }

    /// Returns the maps of the last daemon if they no longer exist, unless that daemon wrote all
    /// counts and ended during the present boot. All requests that the allowances of lost maps
    /// permitted may have been admitted.
    pub(crate) fn lost_maps(
        &self,
        store: &Store,
        now: DateTime<Utc>,
    ) -> Result<Option<LostMaps>, StoreError> {
        let lost = store.meta(MAPS)?.unwrap_or_default();
        if lost.is_empty() {
            return Ok(None);
        }
        let stopped = store.meta(STOPPED)?.unwrap_or_default();
        if !stopped.is_empty() && stopped == boot_of(&self.maps) {
            return Ok(None);
        }
        log::debug!("the maps {lost} are gone");
        let open = store.meta(OPEN)?;
        let open = open.and_then(|open| open.parse().ok()).map(Day);
        Ok(Some(LostMaps {
            were_open: open >= Some(day_of(now)),
        }))
    }

    /// Records that the maps now have all counts, and that a daemon is running with these maps.
    pub(crate) fn begin(
        &mut self,
        store: &mut Store,
        now: DateTime<Utc>,
    ) -> Result<(), StoreError> {
        let (open, watched) = (open_day(now), day_of(now));
        store.change(|store| {
            store.set_meta(OPEN, &open.0.to_string())?;
            store.set_meta(WATCHED, &watched.0.to_string())?;
            store.set_meta(STOPPED, "")?;
            store.set_meta(SINCE, &self.since.to_rfc3339())?;
            store.set_meta(MAPS, &self.maps)?;
            Ok::<(), StoreError>(())
        })?;
        (self.open, self.watched) = (open, watched);
        Ok(())
    }

    /// Records that all counts have been written and that the daemon ends.
    pub(crate) fn end(&self, store: &mut Store) -> Result<(), StoreError> {
        store.change(|store| store.set_meta(STOPPED, boot_of(&self.maps)))
    }

    /// Records that all counts have been written and that the maps are gone. The next daemon
    /// therefore does not charge the allowances of these maps, even if the host goes down before
    /// that daemon starts.
    pub(crate) fn close(
        &self,
        store: &mut Store,
        entry: &AuditEntry<'_>,
    ) -> Result<(), StoreError> {
        store.change(|store| {
            store.set_meta(MAPS, "")?;
            store.audit(entry)
        })
    }

    /// Records that all counts have been read and, shortly before midnight, that the kernel may
    /// admit requests of the next day.
    pub(crate) fn note_day(
        &mut self,
        store: &mut Store,
        now: DateTime<Utc>,
    ) -> Result<(), StoreError> {
        let open = open_day(now).max(self.open);
        let watched = day_of(now).max(self.watched);
        if (open, watched) != (self.open, self.watched) {
            store.change(|store| {
                store.set_meta(OPEN, &open.0.to_string())?;
                store.set_meta(WATCHED, &watched.0.to_string())
            })?;
            (self.open, self.watched) = (open, watched);
        }
        Ok(())
    }

    /// Removes the usage of days that are no longer kept. Does so when the daemon starts, once a
    /// day, and after a change of `keep`.
    pub(crate) fn prune(
        &mut self,
        store: &mut Store,
        keep: Days,
        now: DateTime<Utc>,
    ) -> Result<(), StoreError> {
        let today = day_of(now);
        if self.pruned == Some((today, keep)) {
            return Ok(());
        }
        let removed = store.change_without_sync(|store| {
            // The lease of yesterday may still be reported.
            store.remove_leases_before(Day(today.0.saturating_sub(1)))?;
            store.remove_usage_beyond(today, keep.0)
        })?;
        self.pruned = Some((today, keep));
        if removed > 0 {
            log::info!(
                "history: removed {removed} daily records of scopes that are older than {keep}"
            );
        }
        Ok(())
    }
}

fn open_day(now: DateTime<Utc>) -> Day {
    day_of(now + OPENED_EARLY_BY)
}

/// Returns the boot to which the maps with the identity `identity` belong.
fn boot_of(identity: &str) -> &str {
    identity.split_once(':').map_or(identity, |(boot, _)| boot)
}
