// SPDX-License-Identifier: MIT OR Apache-2.0

//! Changes of scopes and keys by operators. In a fleet, a change is made on the engine first, and
//! then on this host.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use chrono::Utc;
use limiter_fleet::{
    client::Error,
    registry::{Base, ChangeResult, Object},
};

use super::{
    describe::HostText,
    link::{AWAY, FleetLink, NO_RECALLS},
    objects::{KeyObject, NewValue, Origin, ScopeObject},
    registry::removed_scope,
    sync::sync,
};
use crate::{
    domain::key_state::KeyState,
    engine::{
        caller::Caller,
        counts::usage::CountReset,
        keys::{
            lifecycle::{KeyChange, KeyStateChange},
            registration::{KeyCreation, KeyImport},
        },
        scopes::{
            lifecycle::{ScopeAddition, ScopeRemoval},
            limits::{LimitsChange, ModeChange},
            tiers::TierChange,
        },
        shared::{Shared, unfinished},
        state::Engine,
    },
    protocol::{error::ApiError, fleet::Changed, views::Imported},
};

/// The longest time for which a command waits for the other hosts.
const OTHERS: Duration = Duration::from_secs(2);
/// The time between two looks at the other hosts.
const LOOK: Duration = Duration::from_millis(50);
/// The number of objects in one call to the engine.
pub(super) const OBJECTS: usize = 500;

/// A prepared change of scopes or keys.
pub(crate) trait RegistryChange: Send + 'static {
    /// Returns the objects that the change makes or replaces.
    fn objects(&self, engine: &Engine, caller: &Caller) -> Result<Vec<NewValue>, ApiError>;

    /// Returns whether the change is made on this host even if the engine cannot be reached.
    fn is_urgent(&self) -> bool {
        false
    }
}

impl RegistryChange for ScopeAddition {
    fn objects(&self, engine: &Engine, caller: &Caller) -> Result<Vec<NewValue>, ApiError> {
        let name = &self.record.name;
        let object = ScopeObject {
            // A scope that was removed and is added again on the same day continues with its count.
            generation: engine.store.removed_generation(name.as_str())?,
            ..ScopeObject::of(&self.record, Origin::of(caller, None))
        };
        Ok(vec![object.value(name)])
    }
}

impl RegistryChange for ScopeRemoval {
    fn objects(&self, engine: &Engine, caller: &Caller) -> Result<Vec<NewValue>, ApiError> {
        let origin = Origin::of(caller, None);
        let scope = engine.scopes.find(&self.name)?;
        let removed = ScopeObject {
            generation: scope.record.generation,
            ..removed_scope(origin.clone())
        };
        let keys = self.keys.iter().map(|key| {
            let object = KeyObject {
                state: KeyState::Revoked,
                ..KeyObject::of(key, origin.clone())
            };
            object.value(key.digest)
        });
        Ok(keys.chain([removed.value(&self.name)]).collect())
    }
}

impl RegistryChange for LimitsChange {
    fn objects(&self, _: &Engine, caller: &Caller) -> Result<Vec<NewValue>, ApiError> {
        let origin = Origin::of(caller, Some(&self.note));
        Ok(vec![
            ScopeObject::of(&self.record, origin).value(&self.record.name),
        ])
    }
}

impl RegistryChange for TierChange {
    fn objects(&self, _: &Engine, caller: &Caller) -> Result<Vec<NewValue>, ApiError> {
        let origin = Origin::of(caller, Some(&self.note));
        Ok(vec![
            ScopeObject::of(&self.record, origin).value(&self.record.name),
        ])
    }
}

impl RegistryChange for ModeChange {
    fn objects(&self, _: &Engine, caller: &Caller) -> Result<Vec<NewValue>, ApiError> {
        let origin = Origin::of(caller, Some(&self.note));
        Ok(vec![
            ScopeObject::of(&self.record, origin).value(&self.record.name),
        ])
    }
}

impl RegistryChange for CountReset {
    fn objects(&self, engine: &Engine, caller: &Caller) -> Result<Vec<NewValue>, ApiError> {
        let record = &engine.scopes.find(&self.name)?.record;
        let object = ScopeObject {
            generation: self.generation,
            ..ScopeObject::of(record, Origin::of(caller, Some(&self.note)))
        };
        Ok(vec![object.value(&self.name)])
    }
}

impl RegistryChange for KeyCreation {
    fn objects(&self, _: &Engine, caller: &Caller) -> Result<Vec<NewValue>, ApiError> {
        let object = KeyObject::of(&self.record, Origin::of(caller, self.note.as_deref()));
        Ok(vec![object.value(self.record.digest)])
    }
}

impl RegistryChange for KeyImport {
    fn objects(&self, _: &Engine, caller: &Caller) -> Result<Vec<NewValue>, ApiError> {
        let object = KeyObject::of(&self.record, Origin::of(caller, self.note.as_deref()));
        Ok(vec![object.value(self.record.digest)])
    }
}

impl RegistryChange for KeyChange {
    fn objects(&self, engine: &Engine, caller: &Caller) -> Result<Vec<NewValue>, ApiError> {
        match self {
            Self::State(change) => change.objects(engine, caller),
            Self::End(change) => {
                let origin = Origin::of(caller, change.note.as_deref());
                let object = KeyObject::of(&change.record, origin);
                Ok(vec![object.value(change.record.digest)])
            }
        }
    }

    fn is_urgent(&self) -> bool {
        match self {
            Self::State(change) => change.is_urgent(),
            Self::End(_) => false,
        }
    }
}

impl RegistryChange for KeyStateChange {
    fn objects(&self, _: &Engine, caller: &Caller) -> Result<Vec<NewValue>, ApiError> {
        let object = KeyObject::of(&self.record, Origin::of(caller, self.note.as_deref()));
        Ok(vec![object.value(self.record.digest)])
    }

    fn is_urgent(&self) -> bool {
        self.record.state != KeyState::Active
    }
}

/// The result of a change on the engine.
enum Sent {
    /// The registry has this version now.
    Accepted(u64),
    /// Another host was faster. These are its objects.
    Refused(Vec<Object>),
    /// The engine cannot be used.
    Away(Error),
}

impl Shared {
    /// Prepares a change of scopes or keys, and makes it: in a fleet on the engine first, and then
    /// on this host. Then waits for up to two seconds until the other hosts have made it.
    ///
    /// # Errors
    /// Returns the errors of `prepare` and `commit`. In a fleet, also returns an error if the
    /// engine cannot be used, or if another host has changed the same object at the same time. In
    /// these cases, nothing has changed.
    pub(crate) async fn change<P: RegistryChange, T: Send + 'static>(
        self: &Arc<Self>,
        caller: Caller,
        prepare: impl FnOnce(&Engine, &Caller) -> Result<P, ApiError> + Send + 'static,
        commit: impl FnOnce(&mut Engine, P, &Caller) -> Result<T, ApiError> + Send + 'static,
    ) -> Result<Changed<T>, ApiError> {
        let fleet = self.with(|engine| Ok(engine.fleet_id())).await?;
        let Some((link, fleet)) = self.fleet().zip(fleet) else {
            let value = self.with(move |engine| {
                let prepared = prepare(engine, &caller)?;
                commit(engine, prepared, &caller)
            });
            let behind = Vec::new();
            return value.await.map(|value| Changed { value, behind });
        };
        let caller = Caller {
            who: format!("{} on {}", caller.who, link.identity().name),
            now: caller.now,
        };
        // Changes of other hosts wait until this one is complete.
        let turn = link.turn().await;
        let (prepared, objects, caller) = self
            .with(move |engine| {
                let prepared = prepare(engine, &caller)?;
                let objects = engine.planned(prepared.objects(engine, &caller)?)?;
                Ok((prepared, objects, caller))
            })
            .await?;
        let version = match send(&link, &fleet, &objects).await {
            Sent::Accepted(version) => Some(version),
            Sent::Away(error) if !prepared.is_urgent() => return Err(away(error)),
            Sent::Away(_) => None,
            Sent::Refused(objects) => {
                self.with(move |engine| {
                    engine.apply_objects(objects);
                    Ok(())
                })
                .await?;
                return Err(ApiError::conflict(
                    "another host has changed the same object at the same time: look at it, and repeat the command",
                ));
            }
        };
        let value = self
            .with(move |engine| {
                let value = commit(engine, prepared, &caller)?;
                match version {
                    Some(version) => engine.note_own_change(&objects, version)?,
                    None => engine.note_pending(&objects)?,
                }
                Ok(value)
            })
            .await?;
        drop(turn);
        let behind = match version {
            Some(version) => self.wait_for_others(&link, &fleet, version).await,
            None => vec![
                "the engine cannot be used: the change is in force on this host only, and the other hosts get it when the engine answers".to_owned(),
            ],
        };
        Ok(Changed { value, behind })
    }

    /// Registers a file of keys. In a fleet, this host registers them first, and then sends them to
    /// the engine, because the file is registered as a whole or not at all.
    ///
    /// # Errors
    /// Returns the errors of the import. In a fleet, also returns an error if the engine does not
    /// answer.
    pub(crate) async fn import_keys(
        self: &Arc<Self>,
        file: axum::body::Bytes,
        caller: Caller,
    ) -> Result<Imported, ApiError> {
        let fleet = self.with(|engine| Ok(engine.fleet_id())).await?;
        let import = |shared: Arc<Self>, caller: Caller| async move {
            tokio::task::spawn_blocking(move || shared.import_csv(&file, &caller))
                .await
                .map_err(|error| unfinished(&error))?
        };
        let Some((link, fleet)) = self.fleet().zip(fleet) else {
            return import(Arc::clone(self), caller).await;
        };
        if !link.news().is_up(Utc::now()) {
            return Err(ApiError::failed(
                "the engine of the fleet does not answer, so nothing was imported: `limiter fleet status` shows its state",
            ));
        }
        let caller = Caller {
            who: format!("{} on {}", caller.who, link.identity().name),
            now: caller.now,
        };
        let turn = link.turn().await;
        let mut imported = import(Arc::clone(self), caller).await?;
        drop(turn);
        let synced = sync(self, &link).await;
        let has_pending = self.with(|engine| Ok(engine.has_pending())).await?;
        if synced.is_err() || has_pending {
            imported.warnings.push(
                "the engine does not have all of these keys yet: this host sends the rest when the engine answers"
                    .to_owned(),
            );
            return Ok(imported);
        }
        let version = link.news().version;
        let behind = self.wait_for_others(&link, &fleet, version).await;
        imported.warnings.extend(behind);
        Ok(imported)
    }

    /// Waits until all hosts of the fleet have the version `version` of the registry, but for at
    /// most two seconds. Returns a warning for each host that does not have it then.
    async fn wait_for_others(
        self: &Arc<Self>,
        link: &Arc<FleetLink>,
        fleet: &str,
        version: u64,
    ) -> Vec<String> {
        let until = Instant::now() + OTHERS;
        loop {
            let text = HostText::of(self, link).await;
            let beat = match link.beat(fleet, &text, NO_RECALLS, true).await {
                Ok(beat) => beat,
                Err(error) => {
                    return vec![format!(
                        "it is not known whether the other hosts have the change: {error}"
                    )];
                }
            };
            let mut behind = Vec::new();
            for host in beat.hosts {
                let text: HostText = serde_json::from_str(&host.text).unwrap_or_default();
                let is_silent = beat.time.saturating_sub(host.seen) > AWAY;
                if host.id == link.identity().id || text.version >= version {
                    continue;
                }
                behind.push(match is_silent {
                    true => format!("{} is silent, and does not have the change yet", text.name),
                    false => format!("{} does not have the change yet", text.name),
                });
            }
            if behind.is_empty() || Instant::now() >= until {
                return behind;
            }
            tokio::time::sleep(LOOK).await;
        }
    }
}

/// Sends objects to the engine. It accepts all objects of a call or none, so a change of more
/// than [`OBJECTS`] objects, which only the removal of a scope with many keys is, may be made in
/// part. The scope is sent last.
async fn send(link: &FleetLink, fleet: &str, objects: &[(Base, Object)]) -> Sent {
    let mut version = link.news().version;
    let mut client = link.client().await;
    let mut refused = Vec::new();
    for some in objects.chunks(OBJECTS) {
        match client.change(fleet, some).await {
            Ok((now, results)) => {
                version = now;
                refused.extend(results.into_iter().filter_map(|result| match result {
                    ChangeResult::Accepted => None,
                    ChangeResult::Refused(present) => Some(present),
                }));
            }
            Err(error) => return Sent::Away(error),
        }
    }
    match refused.is_empty() {
        true => Sent::Accepted(version),
        false => Sent::Refused(refused),
    }
}

fn away(error: Error) -> ApiError {
    match error {
        Error::NoFleet | Error::OtherFleet(_) | Error::Duplicate => error.into(),
        Error::Unconfirmed(_) => ApiError::failed(format!(
            "the change was made on the engine, but may be lost: {error}. This host makes the change if the engine keeps it"
        )),
        _ => ApiError::failed(format!(
            "the engine of the fleet cannot be reached, so nothing was changed: {error}"
        )),
    }
}

impl Engine {
    /// Records a change that this host has made on the engine.
    fn note_own_change(
        &mut self,
        objects: &[(Base, Object)],
        version: u64,
    ) -> Result<(), ApiError> {
        self.note_accepted(objects)?;
        let Some(member) = &self.fleet else {
            return Ok(());
        };
        // If another host has changed something in between, the registry is read from the previous
        // version on.
        let mut state = member.registry.clone();
        if state.version + objects.len() as u64 == version {
            state.version = version;
            self.set_registry_state(state)?;
        }
        Ok(())
    }

    fn note_pending(&mut self, objects: &[(Base, Object)]) -> Result<(), ApiError> {
        self.store.change(|store| {
            objects
                .iter()
                .try_for_each(|(_, object)| store.set_pending(&object.name))
        })?;
        Ok(())
    }
}
