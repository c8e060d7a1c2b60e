// SPDX-License-Identifier: MIT OR Apache-2.0

//! Tests of the registry that the hosts of a fleet share. The engine is a map in the test, which
//! accepts changes as the script of the engine does.

mod changes;
mod conflicts;

use std::collections::BTreeMap;

use limiter_fleet::registry::{Base, Object};

use super::host::{Host, caller, name, noon};
use crate::{
    domain::key_state::KeyState,
    engine::{
        fleet::{change::RegistryChange, objects::ObjectName},
        state::Engine,
    },
    protocol::requests::{AddScope, CreateKey},
    store::KeyFilter,
};

const FLEET: &str = "[fleet]\nengine = [\"redis://127.0.0.1:6379\"]\n";

/// The registry of the engine.
#[derive(Default)]
struct Registry(BTreeMap<String, (u64, String)>);

impl Registry {
    /// Changes objects. Returns those that have another revision than the one on which the change
    /// is based.
    fn change(&mut self, objects: &[(Base, Object)]) -> Vec<Object> {
        let mut refused = Vec::new();
        for (base, object) in objects {
            let present = self.0.get(&object.name).cloned().unwrap_or_default();
            let wins = match base {
                Base::Revision(revision) => *revision == present.0,
                Base::Restored => object.revision > present.0,
            };
            if wins {
                let value = (object.revision, object.value.clone());
                self.0.insert(object.name.clone(), value);
            } else {
                let (revision, value) = present;
                let name = object.name.clone();
                refused.push(Object {
                    name,
                    revision,
                    value,
                });
            }
        }
        refused
    }

    fn objects(&self) -> Vec<Object> {
        let objects = self.0.iter();
        objects
            .map(|(name, (revision, value))| Object {
                name: name.clone(),
                revision: *revision,
                value: value.clone(),
            })
            .collect()
    }
}

fn member() -> Host {
    let mut host = Host::new(FLEET);
    host.engine().enter_fleet("f", &caller(noon())).unwrap();
    host
}

/// Prepares a change on `host`, makes it on the engine, and then on `host`.
fn change<P: RegistryChange, T>(
    host: &mut Host,
    registry: &mut Registry,
    prepare: impl FnOnce(&Engine) -> P,
    commit: impl FnOnce(&mut Engine, P) -> T,
) -> T {
    let engine = host.engine();
    let prepared = prepare(engine);
    let objects = prepared.objects(engine, &caller(noon())).unwrap();
    let objects = engine.planned(objects).unwrap();
    assert!(registry.change(&objects).is_empty());
    let value = commit(engine, prepared);
    engine.note_accepted(&objects).unwrap();
    value
}

fn add_scope(host: &mut Host, registry: &mut Registry, scope: &str) {
    let request = AddScope {
        scope: name(scope),
        tier: None,
    };
    change(
        host,
        registry,
        |engine| engine.prepare_add_scope(request, &caller(noon())).unwrap(),
        |engine, addition| engine.commit_add_scope(addition, &caller(noon())).unwrap(),
    );
}

/// Returns the id of the new key.
fn create_key(host: &mut Host, registry: &mut Registry, scope: &str) -> String {
    let request = CreateKey {
        scope: name(scope),
        label: Some("ci".to_owned()),
        until: None,
        note: None,
    };
    let created = change(
        host,
        registry,
        |engine| engine.prepare_create_key(request, &caller(noon())).unwrap(),
        |engine, creation| engine.commit_create_key(creation, &caller(noon())).unwrap(),
    );
    created.id
}

fn set_state(host: &mut Host, registry: &mut Registry, id: &str, state: KeyState) {
    change(
        host,
        registry,
        |engine| {
            let by = caller(noon());
            engine
                .prepare_set_key_state(id, (state, None), &by)
                .unwrap()
        },
        |engine, change| {
            engine
                .commit_set_key_state(change, &caller(noon()))
                .unwrap()
        },
    );
}

/// Changes the state of a key while the engine cannot be used.
fn set_state_without_engine(host: &mut Host, id: &str, state: KeyState) {
    let engine = host.engine();
    engine.set_key_state(id, state, &caller(noon())).unwrap();
    let key = engine.store.key(id).unwrap().unwrap();
    let object = ObjectName::Key(key.digest).to_string();
    engine
        .store
        .change(|store| store.set_pending(&object))
        .unwrap();
}

fn remove_scope(host: &mut Host, registry: &mut Registry, scope: &str) {
    change(
        host,
        registry,
        |engine| engine.prepare_remove_scope(&name(scope), true).unwrap(),
        |engine, removal| {
            engine
                .commit_remove_scope(removal, &caller(noon()))
                .unwrap()
        },
    );
}

fn reset(host: &mut Host, registry: &mut Registry, scope: &str) {
    change(
        host,
        registry,
        |engine| engine.prepare_reset(&name(scope), "typo").unwrap(),
        |engine, reset| engine.commit_reset(reset, &caller(noon())).unwrap(),
    );
}

/// Makes the changes of the registry on `host`.
#[track_caller]
fn read(host: &mut Host, registry: &Registry) {
    let applied = host.engine().apply_objects(registry.objects());
    assert_eq!(applied.problems, Vec::<String>::new());
}

/// Returns the scopes and keys of a host, without what only this host knows.
fn content(host: &mut Host) -> (Vec<String>, Vec<String>) {
    let engine = host.engine();
    let scopes = engine.scopes.iter().map(|scope| {
        let record = &scope.record;
        let limits_override = &record.limits_override;
        let (tier, mode) = (&record.tier, record.mode);
        format!(
            "{} {tier} {limits_override:?} {mode:?} {}",
            record.name, record.generation
        )
    });
    let scopes = scopes.collect();
    let mut keys = Vec::new();
    for which in [KeyFilter::All, KeyFilter::Removed(None)] {
        for key in engine.store.keys(which).unwrap() {
            let has_scope = key.scope_id.is_some();
            let (digest, label, state) = (key.digest, key.label, key.state);
            keys.push(format!(
                "{} {} {has_scope} {digest:x?} {label:?} {state}",
                key.id, key.scope
            ));
        }
    }
    keys.sort();
    (scopes, keys)
}

/// Two hosts that know a key of the scope `acme`.
struct SharedKey {
    one: Host,
    two: Host,
    registry: Registry,
    id: String,
}

impl SharedKey {
    /// The first host cannot reach the engine, and gives the key the state `state`. The second host
    /// disables the key, and enables it again.
    fn in_conflict(state: KeyState) -> Self {
        let (mut one, mut two, mut registry) = (member(), member(), Registry::default());
        add_scope(&mut one, &mut registry, "acme");
        let id = create_key(&mut one, &mut registry, "acme");
        read(&mut two, &registry);
        set_state_without_engine(&mut one, &id, state);
        for state in [KeyState::Disabled, KeyState::Active] {
            set_state(&mut two, &mut registry, &id, state);
        }
        Self {
            one,
            two,
            registry,
            id,
        }
    }
}
