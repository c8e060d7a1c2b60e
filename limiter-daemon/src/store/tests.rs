// SPDX-License-Identifier: MIT OR Apache-2.0

//! Tests of the store.

use chrono::{DateTime, Utc};
use limiter_common::day::Day;

use super::*;
use crate::domain::{
    bound::Bound,
    key_state::KeyState,
    limits::{Changes, LimitName, Override, Terms},
    refusals::Refusals,
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
        until: None,
    }
}

#[test]
fn scopes_keys_and_overrides_survive_a_restart() {
    let (directory, store) = store();
    store
        .add_scope(4, &name("acme/web"), "profile", now())
        .unwrap();
    store.add_key(&key("k_1", 4, [1, u64::MAX]), now()).unwrap();
    let changes = Changes {
        daily_quota: Some(Bound::Unlimited),
        rate: Some("5/s".parse().unwrap()),
        burst: Some(3),
        ..Changes::default()
    };
    let terms = |until, note: &str| Terms {
        until,
        note: note.to_owned(),
    };
    let first = Override::new(&changes, &terms(Some(now()), "sync"));
    store.set_override(4, &first, now()).unwrap();
    let mut limits_override = first.without(&[LimitName::Rate]);
    limits_override.set(LimitName::Burst, &changes, terms(None, "for good"));
    store.set_override(4, &limits_override, now()).unwrap();
    drop(store);
    let store = Store::open(directory.path()).unwrap();
    let scopes = store.scopes().unwrap();
    assert_eq!(scopes.len(), 1);
    assert_eq!(
        (scopes[0].id, scopes[0].limits_override.as_ref()),
        (4, Some(&limits_override))
    );
    let keys = store.keys(KeyFilter::Scope(4)).unwrap();
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
    let seen = CounterReading {
        day: Day(5),
        used: 9,
        admitted: 12,
        refused,
        would_refuse: refused,
    };
    store
        .change_without_sync(|store| {
            store.set_usage("acme", Day(5), &usage)?;
            store.set_seen(3, "map", &seen)
        })
        .unwrap();
    assert_eq!(store.seen("map").unwrap(), [(3, seen)]);
    assert!(store.seen("another map").unwrap().is_empty());
    store.change(|store| store.remove_scope(3, now())).unwrap();
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
fn a_part_of_the_audit_trail_begins_with_its_oldest_entry() {
    let (_directory, store) = store();
    let later = now() + chrono::TimeDelta::hours(1);
    store.audit(&entry("scope add", "acme", now())).unwrap();
    store.audit(&entry("scope add", "beta", later)).unwrap();
    let noted = AuditEntry {
        note: Some("sync"),
        ..entry("limits set", "acme", later)
    };
    store.audit(&noted).unwrap();
    let entries = |filter: AuditFilter| -> Vec<String> {
        let entries = store.audit_trail(&filter).unwrap();
        let words = |entry: AuditRecord| format!("{} {}", entry.action, entry.object);
        entries.into_iter().map(words).collect()
    };
    let all = ["scope add acme", "scope add beta", "limits set acme"];
    assert_eq!(entries(everything()), all);
    let last = AuditFilter {
        limit: 2,
        ..everything()
    };
    assert_eq!(entries(last), all[1..]);
    let since = AuditFilter {
        since: Some(later),
        ..everything()
    };
    assert_eq!(entries(since), all[1..]);
    let acme = AuditFilter {
        object: Some("acme".to_owned()),
        ..everything()
    };
    assert_eq!(entries(acme.clone()), [all[0], all[2]]);
    let entries = store.audit_trail(&acme).unwrap();
    assert_eq!(entries[1].note.as_deref(), Some("sync"));
    assert_eq!((entries[0].at, entries[1].at), (now(), later));
}

#[test]
fn the_audit_trail_can_only_grow() {
    let (directory, store) = store();
    store.audit(&entry("scope add", "acme", now())).unwrap();
    let before = store.audit_trail(&everything()).unwrap();
    // This connection stands for another program that opens the file.
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
fn a_store_of_the_first_schema_is_upgraded_without_a_loss() {
    let directory = tempfile::tempdir().unwrap();
    let old = Connection::open(directory.path().join("limiter.db")).unwrap();
    old.execute_batch(schema::V1).unwrap();
    old.execute_batch(
        r#"INSERT INTO scopes VALUES (3, 'acme', 'master', 0);
         INSERT INTO audit VALUES (1, 0, 'uid 0', 'scope add', 'acme', 'tier master', NULL);
         INSERT INTO usage VALUES ('acme', 5, 9, 0, 0, 0, 0, 0, 0, 0, 0);
         INSERT INTO overrides VALUES
             (3, '{"daily_quota":"unlimited","rate":"5/s","burst":3}', 90, 'it''s a sync', 7);
         PRAGMA user_version = 1;"#,
    )
    .unwrap();
    drop(old);
    let changes = Changes {
        daily_quota: Some(Bound::Unlimited),
        rate: Some("5/s".parse().unwrap()),
        burst: Some(3),
        ..Changes::default()
    };
    let terms = Terms {
        until: DateTime::from_timestamp_millis(90),
        note: "it's a sync".to_owned(),
    };
    let limits = Override::new(&changes, &terms);
    for _ in 0..2 {
        let store = Store::open(directory.path()).unwrap();
        let scope = &store.scopes().unwrap()[0];
        assert_eq!(scope.id, 3);
        assert_eq!(scope.limits_override.as_ref(), Some(&limits));
        assert_eq!(store.audit_trail(&everything()).unwrap().len(), 1);
        assert_eq!(store.usage_of("acme", Day(5)).unwrap().unwrap().used, 9);
        let kept = store.connection.execute("DELETE FROM audit", []);
        assert!(kept.is_err());
    }
}

#[test]
fn keys_of_a_removed_scope_stay_revoked() {
    let (directory, mut store) = store();
    store.add_scope(0, &name("acme"), "master", now()).unwrap();
    for (id, digest) in [("k_1", 1), ("k_2", 2), ("k_3", 3)] {
        store.add_key(&key(id, 0, [digest, 0]), now()).unwrap();
    }
    let set = |store: &Store, id, state, at| store.set_key_state(id, state, at);
    set(&store, "k_2", KeyState::Disabled, now()).unwrap();
    set(&store, "k_3", KeyState::Revoked, now()).unwrap();
    let later = now() + chrono::TimeDelta::hours(1);
    store.change(|store| store.remove_scope(0, later)).unwrap();
    // The keys must not belong to a new scope with the same name, even if it also has the same id.
    store.release(0).unwrap();
    store.add_scope(0, &name("acme"), "master", later).unwrap();
    assert_eq!(store.keys(KeyFilter::Scope(0)).unwrap(), []);
    assert_eq!(store.keys(KeyFilter::All).unwrap(), []);
    assert_eq!(
        (
            store.key_count().unwrap(),
            store.removed_key_count().unwrap()
        ),
        (3, 3)
    );
    let acme = name("acme");
    let kept = store.keys(KeyFilter::Removed(Some(&acme))).unwrap();
    let kept: Vec<_> = kept
        .iter()
        .map(|key| (key.id.as_str(), key.state, key.scope_id, key.revoked_at))
        .collect();
    let revoked = |id, at| (id, KeyState::Revoked, None, Some(at));
    assert_eq!(
        kept,
        [
            revoked("k_1", later),
            revoked("k_2", later),
            revoked("k_3", now())
        ]
    );
    let error = store.add_key(&key("k_4", 0, [2, 0]), later).unwrap_err();
    assert_eq!(
        error.to_string(),
        "this key was revoked at 2027-01-15T09:00:00Z, as k_2 of acme, a scope that has been removed: \
         a revoked key cannot be registered again, so give the customer another one"
    );
    // This connection stands for another program that opens the file.
    let other = Connection::open(directory.path().join("limiter.db")).unwrap();
    for sql in [
        "UPDATE keys SET state = 'active', scope = 0, removed_scope = NULL WHERE id = 'k_1'",
        "UPDATE keys SET digest = zeroblob(16) WHERE id = 'k_3'",
        "DELETE FROM keys",
    ] {
        let error = other.execute(sql, []).unwrap_err();
        assert!(
            error.to_string().contains("stays revoked"),
            "{sql}: {error}"
        );
    }
}

#[test]
fn a_store_of_the_third_schema_keeps_its_keys_and_the_times_of_revocation() {
    let directory = tempfile::tempdir().unwrap();
    let old = Connection::open(directory.path().join("limiter.db")).unwrap();
    schema::change(&old, 0, 3).unwrap();
    old.execute_batch(
        "INSERT INTO scopes (id, name, tier, created_at) VALUES (3, 'acme', 'master', 0);
         INSERT INTO keys (id, scope, digest, label, state, created_at, last_used_at) VALUES
            ('k_1', 3, zeroblob(16), 'l', 'active', 1, 2),
            ('k_2', 3, x'01000000000000000200000000000000', NULL, 'revoked', 3, NULL),
            ('k_3', 3, x'05000000000000000600000000000000', NULL, 'revoked', 4, NULL);
         INSERT INTO audit VALUES (1, 7000, 'uid 0', 'key revoke', 'k_2', 'of acme', NULL);",
    )
    .unwrap();
    drop(old);
    for _ in 0..2 {
        let store = Store::open(directory.path()).unwrap();
        let keys = store.keys(KeyFilter::Scope(3)).unwrap();
        let entries: Vec<_> = keys
            .iter()
            .map(|key| {
                (
                    key.id.as_str(),
                    key.state,
                    key.digest,
                    key.revoked_at.map(|at| at.timestamp()),
                )
            })
            .collect();
        assert_eq!(
            entries,
            [
                ("k_1", KeyState::Active, [0, 0], None),
                ("k_2", KeyState::Revoked, [1, 2], Some(7)),
                ("k_3", KeyState::Revoked, [5, 6], None),
            ]
        );
        assert_eq!(keys[0].label.as_deref(), Some("l"));
        assert_eq!(
            keys[0].last_used_at.map(|at| at.timestamp_millis()),
            Some(2)
        );
    }
}

#[test]
fn days_beyond_those_that_are_kept_are_removed() {
    let (_directory, mut store) = store();
    let keep = |store: &mut Store, today: u32, keep: u32| -> Vec<u32> {
        store
            .change_without_sync(|store| store.remove_usage_beyond(Day(today), keep))
            .unwrap();
        (0..30_000)
            .filter(|day| store.usage_of("acme", Day(*day)).unwrap().is_some())
            .collect()
    };
    let usage = DayUsage::default();
    for day in [89, 90, 95, 99, 100] {
        store.set_usage("acme", Day(day), &usage).unwrap();
    }
    for day in [89, 90, 99] {
        store.raise_fleet_usage("acme", Day(day), 5).unwrap();
    }
    assert_eq!(keep(&mut store, 100, 11), [89, 90, 95, 99, 100]);
    assert_eq!(keep(&mut store, 100, 10), [90, 95, 99, 100]);
    let of_fleet = |day| store.fleet_usage_of("acme", Day(day)).unwrap();
    assert_eq!([89, 90, 99].map(of_fleet), [None, Some(5), Some(5)]);
    // The clock has been set to another century while traffic continues. Recent days must be kept.
    store.set_usage("acme", Day(20_000), &usage).unwrap();
    assert_eq!(keep(&mut store, 20_000, 10), [95, 99, 100, 20_000]);
    // Day 101 had no usage, so the two days to keep are counted back from day 100.
    assert_eq!(keep(&mut store, 102, 2), [99, 100, 20_000]);
}
