// SPDX-License-Identifier: MIT OR Apache-2.0

//! The engine, which holds the daemon's state. When the engine starts, it makes the store and the
//! kernel consistent.

use std::{collections::HashMap, sync::Arc};

use chrono::{DateTime, Utc};
use limiter_common::day::{Day, DayCount};

use super::{
    counts::{
        day_counts::DayCounts, departed::Departed, lost::charge_lost, maps_record::MapsRecord,
    },
    events::log::EventLog,
    fleet::member::Member,
    flows::{corrections::Corrections, table::FlowTable},
    health::PartStates,
    keys::unknown::Unknown,
    publish::{clock::ClockPublisher, text_sets::TextSets},
    scopes::registry::{Scope, Scopes},
    setup::{Setup, check_tiers},
    time::{ClockWords, day_of},
};
use crate::{
    config::{Config, Overlay},
    domain::{limits::Limits, mode::Mode},
    kernel::Plane,
    protocol::error::ApiError,
    secret::Secret,
    store::{CounterReading, DayUsage, ScopeRecord, Store},
};

/// The daemon's state.
pub struct Engine {
    pub(super) plane: Box<dyn Plane>,
    pub(super) store: Store,
    pub(super) setup: Setup,
    pub(super) scopes: Scopes,
    pub(super) unknown: Unknown,
    pub(super) texts: TextSets,
    pub(super) record: MapsRecord,
    pub(super) departed: Departed,
    pub(super) flows: FlowTable,
    pub(super) corrections: Corrections,
    pub(super) clock: EngineClock,
    pub(super) health: PartStates,
    pub(super) events: Arc<EventLog>,
    pub(super) started_at: DateTime<Utc>,
    /// The host's part in its fleet, if it belongs to one.
    pub(super) fleet: Option<Member>,
    /// Whether the programs and maps have been removed. After that, nothing is put into force until
    /// the daemon ends.
    pub(super) detached: bool,
}

/// The engine's access to the clock.
pub(super) struct EngineClock {
    words: ClockWords,
    /// The publisher, which publishes changes of the clock at once. It is `None` if no daemon runs.
    publisher: Option<Arc<ClockPublisher>>,
}

impl EngineClock {
    pub(super) fn words(&self) -> &ClockWords {
        &self.words
    }

    pub(super) fn publisher(&self) -> Option<&Arc<ClockPublisher>> {
        self.publisher.as_ref()
    }
}

/// The parts from which an engine is made.
pub struct Parts {
    /// The kernel's maps and programs.
    pub plane: Box<dyn Plane>,
    /// The store.
    pub store: Store,
    /// The configuration.
    pub config: Config,
    /// The command-line options.
    pub overlay: Overlay,
    /// The hash secret.
    pub secret: Secret,
    /// The times that the engine shares with the publisher of the clock.
    pub clock: ClockWords,
}

impl Engine {
    /// Makes the maps in the kernel consistent with the store and the configuration. Does not
    /// attach any programs yet.
    ///
    /// # Errors
    /// Returns an error if the configuration lacks the tier of a scope, or if the store or the
    /// kernel reports an error.
    pub fn start(parts: Parts, now: DateTime<Utc>) -> Result<Self, ApiError> {
        let mut engine = Self::new(parts, now)?;
        let kept = engine.record.is_known(&engine.store)?;
        if kept {
            engine.record.resume(&engine.store)?;
        }
        engine.flows.continue_numbers(engine.plane.as_mut())?;
        engine.read_scopes(now)?;
        engine.continue_unknown()?;
        engine.check_tiers(engine.setup.config())?;
        // The overrides are ended before anything is published, so that an override that ended
        // while no daemon ran does not come into force again.
        engine.end_overrides(now)?;
        engine.begin_fleet()?;
        if !kept {
            engine.count_as_lost(day_of(now), now)?;
        }
        engine.drop_registered(now)?;
        engine.publish_common_texts()?;
        engine.publish_limits()?;
        let adopted = engine.publish_keys()?;
        engine.publish_config()?;
        engine.record_unknown(&adopted, now)?;
        engine.fill_unused()?;
        engine.drop_unused_texts()?;
        engine.flush(now)?;
        engine.clock.words().attend();
        engine.record.begin(&mut engine.store, now)?;
        Ok(engine)
    }

    /// Reads the store without changing anything, for an engine that will only be detached. Returns
    /// `None` if the store does not belong to these maps.
    ///
    /// # Errors
    /// Returns an error if the store cannot be read.
    pub fn read(parts: Parts, now: DateTime<Utc>) -> Result<Option<Self>, ApiError> {
        let mut engine = Self::new(parts, now)?;
        if !engine.record.is_known(&engine.store)? {
            return Ok(None);
        }
        engine.read_scopes(now)?;
        engine.unknown.find_names(&engine.scopes);
        Ok(Some(engine))
    }

    fn new(parts: Parts, now: DateTime<Utc>) -> Result<Self, ApiError> {
        let Parts {
            plane,
            store,
            config,
            overlay,
            secret,
            clock,
        } = parts;
        Ok(Self {
            scopes: Scopes::with_retired(store.retired()?),
            departed: Departed::load(&store, plane.identity())?,
            record: MapsRecord::new(plane.identity(), now),
            plane,
            store,
            setup: Setup::new(config, overlay, secret),
            unknown: Unknown::default(),
            texts: TextSets::default(),
            flows: FlowTable::default(),
            corrections: Corrections::default(),
            clock: EngineClock {
                words: clock,
                publisher: None,
            },
            health: PartStates::default(),
            events: Arc::default(),
            started_at: now,
            fleet: None,
            detached: false,
        })
    }

    /// Sets the publisher, with which the engine publishes changes of the clock at once.
    pub(crate) fn set_publisher(&mut self, publisher: Arc<ClockPublisher>) {
        self.clock.publisher = Some(publisher);
    }

    fn read_scopes(&mut self, now: DateTime<Utc>) -> Result<(), ApiError> {
        let today = day_of(now);
        let seen = self.store.seen(&self.plane.identity())?;
        let mut seen: HashMap<u32, CounterReading> = seen.into_iter().collect();
        let usage: HashMap<String, _> = self.store.usage_on(today)?.into_iter().collect();
        let watched = self.record.last_watched(&self.store)?;
        // These limits are replaced when the limits are published.
        let placeholder = Limits {
            daily_quota: None,
            rate: None,
            burst: 1,
            concurrency: None,
            connections: None,
        };
        for record in self.store.scopes()? {
            let stored = usage.get(record.name.as_str()).copied();
            let used = stored.unwrap_or_default().used;
            // Pinned maps that still exist have the exact count. If the maps are new or lack this
            // scope, its count is raised to the number of requests that the store has counted.
            self.plane.raise_day_count(record.id, today, used);
            let seen = seen.remove(&record.id);
            let word = DayCount(self.plane.state(record.id).day_count);
            let last = last_open_day(seen, word.day(), watched, today);
            let counts =
                self.first_counts(&record, seen.unwrap_or_default(), stored, (last, today))?;
            let scope = Scope::with_counts(record, (placeholder, Mode::Enforce), counts);
            self.scopes.insert(scope);
        }
        Ok(())
    }

    /// Returns the counts of a scope that was read from the store. They are the counts of the day
    /// `last` if that day still has to be closed, and those of today otherwise.
    fn first_counts(
        &self,
        record: &ScopeRecord,
        seen: CounterReading,
        stored: Option<DayUsage>,
        (last, today): (Day, Day),
    ) -> Result<DayCounts, ApiError> {
        if last < today && stored.is_none() {
            let old = self.store.usage_of(record.name.as_str(), last)?;
            return Ok(DayCounts::new(seen, last, old.unwrap_or_default()));
        }
        Ok(DayCounts::new(seen, today, stored.unwrap_or_default()))
    }

    /// If maps were lost, charges the requests that they may have admitted.
    fn count_as_lost(&mut self, today: Day, now: DateTime<Utc>) -> Result<(), ApiError> {
        let Some(lost) = self.record.lost_maps(&self.store, now)? else {
            return Ok(());
        };
        let plane = self.plane.as_ref();
        let parts = (&self.setup, plane, &self.store);
        charge_lost(&lost, &mut self.scopes, parts, self.fleet.is_some(), today)?;
        if lost.were_open {
            self.raise_unknown_begin(today)?;
        }
        Ok(())
    }

    /// Removes the scopes of unknown keys that have since been registered. If the configuration no
    /// longer gives scopes to unknown keys, removes the scopes of all unknown keys.
    fn drop_registered(&mut self, now: DateTime<Utc>) -> Result<(), ApiError> {
        if self.setup.unknown_tier().is_none() {
            self.drop_unknown_scopes(now)?;
        }
        let registered = self.store.registered_unknown_keys()?;
        self.drop_unknown(&registered, now)
    }

    /// Checks that `config` contains the tier of every scope.
    pub(crate) fn check_tiers(&self, config: &Config) -> Result<(), ApiError> {
        check_tiers(self.scopes.iter().map(|scope| &scope.record), config)
    }

    /// Records the state of a part of the daemon. `problem` is `None` if the part works.
    pub(crate) fn note_health(&mut self, part: &'static str, problem: Option<String>) {
        self.health.note(part, problem, &self.events);
    }

    pub(crate) fn events(&self) -> Arc<EventLog> {
        Arc::clone(&self.events)
    }

    pub(crate) fn secret(&self) -> Secret {
        self.setup.secret().clone()
    }
}

/// Returns the last day for which the store may lack counts. `seen` is the last reading of the
/// scope in the store, `day` is the day of the scope's count in the kernel, and `watched` is the
/// day on which a daemon last read all counts.
fn last_open_day(seen: Option<CounterReading>, day: Day, watched: Option<Day>, today: Day) -> Day {
    match (seen, watched) {
        // The kernel has counted requests on a later day than that of the scope's last reading in
        // the store. A daemon that reads all counts also stores a new reading of each scope with
        // new requests. The requests that the store lacks therefore came on the day `watched` or
        // later.
        (seen, Some(watched)) if day > seen.unwrap_or_default().day => {
            watched.min(day).max(seen.unwrap_or_default().day)
        }
        (Some(seen), _) => seen.day,
        (None, _) => today,
    }
}
