//! Registering a file of keys, all or none.

use std::{
    collections::{HashMap, HashSet},
    sync::atomic::Ordering::SeqCst,
};

use chrono::{DateTime, Utc};
use limiter_common::{
    abi::{self, Digest, KeyEntry},
    day::{Day, DayCount},
};

use super::{
    Shared,
    csv_import::{KeyFile, Line, Problems, STRIDE, Tell, read},
    engine::{Caller, Engine, Scope, day_of},
};
use crate::{
    api::{ApiError, ImportPhase, ImportView, Imported},
    config::Mode,
    kernel::{KernelError, Plane},
    key,
    limits::Limits,
    store::{DayUsage, KeyRecord, NewKey, ScopeRecord, Store, StoreError},
};

/// The import at work, for those who ask how far it is; there is no other one meanwhile.
pub(super) struct Turn<'a>(&'a Shared);

impl<'a> Turn<'a> {
    pub(super) fn take(shared: &'a Shared) -> Result<Self, ApiError> {
        let mut import = shared.lock_import();
        if import.is_some() {
            return Err(ApiError::conflict(
                "another file of keys is being imported: try again when that is done",
            ));
        }
        *import = Some(ImportView::default());
        Ok(Self(shared))
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        *self.0.lock_import() = None;
    }
}

impl Shared {
    /// Registers many keys, all or none, and makes the scopes that do not exist. The engine is free
    /// while the file is read.
    ///
    /// # Errors
    /// With the lines that are wrong; another import at the same time; no room.
    pub fn import_csv(&self, text: &[u8], caller: &Caller) -> Result<Imported, ApiError> {
        let turn = Turn::take(self)?;
        let tell = |phase, done, total| {
            *turn.0.lock_import() = Some(ImportView { phase, done, total });
            self.pulse.step();
        };
        let secret = self.engine().secret.clone();
        let file = read(text, *secret, &tell)?;
        self.engine().import(file, caller, &tell)
    }

    /// How far the import is that is at work; `None` if none is.
    pub fn import_view(&self) -> Option<ImportView> {
        *self.lock_import()
    }
}

/// What a file comes to.
struct Plan {
    scopes: Vec<NewScope>,
    keys: Vec<(u64, NewKey)>,
    problems: Problems,
}

/// A scope that an import makes.
struct NewScope {
    record: ScopeRecord,
    limits: Limits,
    mode: Mode,
    /// The kernel's form of the limits.
    published: abi::Limits,
    /// What a scope of that name has used today.
    usage: DayUsage,
}

/// A scope of the file as it is to be.
struct Place {
    id: u32,
    tier: String,
}

impl Engine {
    pub(super) fn import(
        &mut self,
        file: KeyFile,
        caller: &Caller,
        tell: Tell<'_>,
    ) -> Result<Imported, ApiError> {
        if self.detached {
            return Err(ApiError::failed(
                "the daemon is ending: nothing is in force",
            ));
        }
        // While this holds the engine no allowance is extended: better none than one held too long.
        self.attended.store(0, SeqCst);
        let room = self.config.tables.keys;
        let Plan {
            scopes,
            mut keys,
            mut problems,
        } = self.plan(file, caller.now)?;
        let adopted = self.adopted_among(&keys)?;
        let Self { store, plane, .. } = self;
        let mut entered = false;
        let imported = store.change_much(|store| {
            for scope in &scopes {
                let ScopeRecord { id, name, tier, .. } = &scope.record;
                store.add_scope(*id, name, tier, caller.now)?;
                store.release(*id)?;
            }
            store_keys(store, &mut keys, &mut problems, caller.now, tell)?;
            if let Some(error) = problems.into_error() {
                return Err(error);
            }
            // Only now: a file that was imported before is better told so.
            if store.key_count()? > u64::from(room) {
                return Err(KernelError::keys_full(room).into());
            }
            let imported = Imported {
                keys: keys.len() as u64,
                scopes: scopes.len() as u64,
            };
            let detail = format!("{} keys, {} new scopes", imported.keys, imported.scopes);
            store.audit(&caller.entry("key import --csv", "", &detail))?;
            // Last, and before it is committed: what does not get into the kernel is not in the
            // store either.
            entered = true;
            enter(plane.as_mut(), &scopes, &keys, &adopted, caller.now, tell)?;
            tell(ImportPhase::Committing, 0, 0);
            Ok(imported)
        });
        match imported {
            Ok(imported) => {
                self.next_id = scopes
                    .last()
                    .map_or(self.next_id, |last| last.record.id.saturating_add(1));
                for scope in scopes {
                    self.keep(scope, day_of(caller.now));
                }
                let unknown: Vec<Digest> = adopted.iter().map(|(key, _)| *key).collect();
                self.drop_unknown(&unknown, caller.now)?;
                let what = format!(
                    "{} keys imported, {} new scopes",
                    imported.keys, imported.scopes
                );
                self.tell_change(caller, "key import --csv", None, None, what);
                Ok(imported)
            }
            Err(error) => {
                if let Err(error) = self.take_back(entered, &scopes, &adopted) {
                    log::error!("taking back an import: {}", error.message);
                }
                Err(error)
            }
        }
    }

    /// Scopes to make, with their ids, and keys to add.
    fn plan(&mut self, file: KeyFile, now: DateTime<Utc>) -> Result<Plan, ApiError> {
        let KeyFile {
            scopes: names,
            lines,
            mut problems,
        } = file;
        let mut places: Vec<Option<Place>> = names
            .iter()
            .map(|name| {
                let record = &self.scopes.get(name)?.record;
                Some(Place {
                    id: record.id,
                    tier: record.tier.clone(),
                })
            })
            .collect();
        let mut free_ids = self.free_ids();
        let mut new = Vec::new();
        let mut keys = Vec::with_capacity(lines.len());
        for line in lines {
            let Line {
                line,
                scope,
                digest,
                id,
                label,
                tier,
            } = line;
            let (Some(name), Some(place)) = (names.get(scope), places.get_mut(scope)) else {
                continue;
            };
            let scope_id = match place {
                Some(_) if self.is_of_unknown_key(name) => {
                    problems.note(line, || {
                        ApiError::conflict(format!("the scope {name} is of an unknown key"))
                    });
                    continue;
                }
                Some(place) => {
                    if let Some(tier) = tier.filter(|tier| *tier != place.tier) {
                        let has = &place.tier;
                        problems.note(line, || {
                            ApiError::conflict(format!(
                                "the scope {name} has tier {has}, not {tier}"
                            ))
                        });
                        continue;
                    }
                    place.id
                }
                None => {
                    let tier = tier.unwrap_or_else(|| name.default_tier().to_owned());
                    if self.config.tiers.get(&tier).is_none() {
                        problems.note(line, || self.no_tier(&tier));
                        continue;
                    }
                    let full = || KernelError::scopes_full(self.config.tables.scopes);
                    let id = free_ids.next().ok_or_else(full)?;
                    new.push(ScopeRecord::new(id, name.clone(), tier.clone(), now));
                    *place = Some(Place { id, tier });
                    id
                }
            };
            keys.push((
                line,
                NewKey {
                    id,
                    scope_id,
                    digest,
                    label,
                },
            ));
        }
        drop(free_ids);
        let scopes = new
            .into_iter()
            .map(|record| self.prepare(record, now))
            .collect::<Result<_, _>>()?;
        Ok(Plan {
            scopes,
            keys,
            problems,
        })
    }

    /// The limits and today's usage of a scope that is to be made.
    fn prepare(&mut self, record: ScopeRecord, now: DateTime<Utc>) -> Result<NewScope, ApiError> {
        let (limits, mode) = self.effective(&record)?;
        let published = self.kernel_limits(&limits, mode)?;
        // A scope that was removed today and is made again goes on where it was.
        let usage = self.store.usage_of(record.name.as_str(), day_of(now))?;
        Ok(NewScope {
            published,
            usage: usage.unwrap_or_default(),
            limits,
            mode,
            record,
        })
    }

    /// Those of the keys that the kernel has made scopes of, as it has them.
    fn adopted_among(
        &self,
        keys: &[(u64, NewKey)],
    ) -> Result<Vec<(Digest, KeyEntry)>, KernelError> {
        let mut adopted = self.adopted_keys()?;
        if !adopted.is_empty() {
            let new: HashSet<Digest> = keys.iter().map(|(_, new)| new.digest).collect();
            adopted.retain(|(digest, _)| new.contains(digest));
        }
        Ok(adopted)
    }

    /// Takes a new scope, which store and kernel have, into memory.
    fn keep(&mut self, new: NewScope, today: Day) {
        let NewScope {
            record,
            limits,
            mode,
            usage,
            ..
        } = new;
        self.retired.remove(&record.id);
        self.ids.insert(record.id, record.name.clone());
        let scope = Scope::new(record, (limits, mode), usage, today);
        self.scopes.insert(scope.record.name.clone(), scope);
    }

    /// After an import that the store did not take: the kernel gets what the store has, if
    /// anything was `entered`.
    fn take_back(
        &mut self,
        entered: bool,
        scopes: &[NewScope],
        adopted: &[(Digest, KeyEntry)],
    ) -> Result<(), ApiError> {
        if entered {
            self.publish_keys()?;
            self.plane.set_keys(adopted)?;
            for scope in scopes {
                self.plane
                    .set_limits(scope.record.id, &abi::Limits::default())?;
            }
        }
        self.drop_unused_texts()?;
        Ok(())
    }
}

/// Adds keys, or, once something is wrong, only looks what else is.
fn store_keys(
    store: &Store,
    keys: &mut [(u64, NewKey)],
    problems: &mut Problems,
    now: DateTime<Utc>,
    tell: Tell<'_>,
) -> Result<(), ApiError> {
    let total = keys.len() as u64;
    for (index, (line, new)) in keys.iter_mut().enumerate() {
        if index.is_multiple_of(STRIDE) {
            tell(ImportPhase::Storing, index as u64, total);
        }
        let known = if problems.is_empty() {
            add(store, new, now)?
        } else {
            store.key_by_digest(new.digest)?
        };
        if let Some(KeyRecord { id, scope, .. }) = known {
            let scope = scope.to_string();
            problems.note(*line, || StoreError::KeyExists { id, scope }.into());
        }
    }
    Ok(())
}

/// Adds a key; what is known already, if it is.
fn add(store: &Store, new: &mut NewKey, now: DateTime<Utc>) -> Result<Option<KeyRecord>, ApiError> {
    while !store.try_add_key(new, now)? {
        if let Some(known) = store.key_by_digest(new.digest)? {
            return Ok(Some(known));
        }
        // It was the id: 50 random bits meet again rarely, but they do.
        new.id = key::generate_id()?;
    }
    Ok(None)
}

/// Puts scopes and keys into force; keys that the kernel knows keep when they were last used.
fn enter(
    plane: &mut dyn Plane,
    scopes: &[NewScope],
    keys: &[(u64, NewKey)],
    adopted: &[(Digest, KeyEntry)],
    now: DateTime<Utc>,
    tell: Tell<'_>,
) -> Result<(), KernelError> {
    for scope in scopes {
        let id = scope.record.id;
        plane.clear_state(id);
        plane.set_allowed(id, DayCount::default());
        plane.set_ended(id, None)?;
        plane.raise_day_count(id, day_of(now), scope.usage.used);
        plane.set_limits(id, &scope.published)?;
    }
    let last_used: HashMap<Digest, u64> = adopted
        .iter()
        .map(|(digest, entry)| (*digest, entry.last_used_ns))
        .collect();
    let total = keys.len() as u64;
    let mut entered = 0;
    for keys in keys.chunks(STRIDE) {
        tell(ImportPhase::Entering, entered, total);
        let entries: Vec<(Digest, KeyEntry)> = keys
            .iter()
            .map(|(_, new)| {
                let entry = KeyEntry {
                    scope: new.scope_id,
                    flags: 0,
                    last_used_ns: last_used.get(&new.digest).copied().unwrap_or(0),
                };
                (new.digest, entry)
            })
            .collect();
        plane.set_keys(&entries)?;
        entered += keys.len() as u64;
    }
    Ok(())
}
