// SPDX-License-Identifier: MIT OR Apache-2.0

//! Keys that are revoked by themselves, and notes about changes of keys.

use chrono::TimeDelta;
use limiter_common::abi::{KEY_DISABLED, KEY_END_SHIFT};
use serde_json::json;

use super::host::{Host, caller, name, noon};
use crate::{
    domain::key_state::KeyState,
    protocol::{
        error::{ApiError, Kind},
        requests::{CreateKey, RevokeKey},
        views::KeyView,
    },
    store::AuditFilter,
};

/// Creates a key with an end some seconds after noon, and returns its id.
fn create(host: &mut Host, seconds: Option<i64>) -> String {
    let mut request = json!({"scope": "acme", "note": "trial"});
    if let Some(seconds) = seconds {
        request["until"] = json!(noon() + TimeDelta::seconds(seconds));
    }
    let request: CreateKey = serde_json::from_value(request).unwrap();
    let made = host.engine().create_key(request, &caller(noon())).unwrap();
    made.id
}

fn revoke(host: &mut Host, id: &str, at: serde_json::Value) -> Result<KeyView, ApiError> {
    let request: RevokeKey = serde_json::from_value(json!({"at": at, "note": "rotated"})).unwrap();
    let by = caller(noon());
    let engine = host.engine();
    let change = engine.prepare_revoke_key(id, request, &by)?;
    engine.commit_key_change(change, &by)
}

fn key(host: &mut Host, id: &str) -> KeyView {
    let keys = host.engine().list_keys(Some(&name("acme"))).unwrap();
    keys.into_iter().find(|key| key.id == id).unwrap()
}

/// Returns the flags of the only key.
fn flags(host: &Host) -> u32 {
    let tables = host.plane.tables();
    let [entry] = tables.keys.values().collect::<Vec<_>>()[..] else {
        panic!("{} keys", tables.keys.len())
    };
    entry.flags
}

fn trail(host: &mut Host, id: &str) -> Vec<String> {
    let filter = AuditFilter {
        object: Some(id.to_owned()),
        since: None,
        limit: 100,
    };
    let entries = host.engine().store.audit_trail(&filter).unwrap();
    entries
        .into_iter()
        .map(|entry| {
            let note = entry.note.unwrap_or_default();
            format!("{} {}: {}: {note}", entry.who, entry.action, entry.detail)
        })
        .collect()
}

#[test]
fn a_key_is_revoked_at_its_end() {
    let mut host = Host::new("");
    host.add("acme");
    let id = create(&mut host, Some(90));
    let until = noon() + TimeDelta::seconds(90);
    assert_eq!(key(&mut host, &id).until, Some(until));
    // In the kernel, the key ends with the minute, in case that no daemon runs.
    let minute = u32::try_from((noon() + TimeDelta::minutes(2)).timestamp() / 60).unwrap();
    assert_eq!(flags(&host), minute << KEY_END_SHIFT);
    host.start(noon()).unwrap();
    assert_eq!(flags(&host), minute << KEY_END_SHIFT);
    host.engine().tick(until - TimeDelta::milliseconds(1));
    assert_eq!(key(&mut host, &id).state, KeyState::Active);
    for _ in 0..2 {
        host.engine().tick(until);
        let ended = key(&mut host, &id);
        assert_eq!(
            (ended.state, ended.revoked_at),
            (KeyState::Revoked, Some(until))
        );
        assert_eq!(flags(&host), KEY_DISABLED);
    }
    assert_eq!(
        trail(&mut host, &id),
        [
            "test key create: of acme, until 2026-11-24T12:01:30Z: trial",
            "limiter key revoke: of acme, was active: its end has passed"
        ]
    );
}

#[test]
fn the_end_of_a_key_can_be_set_moved_and_removed() {
    let mut host = Host::new("");
    host.add("acme");
    let id = create(&mut host, None);
    assert_eq!(flags(&host), 0);
    for at in ["2026-11-25T00:00:00Z", "2026-11-24T13:00:00Z"] {
        let view = revoke(&mut host, &id, json!(at)).unwrap();
        assert_eq!(
            (view.state, view.until),
            (KeyState::Active, at.parse().ok())
        );
        assert_ne!(flags(&host), 0);
    }
    let error = revoke(&mut host, &id, json!("2026-11-24T11:00:00Z")).unwrap_err();
    assert_eq!(error.kind, Kind::Invalid);
    let view = revoke(&mut host, &id, json!("never")).unwrap();
    assert_eq!((view.until, flags(&host)), (None, 0));
    host.engine().tick(noon() + TimeDelta::days(2));
    assert_eq!(key(&mut host, &id).state, KeyState::Active);
    revoke(&mut host, &id, json!("2026-11-24T13:00:00Z")).unwrap();
    let view = revoke(&mut host, &id, json!(null)).unwrap();
    assert_eq!(view.state, KeyState::Revoked);
    let error = revoke(&mut host, &id, json!("never")).unwrap_err();
    assert_eq!(error.kind, Kind::Conflict);
    assert_eq!(
        trail(&mut host, &id)[1..],
        [
            "test key revoke: of acme, at 2026-11-25T00:00:00Z: rotated",
            "test key revoke: of acme, at 2026-11-24T13:00:00Z: rotated",
            "test key revoke: of acme, end removed: rotated",
            "test key revoke: of acme, at 2026-11-24T13:00:00Z: rotated",
            "test key revoke: of acme, was active: rotated",
        ]
    );
}

#[test]
fn a_disabled_key_ends_too() {
    let mut host = Host::new("");
    host.add("acme");
    let id = create(&mut host, Some(60));
    let by = caller(noon());
    host.engine()
        .set_key_state(&id, KeyState::Disabled, &by)
        .unwrap();
    assert_eq!(flags(&host), KEY_DISABLED);
    host.start(noon() + TimeDelta::hours(1)).unwrap();
    host.engine().tick(noon() + TimeDelta::hours(1));
    let error = host.engine().set_key_state(&id, KeyState::Active, &by);
    assert!(error.unwrap_err().message.contains("was revoked"));
}
