// SPDX-License-Identifier: MIT OR Apache-2.0

//! Registration of the keys of a file. Either all keys are registered or none.

use std::collections::{HashMap, HashSet};

use chrono::{DateTime, Utc};
use limiter_common::{
    abi::{self, Digest, KeyEntry},
    day::DayCount,
};

use super::{
    csv_import::{KeyFile, Problems, Progress, STRIDE, read},
    import_plan::{NewScope, Plan, Planner, look_alikes},
    lifecycle::keys_full,
};
use crate::{
    domain::{key, key_state::KeyState, plain::counted},
    engine::{
        caller::Caller, fleet::objects::ObjectName, publish::keys::adopted,
        scopes::registry::Scope, shared::Shared, state::Engine, time::day_of,
    },
    kernel::{KernelError, Plane},
    protocol::{
        error::ApiError,
        views::{ImportPhase, ImportView, Imported},
    },
    store::{KeyRecord, NewKey, ScopeRecord, Store},
};

/// The right to run an import, which only one import has at a time. Dropping it lets another import
/// run.
pub(crate) struct ImportPermit<'a>(&'a Shared);

impl<'a> ImportPermit<'a> {
    pub(crate) fn take(shared: &'a Shared) -> Result<Self, ApiError> {
        let mut import = shared.lock_import();
        if import.is_some() {
            return Err(ApiError::conflict(
                "another file of keys is being imported: try again when that import is done",
            ));
        }
        *import = Some(ImportView::default());
        Ok(Self(shared))
    }
}

impl Drop for ImportPermit<'_> {
    fn drop(&mut self) {
        *self.0.lock_import() = None;
    }
}

impl Shared {
    /// Registers the keys of a file, either all of them or none, and creates missing scopes. The
    /// engine is not locked while the file is read.
    ///
    /// # Errors
    /// Returns an error if lines of the file are wrong, another import is running, or a table is
    /// full.
    pub fn import_csv(&self, text: &[u8], caller: &Caller) -> Result<Imported, ApiError> {
        let turn = ImportPermit::take(self)?;
        let progress = |phase, done, total| {
            *turn.0.lock_import() = Some(ImportView { phase, done, total });
            self.pulse.step();
        };
        let secret = self.engine().secret();
        let file = read(text, *secret, &progress)?;
        self.engine().import(file, caller, &progress)
    }

    /// Returns the progress of the import that is running.
    pub fn import_view(&self) -> Option<ImportView> {
        *self.lock_import()
    }
}

/// An import in progress.
struct Import {
    scopes: Vec<NewScope>,
    keys: Vec<(u64, NewKey)>,
    problems: Problems,
    /// The keys of the file for which the kernel has already created scopes, with their entries in
    /// the kernel.
    adopted: Vec<(Digest, KeyEntry)>,
    warnings: Vec<String>,
    /// Whether anything may have been entered into the kernel.
    entered: bool,
    /// Whether other hosts have to get the scopes and keys, too.
    in_fleet: bool,
}

impl Engine {
    pub(crate) fn import(
        &mut self,
        file: KeyFile,
        caller: &Caller,
        progress: Progress<'_>,
    ) -> Result<Imported, ApiError> {
        if self.detached {
            return Err(ApiError::failed(
                "the daemon is ending: nothing is in force",
            ));
        }
        // No allowance can be extended while the import holds the engine, and requests might have
        // to wait too long for an extension. During this time, they are therefore not held to their
        // allowances.
        self.clock.words().leave();
        let mut import = self.plan_import(file, caller.now)?;
        let size = self.setup.config().tables.keys;
        let plane = self.plane.as_mut();
        let imported = self
            .store
            .change_in_bulk(|store| import.write(store, plane, size, caller, progress));
        match imported {
            // All keys of the file were already registered.
            Ok(imported) if imported.keys == 0 => Ok(imported),
            Ok(imported) => {
                self.finish_import(import, caller)?;
                let message = format!(
                    "{} imported, {}",
                    counted(imported.keys, "key"),
                    counted(imported.scopes, "new scope")
                );
                self.events
                    .add_change(caller, "key import --csv", None, None, message);
                Ok(imported)
            }
            Err(error) => {
                if let Err(error) = self.undo_import(&import) {
                    log::error!("cannot undo an import: {}", error.message);
                }
                Err(error)
            }
        }
    }

    fn plan_import(&mut self, file: KeyFile, now: DateTime<Utc>) -> Result<Import, ApiError> {
        let planner = Planner {
            scopes: &self.scopes,
            unknown: &self.unknown,
            plane: self.plane.as_ref(),
            setup: &self.setup,
        };
        let Plan {
            scopes,
            keys,
            problems,
        } = planner.plan(file, now)?;
        let mut adopted = adopted(self.plane.as_ref())?;
        if !adopted.is_empty() {
            let new: HashSet<Digest> = keys.iter().map(|(_, new)| new.digest).collect();
            adopted.retain(|(digest, _)| new.contains(digest));
        }
        let warnings = look_alikes(&scopes, &self.scopes);
        let scopes = scopes
            .into_iter()
            .map(|record| self.prepare(record, now))
            .collect::<Result<_, _>>()?;
        Ok(Import {
            scopes,
            keys,
            problems,
            adopted,
            warnings,
            entered: false,
            in_fleet: self.fleet.is_some(),
        })
    }

    /// Looks up the limits and today's usage of a scope that will be created.
    fn prepare(&mut self, record: ScopeRecord, now: DateTime<Utc>) -> Result<NewScope, ApiError> {
        // The counts of a removed scope with the same name continue.
        let generation = self.store.removed_generation(record.name.as_str())?;
        let record = ScopeRecord {
            generation,
            ..record
        };
        let in_force = self.setup.effective(&record)?;
        let published = self.kernel_limits(&in_force)?;
        // A scope that was removed and created again on the same day continues with its count.
        let usage = self.store.usage_of(record.name.as_str(), day_of(now))?;
        Ok(NewScope {
            published,
            usage: usage.unwrap_or_default(),
            in_force,
            record,
        })
    }

    /// Adds the new scopes to memory after they have been added to the store and the kernel.
    fn finish_import(&mut self, import: Import, caller: &Caller) -> Result<(), ApiError> {
        if let Some(last) = import.scopes.last() {
            self.scopes.search_after(last.record.id);
        }
        let today = day_of(caller.now);
        for new in import.scopes {
            let (name, in_force) = (new.record.name.clone(), new.in_force);
            let scope = Scope::new(new.record, new.in_force, new.usage, today);
            self.scopes.insert(scope);
            self.follow_quota(&name, &in_force)?;
        }
        let adopted: Vec<Digest> = import.adopted.iter().map(|(key, _)| *key).collect();
        self.drop_unknown(&adopted, caller.now)
    }

    /// Restores the state of the kernel after an import has failed.
    fn undo_import(&mut self, import: &Import) -> Result<(), ApiError> {
        if import.entered {
            self.publish_keys()?;
            self.plane.set_keys(&import.adopted)?;
            for scope in &import.scopes {
                self.plane
                    .set_limits(scope.record.id, &abi::Limits::default())?;
            }
        }
        self.drop_unused_texts()?;
        Ok(())
    }
}

impl Import {
    /// Writes the scopes and keys to the store and to the kernel, within a transaction of the
    /// store.
    ///
    /// # Errors
    /// Returns an error if lines of the file are wrong, if there would be more keys than the
    /// table's `size`, or if the store or the kernel reports an error.
    fn write(
        &mut self,
        store: &Store,
        plane: &mut dyn Plane,
        size: u32,
        caller: &Caller,
        progress: Progress<'_>,
    ) -> Result<Imported, ApiError> {
        for scope in &self.scopes {
            let ScopeRecord {
                id,
                name,
                tier,
                generation,
                ..
            } = &scope.record;
            store.add_scope(*id, name, tier, caller.now)?;
            if *generation > 0 {
                store.set_generation(*id, *generation)?;
            }
            store.release(*id)?;
        }
        let problems = &mut self.problems;
        let already_there = store_keys(store, &mut self.keys, problems, caller.now, progress)?;
        if let Some(error) = std::mem::take(problems).into_error() {
            return Err(error);
        }
        // The size is checked only now, because keys that were already registered need no
        // additional room.
        if store.key_count()? > u64::from(size) {
            return Err(keys_full(store, size)?);
        }
        let imported = Imported {
            keys: self.keys.len() as u64,
            scopes: self.scopes.len() as u64,
            already_there,
            warnings: std::mem::take(&mut self.warnings),
        };
        if imported.keys == 0 {
            return Ok(imported);
        }
        if self.in_fleet {
            self.mark_pending(store)?;
        }
        let detail = format!(
            "{}, {}",
            counted(imported.keys, "key"),
            counted(imported.scopes, "new scope")
        );
        store.audit(&caller.entry("key import --csv", "", &detail))?;
        // The kernel is changed last, but before the commit. If keys cannot be entered into the
        // kernel, the transaction is therefore not committed, and the store does not get them
        // either.
        self.entered = true;
        enter(plane, self, caller.now, progress)?;
        progress(ImportPhase::Committing, 0, 0);
        Ok(imported)
    }
}

impl Import {
    /// Marks the scopes and keys as objects that the fleet's engine does not know yet.
    fn mark_pending(&self, store: &Store) -> Result<(), ApiError> {
        for scope in &self.scopes {
            let name = ObjectName::Scope(scope.record.name.clone());
            store.set_pending(&name.to_string())?;
        }
        for (_, key) in &self.keys {
            store.set_pending(&ObjectName::Key(key.digest).to_string())?;
        }
        Ok(())
    }
}

/// Adds keys to the store. After the first problem, only looks for further problems. Removes from
/// `keys` those that are already registered for the same scope, and returns the number of removed
/// keys.
fn store_keys(
    store: &Store,
    keys: &mut Vec<(u64, NewKey)>,
    problems: &mut Problems,
    now: DateTime<Utc>,
    progress: Progress<'_>,
) -> Result<u64, ApiError> {
    let total = keys.len() as u64;
    let mut already_there = HashSet::new();
    for (index, (line, new)) in keys.iter_mut().enumerate() {
        if index.is_multiple_of(STRIDE) {
            progress(ImportPhase::Storing, index as u64, total);
        }
        let known = if problems.is_empty() {
            add(store, new, now)?
        } else {
            store.key_by_digest(new.digest)?
        };
        match known.map(|known| check_same_scope(&known, new)) {
            None => {}
            Some(Ok(())) => {
                already_there.insert(new.digest);
            }
            Some(Err(problem)) => problems.note(*line, || problem),
        }
    }
    // Each digest belongs to one line, since no two lines have the same key.
    keys.retain(|(_, new)| !already_there.contains(&new.digest));
    Ok(already_there.len() as u64)
}

/// Checks that `known`, a key that is already registered, is not revoked and belongs to the scope
/// of `new`.
fn check_same_scope(known: &KeyRecord, new: &NewKey) -> Result<(), ApiError> {
    if known.scope_id != Some(new.scope_id) || known.state == KeyState::Revoked {
        return Err(known.clone().refusal().into());
    }
    Ok(())
}

/// Adds a key, or returns the record of a key that is already registered.
fn add(store: &Store, new: &mut NewKey, now: DateTime<Utc>) -> Result<Option<KeyRecord>, ApiError> {
    while !store.try_add_key(new, now)? {
        if let Some(known) = store.key_by_digest(new.digest)? {
            return Ok(Some(known));
        }
        // The digest is not registered, so the id must be in use already. This can happen, because
        // an id has only 50 random bits.
        new.id = key::generate_id()?;
    }
    Ok(None)
}

/// Puts scopes and keys into force. Keys that the kernel already has keep the time of their last
/// use.
fn enter(
    plane: &mut dyn Plane,
    import: &Import,
    now: DateTime<Utc>,
    progress: Progress<'_>,
) -> Result<(), KernelError> {
    for scope in &import.scopes {
        let id = scope.record.id;
        plane.clear_state(id);
        plane.set_allowed(id, DayCount::default());
        plane.set_lease(id, &abi::Lease::default());
        plane.set_ended(id, None)?;
        plane.raise_day_count(id, day_of(now), scope.usage.used);
        plane.set_limits(id, &scope.published)?;
    }
    let adopted = import.adopted.iter();
    let last_used: HashMap<Digest, u64> = adopted
        .map(|(digest, entry)| (*digest, entry.last_used_ns))
        .collect();
    let total = import.keys.len() as u64;
    let mut entered = 0;
    for keys in import.keys.chunks(STRIDE) {
        progress(ImportPhase::Entering, entered, total);
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
