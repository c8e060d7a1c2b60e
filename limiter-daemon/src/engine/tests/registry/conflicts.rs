// SPDX-License-Identifier: MIT OR Apache-2.0

//! Changes that some hosts or the engine do not know, and objects that a host cannot use.

use chrono::TimeDelta;
use limiter_fleet::registry::Object;

use super::{
    super::host::{Host, caller, name, noon},
    FLEET, Registry, SharedKey, add_scope, change, content, create_key, member, read, remove_scope,
    reset, set_state,
};
use crate::{
    domain::key_state::KeyState,
    protocol::requests::{AddScope, End, RevokeKey},
    store::NewKey,
};

#[test]
fn a_key_that_was_revoked_without_the_engine_stays_revoked() {
    let SharedKey {
        mut one,
        mut two,
        mut registry,
        id,
    } = SharedKey::in_conflict(KeyState::Revoked);
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
fn a_key_whose_end_was_moved_is_not_revoked_by_a_host_that_was_away() {
    let (mut one, mut two, mut registry) = (member(), member(), Registry::default());
    add_scope(&mut one, &mut registry, "acme");
    let id = create_key(&mut one, &mut registry, "acme");
    let end = |host: &mut Host, registry: &mut Registry, at: Option<TimeDelta>| {
        let at = at.map_or(End::Never, |at| End::At(noon() + at));
        let request = RevokeKey {
            at: Some(at),
            note: None,
        };
        change(
            host,
            registry,
            |engine| {
                let by = caller(noon());
                engine.prepare_revoke_key(&id, request, &by).unwrap()
            },
            |engine, change| {
                let by = caller(noon());
                engine.commit_key_change(change, &by).unwrap()
            },
        );
    };
    end(&mut one, &mut registry, Some(TimeDelta::hours(1)));
    read(&mut two, &registry);
    two.engine().note_current(noon());
    // While the second host is away, the end is removed, and then the time comes.
    end(&mut one, &mut registry, None);
    let later = noon() + TimeDelta::hours(2);
    for host in [&mut one, &mut two] {
        host.engine().tick(later);
    }
    read(&mut two, &registry);
    for host in [&mut one, &mut two] {
        host.engine().note_current(later);
        host.engine().tick(later);
        let key = host.engine().store.key(&id).unwrap().unwrap();
        assert_eq!((key.state, key.until), (KeyState::Active, None));
        assert!(!host.engine().has_pending());
    }
    // A key that really ends is revoked by each host, which sends nothing.
    end(&mut one, &mut registry, Some(TimeDelta::hours(1)));
    read(&mut two, &registry);
    for host in [&mut one, &mut two] {
        host.engine().tick(later);
        let key = host.engine().store.key(&id).unwrap().unwrap();
        assert_eq!(key.state, KeyState::Revoked);
        assert!(!host.engine().has_pending());
    }
    read(&mut one, &registry);
    assert!(!one.engine().has_pending());
}

#[test]
fn a_later_change_of_another_host_wins_over_one_without_the_engine() {
    let mut key = SharedKey::in_conflict(KeyState::Disabled);
    let engine = key.one.engine();
    let pending = engine.pending_objects(&caller(noon())).unwrap();
    let refused = key.registry.change(&pending);
    assert_eq!(refused.len(), 1);
    engine.yield_to(refused);
    assert!(!engine.has_pending());
    let key = engine.store.key(&key.id).unwrap().unwrap();
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
        until: None,
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
