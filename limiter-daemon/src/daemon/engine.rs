//! The daemon's state, and how it begins: store and kernel brought to agree.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
    sync::atomic::{AtomicU64, Ordering},
};

use chrono::{DateTime, Utc};
use limiter_common::day::{Day, DayCount};

use super::{
    book::Book, departed::Departed, events::EventLog, pace::Pace, recount::Drifts, sweep::Table,
    text_sets::TextSets, unknown::Unknown,
};
use crate::{
    api::{ApiError, HealedView, Health},
    config::{Config, Days, Mode, Overlay, Tier},
    kernel::Plane,
    limits::Limits,
    scope::ScopeName,
    secret::Secret,
    store::{AuditEntry, DayUsage, ScopeRecord, Seen, Store},
    suggest::did_you_mean,
};

/// Nanoseconds to add to the boot clock for UTC: written by the clock, read by everyone.
pub(super) type UtcOffset = Arc<AtomicU64>;
/// `CLOCK_BOOTTIME` until which the store is known to be written, ns: written by the engine, read by the
/// clock.
pub(super) type Attended = Arc<AtomicU64>;

/// A scope as the daemon holds it.
pub(super) struct Scope {
    pub(super) record: ScopeRecord,
    pub(super) book: Book,
    /// The limits in force.
    pub(super) limits: Limits,
    /// Whether they are enforced.
    pub(super) mode: Mode,
    /// Whether the store does not have the book as it is.
    pub(super) unsaved: bool,
    /// How fast requests come, and since when it is over a limit.
    pub(super) pace: Pace,
}

impl Scope {
    /// A scope that begins today, its counters in the kernel at zero but for what a scope of its
    /// name has used today.
    pub(super) fn new(
        record: ScopeRecord,
        (limits, mode): (Limits, Mode),
        usage: DayUsage,
        today: Day,
    ) -> Self {
        // As the kernel's word is: a count of nothing opens no day.
        let seen = match usage.used {
            0 => Seen::default(),
            used => Seen {
                day: today,
                used,
                ..Seen::default()
            },
        };
        Self {
            book: Book::new(seen, today, usage),
            record,
            limits,
            mode,
            unsaved: false,
            pace: Pace::default(),
        }
    }
}

/// Who asks for a change, and when.
pub struct Caller {
    /// By the credentials of the socket's other end.
    pub who: String,
    /// Now.
    pub now: DateTime<Utc>,
}

/// The daemon's state.
pub struct Engine {
    pub(super) plane: Box<dyn Plane>,
    pub(super) store: Store,
    pub(super) config: Config,
    /// What the command line said, laid over the file again at every reload.
    pub(super) overlay: Overlay,
    pub(super) secret: Secret,
    pub(super) scopes: BTreeMap<ScopeName, Scope>,
    /// Ids of removed scopes that the kernel may still name.
    pub(super) retired: BTreeSet<u32>,
    /// What the sums of tiers have besides what is in `scopes`.
    pub(super) departed: Departed,
    /// Names of scopes by their ids.
    pub(super) ids: HashMap<u32, ScopeName>,
    /// Where the search for a free id begins.
    pub(super) next_id: u32,
    pub(super) texts: TextSets,
    pub(super) utc_offset: UtcOffset,
    pub(super) attended: Attended,
    pub(super) started_at: DateTime<Utc>,
    pub(super) since: DateTime<Utc>,
    /// Everything was taken down: nothing is to be put up again before the daemon ends.
    pub(super) detached: bool,
    /// What is known of the table of flows.
    pub(super) table: Table,
    /// Scopes of unknown keys.
    pub(super) unknown: Unknown,
    /// What the last recount found wrong.
    pub(super) drifts: Drifts,
    pub(super) healed: HealedView,
    /// The last day that the store knows may have begun.
    pub(super) open: Day,
    /// The day of the last look, as it is on record.
    pub(super) watched: Day,
    /// The day on which old days were last removed, and how many were kept.
    pub(super) history_kept: Option<(Day, Days)>,
    /// What happened.
    pub(super) events: Arc<EventLog>,
    /// What is wrong with each part that was looked at, if anything.
    health: BTreeMap<&'static str, Option<String>>,
}

/// What an engine is made of.
pub struct Parts {
    /// The kernel's side.
    pub plane: Box<dyn Plane>,
    /// The store.
    pub store: Store,
    /// The configuration.
    pub config: Config,
    /// What the command line said.
    pub overlay: Overlay,
    /// The hash secret.
    pub secret: Secret,
    /// Where the clock writes its offset.
    pub utc_offset: Arc<AtomicU64>,
    /// Where it reads until when the store is known to be written.
    pub attended: Arc<AtomicU64>,
}

/// The UTC day of a moment.
pub(super) fn day_of(now: DateTime<Utc>) -> Day {
    let days = now.timestamp().div_euclid(86_400);
    Day(u32::try_from(days).unwrap_or(0))
}

impl Engine {
    /// Brings the kernel's maps to what store and configuration say; attaches nothing yet.
    ///
    /// # Errors
    /// A tier that scopes have and the configuration does not; the store's and the kernel's
    /// errors.
    pub fn start(parts: Parts, now: DateTime<Utc>) -> Result<Self, ApiError> {
        let mut engine = Self::new(parts, now)?;
        let kept = engine.maps_were_kept()?;
        engine.since = engine.in_force_since(kept, now)?;
        engine.continue_numbers()?;
        engine.read_scopes(now)?;
        engine.continue_unknown()?;
        engine.check_tiers(&engine.config)?;
        // Before anything is published: what ended while no daemon ran does not come back.
        engine.end_overrides(now)?;
        if !kept {
            engine.count_as_lost(now)?;
        }
        if engine.unknown_tier().is_none() {
            engine.drop_unknown_scopes(now)?;
        }
        let registered = engine.store.registered_unknown_keys()?;
        engine.drop_unknown(&registered, now)?;
        TextSets::publish_common(engine.plane.as_mut())?;
        engine.publish_limits()?;
        let adopted = engine.publish_keys()?;
        engine.publish_config()?;
        engine.note_unknown(&adopted, now)?;
        engine.fill_unused()?;
        engine.drop_unused_texts()?;
        engine.flush(now)?;
        engine.attend();
        engine.begin(now)?;
        Ok(engine)
    }

    /// Reads the books, and changes nothing: for an engine that is only to be detached. `None` when the
    /// store is not that of these maps.
    ///
    /// # Errors
    /// The store's.
    pub fn read(parts: Parts, now: DateTime<Utc>) -> Result<Option<Self>, ApiError> {
        let mut engine = Self::new(parts, now)?;
        if !engine.maps_were_kept()? {
            return Ok(None);
        }
        engine.read_scopes(now)?;
        engine.name_unknown();
        Ok(Some(engine))
    }

    fn new(parts: Parts, now: DateTime<Utc>) -> Result<Self, ApiError> {
        let Parts {
            plane,
            store,
            config,
            overlay,
            secret,
            utc_offset,
            attended,
        } = parts;
        Ok(Self {
            retired: store.retired()?.into_iter().collect(),
            departed: Departed::load(&store, plane.identity())?,
            plane,
            store,
            config,
            overlay,
            secret,
            scopes: BTreeMap::new(),
            ids: HashMap::new(),
            next_id: 0,
            texts: TextSets::default(),
            utc_offset,
            attended,
            started_at: now,
            since: now,
            detached: false,
            table: Table::default(),
            unknown: Unknown::default(),
            drifts: Drifts::new(),
            healed: HealedView::default(),
            open: Day::default(),
            watched: Day::default(),
            history_kept: None,
            events: Arc::default(),
            health: BTreeMap::new(),
        })
    }

    /// Since when these maps have been enforced: remembered with the maps' identity, since a
    /// daemon that takes them over leaves no gap.
    fn in_force_since(&self, kept: bool, now: DateTime<Utc>) -> Result<DateTime<Utc>, ApiError> {
        let since = self.store.meta("since")?.filter(|_| kept);
        let since = since.and_then(|since| DateTime::parse_from_rfc3339(&since).ok());
        Ok(since.map_or(now, |since| since.with_timezone(&Utc)))
    }

    fn read_scopes(&mut self, now: DateTime<Utc>) -> Result<(), ApiError> {
        let today = day_of(now);
        let mut seen: HashMap<u32, Seen> = self
            .store
            .seen(&self.plane.identity())?
            .into_iter()
            .collect();
        let usage: HashMap<String, _> = self.store.usage_on(today)?.into_iter().collect();
        let watched = self.last_watched()?;
        let placeholder = Limits {
            daily_quota: None,
            rate: None,
            burst: 1,
            concurrency: None,
            connections: None,
        };
        for record in self.store.scopes()? {
            let today_row = usage.get(record.name.as_str()).copied();
            let stored = today_row.unwrap_or_default();
            // The pinned maps hold the exact truth when they are there. Where they are new,
            // or lost this scope, the store's count is the least that was used.
            self.plane.raise_day_count(record.id, today, stored.used);
            let seen = seen.remove(&record.id);
            let word = DayCount(self.plane.state(record.id).day_count);
            // The last day of which there may be something to add to the books.
            let last = match (seen, watched) {
                // The word is of a later day than what was seen. Up to the last look nothing was counted
                // since, so it came on the day of that look or after it.
                (seen, Some(watched)) if word.day() > seen.unwrap_or_default().day => {
                    watched.min(word.day()).max(seen.unwrap_or_default().day)
                }
                (Some(seen), _) => seen.day,
                (None, _) => today,
            };
            let book = if last < today && today_row.is_none() {
                let name = record.name.as_str();
                let old = self.store.usage_of(name, last)?.unwrap_or_default();
                Book::new(seen.unwrap_or_default(), last, old)
            } else {
                Book::new(seen.unwrap_or_default(), today, stored)
            };
            self.ids.insert(record.id, record.name.clone());
            let scope = Scope {
                book,
                limits: placeholder,
                mode: Mode::Enforce,
                unsaved: false,
                pace: Pace::default(),
                record,
            };
            self.scopes.insert(scope.record.name.clone(), scope);
        }
        Ok(())
    }

    /// Every scope's tier must be in `config`.
    pub(super) fn check_tiers(&self, config: &Config) -> Result<(), ApiError> {
        check_tiers(self.scopes.values().map(|scope| &scope.record), config)
    }

    pub(super) fn tier(&self, name: &str) -> Result<&Tier, ApiError> {
        self.config
            .tiers
            .get(name)
            .ok_or_else(|| self.no_tier(name))
    }

    pub(super) fn no_tier(&self, name: &str) -> ApiError {
        let names = self.config.tiers.names().map(|name| name.as_str());
        ApiError::not_found(format!(
            "there is no tier `{name}`{}; tiers are {}",
            did_you_mean(name, names),
            self.config.tiers.listed()
        ))
    }

    pub(super) fn scope(&self, name: &ScopeName) -> Result<&Scope, ApiError> {
        self.scopes.get(name).ok_or_else(|| {
            let names = self.scopes.keys().map(ScopeName::as_str);
            ApiError::not_found(format!(
                "there is no scope `{name}`{}: add it with `limiter scope add {name}`",
                did_you_mean(name.as_str(), names)
            ))
        })
    }

    /// The limits that a scope with this record gets, and whether they are enforced.
    pub(super) fn effective(&self, record: &ScopeRecord) -> Result<(Limits, Mode), ApiError> {
        let tier = self.tier(&record.tier)?;
        let limits = match &record.own {
            Some(own) => own.changes.apply(tier.limits)?,
            None => tier.limits,
        };
        let mode = record.mode.or(tier.mode);
        Ok((limits, mode.unwrap_or(self.config.policy.mode)))
    }

    /// Now, on the boot clock.
    pub(super) fn utc_offset_ns(&self) -> u64 {
        self.utc_offset.load(Ordering::SeqCst)
    }

    /// Notes that a part of the daemon works, or why it does not; says so once, when it changes.
    pub(super) fn note_health(&mut self, part: &'static str, problem: Option<String>) {
        let before = self.health.get(part).and_then(Option::as_ref);
        match &problem {
            Some(message) if before != Some(message) => {
                log::error!("{part}: {message}");
                self.tell_health(format!("{part}: {message}"));
            }
            None if before.is_some() => {
                log::info!("{part}: works again");
                self.tell_health(format!("{part}: works again"));
            }
            _ => {}
        }
        self.health.insert(part, problem);
    }

    pub(super) fn health(&self) -> Vec<Health> {
        self.health
            .iter()
            .filter_map(|(part, problem)| {
                Some(Health {
                    part: (*part).to_owned(),
                    message: problem.clone()?,
                })
            })
            .collect()
    }

    /// The parts that were looked at, and whether each of them works.
    pub(super) fn parts(&self) -> impl Iterator<Item = (&'static str, bool)> {
        self.health
            .iter()
            .map(|(part, problem)| (*part, problem.is_none()))
    }
}

impl Caller {
    /// An entry for the audit trail.
    pub(super) fn entry<'a>(
        &'a self,
        action: &'a str,
        object: &'a str,
        detail: &'a str,
    ) -> AuditEntry<'a> {
        AuditEntry {
            at: self.now,
            who: &self.who,
            action,
            object,
            detail,
            note: None,
        }
    }
}

/// Every scope's tier must be in `config`.
pub(super) fn check_tiers<'a>(
    scopes: impl IntoIterator<Item = &'a ScopeRecord>,
    config: &Config,
) -> Result<(), ApiError> {
    let mut lost: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    // Those of unknown keys get another one.
    for record in scopes.into_iter().filter(|scope| scope.unknown.is_none()) {
        if config.tiers.get(&record.tier).is_none() {
            lost.entry(&record.tier)
                .or_default()
                .push(record.name.as_str());
        }
    }
    let Some((tier, scopes)) = lost.first_key_value() else {
        return Ok(());
    };
    let file = config.file.as_ref().map_or_else(
        || "the configuration".to_owned(),
        |file| file.display().to_string(),
    );
    let some = scopes
        .iter()
        .take(3)
        .copied()
        .collect::<Vec<_>>()
        .join(", ");
    let more = if scopes.len() > 3 { ", …" } else { "" };
    Err(ApiError::configuration(format!(
        "{file} has no tier `{tier}`, but {} scopes have it ({some}{more}): keep [tiers.{tier}]",
        scopes.len()
    )))
}
