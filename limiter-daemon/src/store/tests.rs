//! The store keeps what it is given.

use chrono::{DateTime, Utc};
use limiter_common::day::Day;

use super::*;
use crate::{
    limits::{Bound, Changes, Override},
    scope::ScopeName,
};

fn store() -> (tempfile::TempDir, Store) {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path()).unwrap();
    (directory, store)
}

fn now() -> DateTime<Utc> {
    DateTime::from_timestamp_millis(1_800_000_000_123).unwrap()
}

fn name(text: &str) -> ScopeName {
    text.parse().unwrap()
}

fn key(id: &str, scope_id: u32, digest: [u64; 2]) -> NewKey {
    NewKey {
        id: id.to_owned(),
        scope_id,
        digest,
        label: None,
    }
}

#[test]
fn scopes_keys_and_overrides_survive_a_new_start() {
    let (directory, store) = store();
    store
        .add_scope(4, &name("acme/web"), "profile", now())
        .unwrap();
    store.add_key(&key("k_1", 4, [1, u64::MAX]), now()).unwrap();
    let own = Override {
        changes: Changes {
            daily_quota: Some(Bound::Unlimited),
            ..Changes::default()
        },
        until: Some(now()),
        note: "sync".to_owned(),
    };
    store.set_override(4, &own, now()).unwrap();
    drop(store);
    let store = Store::open(directory.path()).unwrap();
    let scopes = store.scopes().unwrap();
    assert_eq!(scopes.len(), 1);
    assert_eq!((scopes[0].id, scopes[0].own.as_ref()), (4, Some(&own)));
    let keys = store.keys(Some(4)).unwrap();
    assert_eq!(keys[0].digest, [1, u64::MAX]);
    assert_eq!(keys[0].created_at, now());
    assert_eq!(store.key("k_2").unwrap(), None);
}

#[test]
fn a_key_belongs_to_one_scope_once() {
    let (_directory, store) = store();
    store.add_scope(0, &name("acme"), "master", now()).unwrap();
    store.add_scope(1, &name("beta"), "master", now()).unwrap();
    store.add_key(&key("k_1", 0, [7, 7]), now()).unwrap();
    let error = store.add_key(&key("k_2", 1, [7, 7]), now()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "this key is registered already, as k_1 of acme"
    );
    assert!(matches!(
        store.add_scope(2, &name("acme"), "master", now()),
        Err(StoreError::ScopeExists(_))
    ));
}

#[test]
fn a_change_that_fails_changes_nothing() {
    let (_directory, mut store) = store();
    let done: Result<(), StoreError> = store.change(|store| {
        store.add_scope(0, &name("acme"), "master", now())?;
        store.add_scope(1, &name("acme"), "master", now())
    });
    assert!(done.is_err());
    assert!(store.scopes().unwrap().is_empty());
}

#[test]
fn usage_is_kept_by_name_beyond_the_scope() {
    let (_directory, mut store) = store();
    store.add_scope(3, &name("acme"), "master", now()).unwrap();
    let refused = Refusals {
        rate: 1,
        concurrency: 2,
        connections: 3,
        daily_quota: 4,
    };
    let usage = DayUsage {
        used: 9,
        allowed: 20,
        lost: 3,
        refused,
        would_refuse: refused,
    };
    let seen = Seen {
        day: Day(5),
        used: 9,
        admitted: 12,
        refused,
        would_refuse: refused,
    };
    store
        .lightly(|store| {
            store.set_usage("acme", Day(5), &usage)?;
            store.set_seen(3, "map", &seen)
        })
        .unwrap();
    assert_eq!(store.seen("map").unwrap(), [(3, seen)]);
    assert!(store.seen("another map").unwrap().is_empty());
    store.change(|store| store.remove_scope(3)).unwrap();
    assert_eq!(store.usage_of("acme", Day(5)).unwrap(), Some(usage));
    assert_eq!(store.usage_on(Day(6)).unwrap(), []);
    assert_eq!(store.retired().unwrap(), [3]);
    store.release(3).unwrap();
    assert!(store.retired().unwrap().is_empty());
}

#[test]
fn a_newer_store_is_left_alone() {
    let (directory, store) = store();
    store
        .connection
        .pragma_update(None, "user_version", SCHEMA_VERSION + 1)
        .unwrap();
    drop(store);
    assert!(matches!(
        Store::open(directory.path()),
        Err(StoreError::Newer { .. })
    ));
}

#[test]
fn meta_values_are_remembered() {
    let (_directory, store) = store();
    assert_eq!(store.meta("maps").unwrap(), None);
    store.set_meta("maps", "1").unwrap();
    store.set_meta("maps", "2").unwrap();
    assert_eq!(store.meta("maps").unwrap().as_deref(), Some("2"));
}
