//! Counts that run ahead of the store, but never further than it allows.
//!
//! The store says of each scope and day what it used and what it is allowed (`allowed`): the kernel
//! admits no request beyond that, and asks in time. So after a crash the kernel's lost count is no
//! greater than what the store allowed, and that much is taken for used. As long as the maps live, they
//! hold the exact count, whatever becomes of the daemon.

use std::{
    collections::HashSet,
    sync::{Arc, atomic::Ordering::SeqCst},
    time::Duration,
};

use chrono::{DateTime, Utc};
use limiter_common::{
    abi::{Digest, event},
    day::Day,
};

use super::{
    Shared,
    engine::{Engine, day_of},
};
use crate::{
    api::ApiError,
    kernel::{Events, boot_ns},
    store::{AuditEntry, StoreError},
};

/// How long after the store was written last its allowances are held against requests. Beyond that the
/// daemon is away, or its disk is: then `accounting.unattended` decides.
const ATTENDED: Duration = Duration::from_secs(5);

/// Which maps are in force; written when all counts have been carried over to them. Empty: none, and
/// nothing was admitted that is not written.
const MAPS: &str = "maps";
/// Since when.
const SINCE: &str = "since";
/// The boot in which the last daemon has written all counts and gone.
const STOPPED: &str = "stopped";
/// The last day on which the kernel may have admitted what the store knows nothing of.
const OPEN: &str = "open";

/// The day on which a daemon last looked at all counts.
const WATCHED: &str = "watched";

/// How long before midnight the next day is opened.
const EARLY: Duration = Duration::from_secs(60);

impl Engine {
    /// Whether the counts in the maps are those of the last daemon.
    pub(super) fn maps_were_kept(&self) -> Result<bool, StoreError> {
        Ok(self.store.meta(MAPS)?.as_deref() == Some(&self.plane.identity()))
    }

    /// The last day on which a daemon looked at the counts of these maps; `None` if they are new.
    pub(super) fn last_watched(&self) -> Result<Option<Day>, StoreError> {
        if !self.maps_were_kept()? {
            return Ok(None);
        }
        let watched = self.store.meta(WATCHED)?;
        Ok(watched.and_then(|day| day.parse().ok()).map(Day))
    }

    /// The maps are new, and the last daemon did not say that it went in peace: what it allowed may
    /// have been used.
    pub(super) fn count_as_lost(&mut self, now: DateTime<Utc>) -> Result<(), ApiError> {
        let maps = self.store.meta(MAPS)?.unwrap_or_default();
        if maps.is_empty() {
            return Ok(());
        }
        let stopped = self.store.meta(STOPPED)?.unwrap_or_default();
        if !stopped.is_empty() && stopped == boot_of(&self.plane.identity()) {
            return Ok(());
        }
        log::debug!("the maps {maps} are gone");
        let today = day_of(now);
        let open = self.store.meta(OPEN)?;
        let open = open.and_then(|open| open.parse().ok()).map(Day) >= Some(today);
        let (mut scopes, mut lost) = (0u64, 0u64);
        let records: Vec<_> = self
            .scopes
            .values()
            .map(|scope| scope.record.clone())
            .collect();
        for record in records {
            if record.unknown.is_some() && self.unknown_tier().is_none() {
                // Nothing is charged to it any more.
                continue;
            }
            let (limits, _) = self.effective(&record)?;
            let Some(quota) = limits.daily_quota else {
                continue;
            };
            let Some(scope) = self.scopes.get_mut(&record.name) else {
                continue;
            };
            let usage = &mut scope.book.usage;
            let untouched = if open {
                u64::from(self.config.accounting.ahead_of(Some(quota)))
            } else {
                0
            };
            let allowed = usage.allowed.max(untouched).min(quota);
            if scope.book.day == today && allowed > usage.used {
                let more = allowed - usage.used;
                usage.used = allowed;
                usage.lost += more;
                scope.unsaved = true;
                scopes += 1;
                lost += more;
                self.plane.raise_day_count(record.id, today, allowed);
            }
        }
        if open {
            self.begin_unknown_later(today)?;
        }
        if lost > 0 {
            log::warn!(
                "the host or its maps went down without notice: {lost} requests that {scopes} scopes were allowed today count as used"
            );
        }
        Ok(())
    }

    /// The maps now hold all counts: remembers them, and that nobody has said goodbye.
    pub(super) fn begin(&mut self, now: DateTime<Utc>) -> Result<(), ApiError> {
        let identity = self.plane.identity();
        let since = self.since.to_rfc3339();
        self.store.change(|store| {
            store.set_meta(OPEN, &open_day(now).0.to_string())?;
            store.set_meta(WATCHED, &day_of(now).0.to_string())?;
            store.set_meta(STOPPED, "")?;
            store.set_meta(SINCE, &since)?;
            store.set_meta(MAPS, &identity)?;
            Ok::<(), StoreError>(())
        })?;
        self.open = open_day(now);
        self.watched = day_of(now);
        Ok(())
    }

    /// All counts are written, and the daemon goes.
    pub(super) fn end(&mut self) -> Result<(), ApiError> {
        let boot = boot_of(&self.plane.identity()).to_owned();
        self.store.change(|store| store.set_meta(STOPPED, &boot))?;
        Ok(())
    }

    /// All counts are written, and the maps are gone: nothing can be charged any more before a daemon
    /// starts, whatever becomes of the host.
    ///
    /// # Errors
    /// The store's.
    pub(super) fn close(&mut self, entry: &AuditEntry<'_>) -> Result<(), ApiError> {
        self.store.change(|store| {
            store.set_meta(MAPS, "")?;
            store.audit(entry)
        })?;
        Ok(())
    }

    /// All counts were looked at: puts the day of that on record, and opens the next one before it begins.
    ///
    /// # Errors
    /// The store's.
    pub(super) fn note_day(&mut self, now: DateTime<Utc>) -> Result<(), ApiError> {
        let open = open_day(now).max(self.open);
        let watched = day_of(now).max(self.watched);
        if (open, watched) != (self.open, self.watched) {
            self.store.change(|store| {
                store.set_meta(OPEN, &open.0.to_string())?;
                store.set_meta(WATCHED, &watched.0.to_string())
            })?;
            (self.open, self.watched) = (open, watched);
        }
        Ok(())
    }

    /// All counts have just been written: from the clock's next publication on, requests are held to what
    /// the store allows.
    pub(super) fn attend(&self) {
        let ahead = u64::try_from(ATTENDED.as_nanos()).unwrap_or(u64::MAX);
        self.attended.store(boot_ns().saturating_add(ahead), SeqCst);
    }

    /// Something has been written. If nobody had written for a while this is not enough to begin with: the
    /// kernel may have admitted to other scopes what the store knows nothing of.
    pub(super) fn stay_attended(&self) {
        if self.is_attended() {
            self.attend();
        }
    }

    /// Whether requests are to be held to what the store allows.
    pub(super) fn is_attended(&self) -> bool {
        boot_ns() < self.attended.load(SeqCst)
    }

    /// Writes the counts of these scopes, and so lets them go on.
    ///
    /// # Errors
    /// The store's.
    pub(super) fn extend(
        &mut self,
        scopes: &HashSet<u32>,
        now: DateTime<Utc>,
    ) -> Result<(), ApiError> {
        if self.detached {
            return Ok(());
        }
        self.flush_some(scopes, now)
    }
}

fn open_day(now: DateTime<Utc>) -> Day {
    day_of(now + EARLY)
}

/// The boot that maps of this identity belong to.
fn boot_of(identity: &str) -> &str {
    identity.split_once(':').map_or(identity, |(boot, _)| boot)
}

/// Extends allowances as the kernel asks for it.
pub(super) async fn rounds(shared: Arc<Shared>, events: Events) {
    let mut events = match events.watch() {
        Ok(events) => events,
        Err(error) => {
            log::error!("cannot wait for the kernel's events: {error}");
            return;
        }
    };
    loop {
        let events = match events.next().await {
            Ok(events) => events,
            Err(error) => {
                log::error!("cannot wait for the kernel's events: {error}");
                return;
            }
        };
        let of = |kind| events.iter().filter(move |event| event.kind == kind);
        let scopes: HashSet<u32> = of(event::ALLOWANCE).map(|event| event.scope).collect();
        let adopted: Vec<(Digest, u32)> = of(event::ADOPTED)
            .map(|event| (event.key, event.scope))
            .collect();
        let shared = Arc::clone(&shared);
        let work = tokio::task::spawn_blocking(move || {
            let mut engine = shared.engine();
            let now = Utc::now();
            // A scope that is not known yet is not extended either.
            let noted = engine.hear_of_unknown(&adopted, now);
            let extended = noted.and_then(|()| engine.extend(&scopes, now));
            let problem = extended.err().map(|error| error.message);
            // That all is well again is for the round to say that writes all counts.
            if problem.is_some() || engine.is_attended() {
                engine.note_health("store", problem);
            }
        });
        if let Err(error) = work.await {
            log::error!("a round of allowances failed: {error}");
        }
    }
}
