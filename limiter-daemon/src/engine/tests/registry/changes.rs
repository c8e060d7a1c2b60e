// SPDX-License-Identifier: MIT OR Apache-2.0

//! Changes that are made on one host, and read by the others.

use super::{
    super::host::{TODAY, caller, name, noon},
    Registry, add_scope, change, content, create_key, member, read, remove_scope, reset, set_state,
};
use crate::{
    domain::{bound::Bound, key_state::KeyState, limits::Changes},
    protocol::requests::{ScopeMode, SetLimits, SetMode},
};

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
        |engine, change| engine.commit_limits(change, &caller(noon())).unwrap(),
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
