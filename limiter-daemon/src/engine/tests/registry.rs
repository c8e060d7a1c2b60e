// SPDX-License-Identifier: MIT OR Apache-2.0

//! Tests of the registry that the hosts of a fleet share. The engine is a map in the test, which
//! accepts changes as the script of the engine does.

use std::collections::BTreeMap;

use chrono::TimeDelta;
use limiter_fleet::registry::{Base, Object};

use super::host::{Host, TODAY, caller, name, noon};
use crate::{
    domain::{bound::Bound, key_state::KeyState, limits::Changes},
    engine::{
        fleet::{change::RegistryChange, objects::ObjectName},
        state::Engine,
    },
    protocol::requests::{AddScope, CreateKey, ScopeMode, SetLimits, SetMode},
    store::{KeyFilter, NewKey},
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
            engine.prepare_set_key_state(id, state, &by).unwrap()
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

#[test]
fn changes_of_one_host_are_made_on_the_others() {
    let (mut one, mut two, mut registry) = (member(), member(), Registry::default());
    add_scope(&mut one, &mut registry, "acme");
    add_scope(&mut one, &mut registry, "acme/web");
    let first = create_key(&mut one, &mut registry, "acme");
    let second = create_key(&mut one, &mut registry, "acme/web");
    read(&mut two, &registry);
    assert_eq!(content(&mut one), content(&mut two));
    // The other host goes on from there.
    let limits = SetLimits {
        limits: Changes {
            daily_quota: Some(Bound::At(77)),
            ..Changes::default()
        },
        until: None,
        for_all: false,
        note: "sync".to_owned(),
    };
    change(
        &mut two,
        &mut registry,
        |engine| {
            let by = caller(noon());
            engine
                .prepare_set_limits(&name("acme"), limits, &by)
                .unwrap()
        },
        |engine, change| engine.commit_set_limits(change, &caller(noon())).unwrap(),
    );
    let mode = SetMode {
        mode: ScopeMode::Observe,
        note: "trial".to_owned(),
    };
    change(
        &mut two,
        &mut registry,
        |engine| engine.prepare_set_mode(&name("acme/web"), &mode).unwrap(),
        |engine, change| engine.commit_set_mode(change, &caller(noon())).unwrap(),
    );
    set_state(&mut two, &mut registry, &first, KeyState::Disabled);
    set_state(&mut two, &mut registry, &second, KeyState::Revoked);
    reset(&mut two, &mut registry, "acme");
    read(&mut one, &registry);
    let (scopes, keys) = content(&mut one);
    assert_eq!((scopes.clone(), keys.clone()), content(&mut two));
    assert!(
        scopes[0].contains("At(77)") && scopes[0].ends_with(" 1"),
        "{scopes:?}"
    );
    assert!(keys.iter().any(|key| key.ends_with("disabled")));
    // A third host reads everything at once. Nothing changes twice.
    let mut three = member();
    read(&mut three, &registry);
    assert_eq!(content(&mut three), (scopes, keys));
    assert_eq!(three.engine().apply_objects(registry.objects()).changed, 0);
}

#[test]
fn a_removed_scope_is_removed_everywhere_and_continues_if_it_is_added_again() {
    let (mut one, mut two, mut registry) = (member(), member(), Registry::default());
    add_scope(&mut one, &mut registry, "acme");
    create_key(&mut one, &mut registry, "acme");
    reset(&mut one, &mut registry, "acme");
    read(&mut two, &registry);
    remove_scope(&mut two, &mut registry, "acme");
    read(&mut one, &registry);
    let (scopes, keys) = content(&mut one);
    assert_eq!((scopes.len(), keys.len()), (0, 1));
    assert!(
        keys[0].contains(" false ") && keys[0].ends_with("revoked"),
        "{keys:?}"
    );
    // A new host gets the key, so that requests with it are refused there, too.
    let mut three = member();
    read(&mut three, &registry);
    assert_eq!(content(&mut three), content(&mut two));
    assert_eq!(content(&mut one), content(&mut two));
    add_scope(&mut three, &mut registry, "acme");
    for host in [&mut one, &mut two, &mut three] {
        read(host, &registry);
        let (scopes, _) = content(host);
        assert!(
            scopes[0].ends_with(" 1"),
            "the generation goes on: {scopes:?}"
        );
    }
}

#[test]
fn a_reset_of_another_host_resets_the_count() {
    let (mut one, mut two, mut registry) = (member(), member(), Registry::default());
    add_scope(&mut one, &mut registry, "acme");
    read(&mut two, &registry);
    let id = two.engine().scopes.find(&name("acme")).unwrap().record.id;
    let now = two.engine().scopes.find(&name("acme")).unwrap();
    let day = now.counts.day;
    two.plane.admit(id, day, 9);
    reset(&mut one, &mut registry, "acme");
    read(&mut two, &registry);
    let scope = two.engine().scopes.find(&name("acme")).unwrap();
    assert_eq!(scope.record.generation, 1);
    assert_eq!(scope.counts.usage.used, 0);
    assert_ne!(
        day, TODAY,
        "changes of other hosts are made at the present time"
    );
}

#[test]
fn a_key_that_was_revoked_without_the_engine_stays_revoked() {
    let (mut one, mut two, mut registry) = (member(), member(), Registry::default());
    add_scope(&mut one, &mut registry, "acme");
    let id = create_key(&mut one, &mut registry, "acme");
    read(&mut two, &registry);
    // Host one cannot reach the engine, and revokes the key. Host two disables and enables it.
    set_state_without_engine(&mut one, &id, KeyState::Revoked);
    set_state(&mut two, &mut registry, &id, KeyState::Disabled);
    set_state(&mut two, &mut registry, &id, KeyState::Active);
    // The engine can be reached again.
    for _ in 0..2 {
        read(&mut one, &registry);
        let pending = one.engine().pending_objects(&caller(noon())).unwrap();
        let refused = registry.change(&pending);
        if refused.is_empty() {
            one.engine().note_accepted(&pending).unwrap();
        }
        one.engine().yield_to(refused);
    }
    assert!(!one.engine().has_pending());
    read(&mut two, &registry);
    for host in [&mut one, &mut two] {
        let key = host.engine().store.key(&id).unwrap().unwrap();
        assert_eq!(key.state, KeyState::Revoked);
    }
}

#[test]
fn a_later_change_of_another_host_wins_over_one_without_the_engine() {
    let (mut one, mut two, mut registry) = (member(), member(), Registry::default());
    add_scope(&mut one, &mut registry, "acme");
    let id = create_key(&mut one, &mut registry, "acme");
    read(&mut two, &registry);
    set_state_without_engine(&mut one, &id, KeyState::Disabled);
    set_state(&mut two, &mut registry, &id, KeyState::Disabled);
    set_state(&mut two, &mut registry, &id, KeyState::Active);
    let pending = one.engine().pending_objects(&caller(noon())).unwrap();
    let refused = registry.change(&pending);
    assert_eq!(refused.len(), 1);
    one.engine().yield_to(refused);
    assert!(!one.engine().has_pending());
    let key = one.engine().store.key(&id).unwrap().unwrap();
    assert_eq!(key.state, KeyState::Active);
}

#[test]
fn an_engine_that_has_lost_changes_gets_them_back() {
    let (mut one, mut registry) = (member(), Registry::default());
    add_scope(&mut one, &mut registry, "acme");
    let before = Registry(registry.0.clone());
    create_key(&mut one, &mut registry, "acme");
    reset(&mut one, &mut registry, "acme");
    // A failover loses the last two changes.
    let mut failed_over = before;
    let of_engine = failed_over
        .objects()
        .into_iter()
        .map(|object| (object.name, object.revision))
        .collect();
    let engine = one.engine();
    let restored = engine
        .objects_to_restore(&of_engine, &caller(noon()))
        .unwrap();
    assert_eq!(restored.len(), 2);
    assert!(failed_over.change(&restored).is_empty());
    let revisions = |registry: &Registry| -> Vec<(String, u64)> {
        let objects = registry.0.iter();
        objects
            .map(|(name, (revision, _))| (name.clone(), *revision))
            .collect()
    };
    assert_eq!(revisions(&failed_over), revisions(&registry));
    let mut two = member();
    read(&mut two, &failed_over);
    assert_eq!(content(&mut one), content(&mut two));
}

#[test]
fn objects_that_cannot_be_applied_are_named() {
    let (mut one, mut two, mut registry) = (
        Host::new(&format!("{FLEET}[tiers.gold]\ndaily_quota = 5\n")),
        member(),
        Registry::default(),
    );
    one.engine().enter_fleet("f", &caller(noon())).unwrap();
    let request = AddScope {
        scope: name("acme"),
        tier: Some("gold".to_owned()),
    };
    change(
        &mut one,
        &mut registry,
        |engine| engine.prepare_add_scope(request, &caller(noon())).unwrap(),
        |engine, addition| engine.commit_add_scope(addition, &caller(noon())).unwrap(),
    );
    create_key(&mut one, &mut registry, "acme");
    let applied = two.engine().apply_objects(registry.objects());
    assert_eq!(applied.changed, 0);
    let problems = applied.problems;
    assert!(problems[0].contains("the scope acme: there is no tier `gold`"));
    assert!(problems[1].contains("this host has no scope acme"));
    // The digest of a key is not shown.
    assert!(problems[1].starts_with("the key k_"), "{problems:?}");
    // An object of a kind that this version does not know changes nothing.
    let later = Object {
        name: "t:gold".to_owned(),
        revision: 3,
        value: "{}".to_owned(),
    };
    let applied = two.engine().apply_objects(vec![later]);
    assert_eq!((applied.changed, applied.problems.len()), (0, 0));
}

#[test]
fn a_scope_whose_tier_is_missing_does_not_revoke_its_keys() {
    let (mut one, mut two, mut registry) = (
        Host::new(&format!("{FLEET}[tiers.gold]\ndaily_quota = 5\n")),
        member(),
        Registry::default(),
    );
    one.engine().enter_fleet("f", &caller(noon())).unwrap();
    add_scope(&mut one, &mut registry, "acme");
    read(&mut two, &registry);
    remove_scope(&mut one, &mut registry, "acme");
    let later = noon() + TimeDelta::seconds(1);
    let request = AddScope {
        scope: name("acme"),
        tier: Some("gold".to_owned()),
    };
    change(
        &mut one,
        &mut registry,
        |engine| engine.prepare_add_scope(request, &caller(later)).unwrap(),
        |engine, addition| engine.commit_add_scope(addition, &caller(noon())).unwrap(),
    );
    let id = create_key(&mut one, &mut registry, "acme");
    let applied = two.engine().apply_objects(registry.objects());
    assert_eq!(applied.problems.len(), 2);
    assert!(two.engine().store.key(&id).unwrap().is_none());
    // With the tier, everything is there.
    two.configure(&format!("{FLEET}[tiers.gold]\ndaily_quota = 5\n"));
    two.engine().reload(&caller(noon())).unwrap();
    let failed = two.engine().failed_objects();
    let applied = two.engine().apply_objects(failed);
    assert_eq!(applied.problems, Vec::<String>::new());
    let key = two.engine().store.key(&id).unwrap().unwrap();
    assert_eq!(key.state, KeyState::Active);
}

#[test]
fn a_key_that_was_revoked_before_its_host_joined_is_revoked_only_there() {
    let (mut one, mut registry) = (member(), Registry::default());
    add_scope(&mut one, &mut registry, "acme");
    let id = create_key(&mut one, &mut registry, "acme");
    let digest = one.engine().store.key(&id).unwrap().unwrap().digest;
    // Another host knows the same key from before.
    let mut two = Host::new(FLEET);
    two.add("acme");
    let engine = two.engine();
    let scope_id = engine.scopes.find(&name("acme")).unwrap().record.id;
    let known = NewKey {
        id: id.clone(),
        scope_id,
        digest,
        label: None,
    };
    let added = engine.store.change(|store| store.add_key(&known, noon()));
    added.unwrap();
    engine
        .set_key_state(&id, KeyState::Revoked, &caller(noon()))
        .unwrap();
    engine.enter_fleet("f", &caller(noon())).unwrap();
    read(&mut two, &registry);
    for state in [KeyState::Disabled, KeyState::Active] {
        set_state(&mut one, &mut registry, &id, state);
        read(&mut two, &registry);
        assert!(!two.engine().has_pending(), "{state}");
    }
    let key = two.engine().store.key(&id).unwrap().unwrap();
    assert_eq!(key.state, KeyState::Revoked);
}

#[test]
fn the_generation_of_a_host_that_joins_is_that_of_the_fleet() {
    let (mut one, mut registry) = (member(), Registry::default());
    add_scope(&mut one, &mut registry, "acme");
    // The other host comes from another fleet, where the scope was reset.
    let mut two = member();
    two.add("acme");
    let engine = two.engine();
    engine
        .reset(&name("acme"), "test", &caller(noon()))
        .unwrap();
    engine.exit_fleet(&caller(noon())).unwrap();
    engine.enter_fleet("f", &caller(noon())).unwrap();
    read(&mut two, &registry);
    let scope = two.engine().scopes.find(&name("acme")).unwrap();
    assert_eq!(scope.record.generation, 0);
}

#[test]
fn the_generation_of_a_removed_scope_is_the_highest_that_is_known() {
    let (mut one, mut two, mut registry) = (member(), member(), Registry::default());
    add_scope(&mut one, &mut registry, "acme");
    read(&mut two, &registry);
    // Host two misses a reset and the removal.
    reset(&mut one, &mut registry, "acme");
    remove_scope(&mut one, &mut registry, "acme");
    read(&mut two, &registry);
    let generation = two.engine().store.removed_generation("acme").unwrap();
    assert_eq!(generation, 1);
    // A file of keys adds the scope again.
    two.import("scope,key\nacme,0123456789abcdef0123456789\n")
        .unwrap();
    let scope = two.engine().scopes.find(&name("acme")).unwrap();
    assert_eq!(scope.record.generation, 1);
}
