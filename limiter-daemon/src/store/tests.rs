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

fn entry(action: &'static str, object: &'static str, at: DateTime<Utc>) -> AuditEntry<'static> {
    AuditEntry {
        at,
        who: "root (uid 0)",
        action,
        object,
        detail: "",
        note: None,
    }
}

fn everything() -> AuditFilter {
    AuditFilter {
        object: None,
        since: None,
        limit: 1000,
    }
}

#[test]
fn the_audit_trail_is_told_from_its_oldest_entry_and_in_part() {
    let (_directory, store) = store();
    let later = now() + chrono::TimeDelta::hours(1);
    store.audit(&entry("scope add", "acme", now())).unwrap();
    store.audit(&entry("scope add", "beta", later)).unwrap();
    let noted = AuditEntry {
        note: Some("sync"),
        ..entry("limits set", "acme", later)
    };
    store.audit(&noted).unwrap();
    let told = |filter: AuditFilter| -> Vec<String> {
        let entries = store.audit_trail(&filter).unwrap();
        let words = |entry: AuditRecord| format!("{} {}", entry.action, entry.object);
        entries.into_iter().map(words).collect()
    };
    let all = ["scope add acme", "scope add beta", "limits set acme"];
    assert_eq!(told(everything()), all);
    let last = AuditFilter {
        limit: 2,
        ..everything()
    };
    assert_eq!(told(last), all[1..]);
    let since = AuditFilter {
        since: Some(later),
        ..everything()
    };
    assert_eq!(told(since), all[1..]);
    let acme = AuditFilter {
        object: Some("acme".to_owned()),
        ..everything()
    };
    assert_eq!(told(acme.clone()), [all[0], all[2]]);
    let entries = store.audit_trail(&acme).unwrap();
    assert_eq!(entries[1].note.as_deref(), Some("sync"));
    assert_eq!((entries[0].at, entries[1].at), (now(), later));
}

#[test]
fn the_audit_trail_can_only_grow() {
    let (directory, store) = store();
    store.audit(&entry("scope add", "acme", now())).unwrap();
    let before = store.audit_trail(&everything()).unwrap();
    // Whoever opens the file.
    let other = Connection::open(directory.path().join("limiter.db")).unwrap();
    for sql in [
        "UPDATE audit SET who = 'nobody'",
        "UPDATE audit SET id = 7",
        "DELETE FROM audit",
        "DELETE FROM audit WHERE object = 'acme'",
        "INSERT OR REPLACE INTO audit SELECT id, at, 'nobody', action, object, detail, note FROM audit",
    ] {
        let error = other.execute(sql, []).unwrap_err();
        assert!(error.to_string().contains("append-only"), "{sql}: {error}");
    }
    assert_eq!(store.audit_trail(&everything()).unwrap(), before);
    store.audit(&entry("scope add", "beta", now())).unwrap();
    assert_eq!(store.audit_trail(&everything()).unwrap().len(), 2);
}

#[test]
fn a_store_of_the_first_schema_is_upgraded_with_all_that_is_in_it() {
    let directory = tempfile::tempdir().unwrap();
    let old = Connection::open(directory.path().join("limiter.db")).unwrap();
    old.execute_batch(schema::V1).unwrap();
    old.execute_batch(
        "INSERT INTO scopes VALUES (3, 'acme', 'master', 0);
         INSERT INTO audit VALUES (1, 0, 'uid 0', 'scope add', 'acme', 'tier master', NULL);
         INSERT INTO usage VALUES ('acme', 5, 9, 0, 0, 0, 0, 0, 0, 0, 0);
         PRAGMA user_version = 1;",
    )
    .unwrap();
    drop(old);
    for _ in 0..2 {
        let store = Store::open(directory.path()).unwrap();
        assert_eq!(store.scopes().unwrap()[0].id, 3);
        assert_eq!(store.audit_trail(&everything()).unwrap().len(), 1);
        assert_eq!(store.usage_of("acme", Day(5)).unwrap().unwrap().used, 9);
        let kept = store.connection.execute("DELETE FROM audit", []);
        assert!(kept.is_err());
    }
}

#[test]
fn days_beyond_those_that_are_kept_are_removed() {
    let (_directory, mut store) = store();
    let keep = |store: &mut Store, today: u32, keep: u32| -> Vec<u32> {
        store
            .lightly(|store| store.remove_usage_beyond(Day(today), keep))
            .unwrap();
        (0..30_000)
            .filter(|day| store.usage_of("acme", Day(*day)).unwrap().is_some())
            .collect()
    };
    let usage = DayUsage::default();
    for day in [89, 90, 95, 99, 100] {
        store.set_usage("acme", Day(day), &usage).unwrap();
    }
    assert_eq!(keep(&mut store, 100, 11), [89, 90, 95, 99, 100]);
    assert_eq!(keep(&mut store, 100, 10), [90, 95, 99, 100]);
    // The clock is set to another century, and traffic goes on.
    store.set_usage("acme", Day(20_000), &usage).unwrap();
    assert_eq!(keep(&mut store, 20_000, 10), [95, 99, 100, 20_000]);
    // A day of quiet in between is none of those on record.
    assert_eq!(keep(&mut store, 102, 2), [99, 100, 20_000]);
}
