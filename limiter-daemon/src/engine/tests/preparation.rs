// SPDX-License-Identifier: MIT OR Apache-2.0

//! Tests of the two steps of commands that change scopes and keys, with other commands between the
//! steps.

use std::collections::BTreeMap;

use limiter_common::abi::{KEY_DISABLED, KeyEntry, Limits};

use super::host::{Host, caller, clear, name, noon};
use crate::{
    domain::{bound::Bound, key_state::KeyState, limits::Changes},
    protocol::{
        error::Kind,
        requests::{AddScope, CreateKey, ImportKey, ScopeMode, SetLimits, SetMode},
        views::{AuditView, KeyView, ScopeView},
    },
    store::{AuditFilter, KeyFilter, KeyRecord, ScopeRecord},
};

fn scope(scope: &str) -> AddScope {
    AddScope {
        scope: name(scope),
        tier: None,
    }
}

fn key(scope: &str) -> CreateKey {
    CreateKey {
        scope: name(scope),
        label: Some("ci".to_owned()),
        until: None,
        note: None,
    }
}

fn own_key(scope: &str, key: &str) -> ImportKey {
    ImportKey {
        scope: name(scope),
        label: None,
        key: key.to_owned(),
        note: None,
    }
}

fn quota(daily_quota: u64) -> SetLimits {
    SetLimits {
        limits: Changes {
            daily_quota: Some(Bound::At(daily_quota)),
            ..Changes::default()
        },
        until: None,
        note: "why".to_owned(),
    }
}

/// Returns the daily quota of the scope's own.
fn limits_quota(record: &ScopeRecord) -> Option<Bound<u64>> {
    record.limits_override.as_ref()?.changes().daily_quota
}

fn observe() -> SetMode {
    SetMode {
        mode: ScopeMode::Observe,
        note: "trial".to_owned(),
    }
}

/// Everything that a command can change.
#[derive(Debug, PartialEq)]
struct State {
    stored: (Vec<ScopeRecord>, Vec<KeyRecord>, Vec<KeyRecord>, Vec<u32>),
    audit: Vec<AuditView>,
    scopes: Vec<ScopeView>,
    keys: Vec<KeyView>,
    events: Vec<(Option<String>, Option<String>)>,
    limits: BTreeMap<u32, Limits>,
    published: usize,
    entries: Vec<KeyEntry>,
    key_writes: usize,
    texts: usize,
}

fn state(host: &mut Host) -> State {
    let engine = host.engine();
    let all = AuditFilter {
        object: None,
        since: None,
        limit: 1000,
    };
    let keys = |which| engine.store.keys(which).unwrap();
    let events = engine.events.recent(usize::MAX, 0);
    let stored = (
        engine.store.scopes().unwrap(),
        keys(KeyFilter::All),
        keys(KeyFilter::Removed(None)),
        engine.store.retired().unwrap(),
    );
    let (scopes, views) = (engine.list_scopes(), engine.list_keys(None).unwrap());
    let audit = engine.audit_trail(&all).unwrap();
    let tables = host.plane.tables();
    let mut entries: Vec<KeyEntry> = tables.keys.values().copied().collect();
    entries.sort_by_key(|entry| (entry.scope, entry.flags));
    State {
        stored,
        audit,
        scopes,
        keys: views,
        events: events
            .iter()
            .map(|event| (event.action.clone(), event.message.clone()))
            .collect(),
        limits: tables.limits.clone(),
        published: tables.published.len(),
        entries,
        key_writes: tables.key_writes,
        texts: tables.texts.len(),
    }
}

impl State {
    /// Returns the state with the same ids and digests for all keys, which differ between hosts.
    fn with_equal_keys(mut self) -> Self {
        let (_, keys, removed, _) = &mut self.stored;
        let mut ids = Vec::new();
        for key in keys.iter_mut().chain(removed) {
            ids.push(std::mem::take(&mut key.id));
            key.digest = [0; 2];
        }
        let equal = |text: &mut String| {
            for id in &ids {
                *text = text.replace(id, "k");
            }
        };
        self.keys.iter_mut().for_each(|key| equal(&mut key.id));
        self.audit
            .iter_mut()
            .for_each(|entry| equal(&mut entry.object));
        let messages = self.events.iter_mut();
        messages
            .filter_map(|(_, message)| message.as_mut())
            .for_each(equal);
        self
    }
}

#[test]
fn a_preparation_changes_nothing() {
    let mut host = Host::new("");
    host.add("acme");
    let by = caller(noon());
    let acme = name("acme");
    let made = host.engine().create_key(key("acme"), &by).unwrap();
    host.engine().set_limits(&acme, quota(5), &by).unwrap();
    let before = state(&mut host);
    host.engine().store.refuse_changes();
    let engine = &*host.engine();

    let addition = engine.prepare_add_scope(scope("beta"), &by).unwrap();
    assert_eq!(addition.record.name, name("beta"));
    let change = engine.prepare_set_limits(&acme, quota(6), &by).unwrap();
    assert_eq!(limits_quota(&change.record), Some(Bound::At(6)));
    let removal = engine.prepare_clear_limits(&acme, &clear("done")).unwrap();
    assert_eq!(removal.record.limits_override, None);
    let change = engine.prepare_set_mode(&acme, &observe()).unwrap();
    assert_eq!(
        change.record.mode.map(|mode| mode.as_str()),
        Some("observe")
    );
    let creation = engine.prepare_create_key(key("acme"), &by).unwrap();
    assert_eq!(creation.record.scope_id, Some(removal.record.id));
    let import = engine.prepare_import_key(own_key("acme", "a-key"), &by);
    assert_eq!(import.unwrap().record.state, KeyState::Active);
    let change = engine.prepare_set_key_state(&made.id, (KeyState::Revoked, None), &by);
    assert_eq!(change.unwrap().record.revoked_at, Some(noon()));
    let removal = engine.prepare_remove_scope(&acme, true).unwrap();
    assert_eq!(removal.keys[0].id, made.id);

    assert_eq!(state(&mut host), before);
}

#[test]
fn a_preparation_and_its_commitment_are_the_command() {
    let by = caller(noon());
    let (acme, beta) = (name("acme"), name("beta"));
    let mut at_once = Host::new("");
    let engine = at_once.engine();
    engine.add_scope(scope("acme"), &by).unwrap();
    let whole = (
        engine.add_scope(scope("beta"), &by).unwrap(),
        engine.set_limits(&acme, quota(5), &by).unwrap(),
        engine.set_limits(&beta, quota(5), &by).unwrap(),
        engine.clear_limits(&beta, &clear("done"), &by).unwrap(),
        engine.set_mode(&acme, &observe(), &by).unwrap(),
    );
    let made = engine.create_key(key("acme"), &by).unwrap();
    engine.import_key(own_key("beta", "a-key"), &by).unwrap();
    engine
        .set_key_state(&made.id, KeyState::Disabled, &by)
        .unwrap();
    let removed = engine.remove_scope(&beta, true, &by).unwrap();

    let mut in_steps = Host::new("");
    let engine = in_steps.engine();
    let addition = engine.prepare_add_scope(scope("acme"), &by).unwrap();
    engine.commit_add_scope(addition, &by).unwrap();
    let addition = engine.prepare_add_scope(scope("beta"), &by).unwrap();
    let added = engine.commit_add_scope(addition, &by).unwrap();
    let [set, set_too] = [&acme, &beta].map(|scope| {
        let change = engine.prepare_set_limits(scope, quota(5), &by).unwrap();
        engine.commit_limits(change, &by).unwrap()
    });
    let removal = engine.prepare_clear_limits(&beta, &clear("done")).unwrap();
    let cleared = engine.commit_limits(removal, &by).unwrap();
    let change = engine.prepare_set_mode(&acme, &observe()).unwrap();
    let observed = engine.commit_set_mode(change, &by).unwrap();
    assert_eq!((added, set, set_too, cleared, observed), whole);
    let creation = engine.prepare_create_key(key("acme"), &by).unwrap();
    let made = engine.commit_create_key(creation, &by).unwrap();
    let import = engine
        .prepare_import_key(own_key("beta", "a-key"), &by)
        .unwrap();
    engine.commit_import_key(import, &by).unwrap();
    let change = engine
        .prepare_set_key_state(&made.id, (KeyState::Disabled, None), &by)
        .unwrap();
    engine.commit_set_key_state(change, &by).unwrap();
    let removal = engine.prepare_remove_scope(&beta, true).unwrap();
    assert_eq!(engine.commit_remove_scope(removal, &by).unwrap(), removed);

    assert_eq!(
        state(&mut in_steps).with_equal_keys(),
        state(&mut at_once).with_equal_keys()
    );
}

#[test]
fn a_prepared_scope_gets_an_id_that_is_still_free() {
    let mut host = Host::new("");
    let by = caller(noon());
    let first = host.engine().prepare_add_scope(scope("a"), &by).unwrap();
    let same = first.clone();
    let other = host.add("b");
    assert_eq!(first.record.id, other);
    host.engine().commit_add_scope(first, &by).unwrap();
    let id = host.engine().scopes.find(&name("a")).unwrap().record.id;
    assert_ne!(id, other);
    let error = host.engine().commit_add_scope(same, &by).unwrap_err();
    assert_eq!(error.kind, Kind::Conflict);
}

#[test]
fn a_removal_revokes_keys_that_came_after_its_preparation() {
    let mut host = Host::new("");
    host.add("acme");
    let by = caller(noon());
    let acme = name("acme");
    let removal = host.engine().prepare_remove_scope(&acme, false).unwrap();
    let again = removal.clone();
    host.engine().create_key(key("acme"), &by).unwrap();
    host.engine().commit_remove_scope(removal, &by).unwrap();
    let flags: Vec<u32> = host
        .plane
        .tables()
        .keys
        .values()
        .map(|entry| entry.flags)
        .collect();
    assert_eq!(flags, [KEY_DISABLED]);
    // A later scope with the same name stays.
    let error = host.engine().commit_remove_scope(again.clone(), &by);
    assert_eq!(error.unwrap_err().kind, Kind::NotFound);
    host.add("acme");
    let error = host.engine().commit_remove_scope(again, &by);
    assert_eq!(error.unwrap_err().kind, Kind::Conflict);
    assert!(host.engine().show_scope(&acme).is_ok());
}

#[test]
fn a_commitment_without_its_scope_changes_nothing() {
    let mut host = Host::new("");
    host.add("acme");
    let by = caller(noon());
    let acme = name("acme");
    let engine = host.engine();
    engine.set_limits(&acme, quota(5), &by).unwrap();
    let made = engine.create_key(key("acme"), &by).unwrap();
    let limits = engine.prepare_set_limits(&acme, quota(6), &by).unwrap();
    let no_limits = engine.prepare_clear_limits(&acme, &clear("done")).unwrap();
    let mode = engine.prepare_set_mode(&acme, &observe()).unwrap();
    let creation = engine.prepare_create_key(key("acme"), &by).unwrap();
    let import = engine.prepare_import_key(own_key("acme", "a-key"), &by);
    let active = engine.prepare_set_key_state(&made.id, (KeyState::Active, None), &by);
    engine.remove_scope(&acme, true, &by).unwrap();

    let before = state(&mut host);
    let engine = host.engine();
    let errors = [
        engine.commit_limits(limits, &by).err(),
        engine.commit_limits(no_limits, &by).err(),
        engine.commit_set_mode(mode, &by).err(),
        engine.commit_create_key(creation, &by).err(),
        engine.commit_import_key(import.unwrap(), &by).err(),
    ];
    let kinds = errors.map(|error| error.map(|error| error.kind));
    assert_eq!(kinds, [Some(Kind::NotFound); 5]);
    // The key was revoked with its scope, and cannot become active again.
    let error = engine.commit_set_key_state(active.unwrap(), &by);
    assert_eq!(error.unwrap_err().kind, Kind::Conflict);
    assert_eq!(state(&mut host), before);
}
