// SPDX-License-Identifier: MIT OR Apache-2.0

//! Tests of created, imported and disabled keys in the store and the kernel.

use limiter_common::abi::{KEY_ADOPTED, KEY_DISABLED, KeyEntry, LIMITS_IN_USE, NO_SCOPE};

use super::{
    host::{Host, at, caller, name, noon},
    plane::MemoryPlane,
};
use crate::{
    domain::key_state::KeyState,
    kernel::Plane as _,
    protocol::{
        error::{ApiError, Kind},
        requests::{CreateKey, ImportKey},
    },
};

#[test]
fn an_unknown_key_id_is_answered_with_the_nearest_id_or_recognized_as_a_scope() {
    let mut host = Host::new("");
    host.add("acme/web");
    let request = CreateKey {
        scope: name("acme/web"),
        label: None,
        until: None,
        note: None,
    };
    let id = host
        .engine()
        .create_key(request, &caller(noon()))
        .unwrap()
        .id;
    let (begin, last) = id.split_at(id.len() - 1);
    let wrong = format!("{begin}{}", if last == "1" { "2" } else { "1" });
    for (typed, wanted) in [
        (wrong.as_str(), format!("did you mean `{id}`?")),
        ("acme/web", "`limiter key list acme/web`".to_owned()),
        (
            "nothing-like-it",
            "no key `nothing-like-it`: `limiter key list`".to_owned(),
        ),
    ] {
        let engine = host.engine();
        let error = engine
            .set_key_state(typed, KeyState::Disabled, &caller(noon()))
            .unwrap_err();
        assert_eq!(error.kind, Kind::NotFound);
        assert!(error.message.contains(&wanted), "{}", error.message);
    }
}

#[test]
fn keys_are_known_to_the_kernel_by_digest_and_state() {
    let mut host = Host::new("");
    let id = host.add("acme");
    let request = CreateKey {
        scope: name("acme"),
        label: Some("ci".to_owned()),
        until: None,
        note: None,
    };
    let made = host.engine().create_key(request, &caller(noon())).unwrap();
    let entry = |host: &Host| *host.plane.tables().keys.values().next().unwrap();
    assert_eq!(
        entry(&host),
        KeyEntry {
            scope: id,
            flags: 0,
            last_used_ns: 0
        }
    );
    host.plane
        .tables()
        .keys
        .values_mut()
        .for_each(|entry| entry.last_used_ns = 5_000_000_000);
    let key = made.id.as_str();
    let view = host
        .engine()
        .set_key_state(key, KeyState::Disabled, &caller(noon()))
        .unwrap();
    assert_eq!(view.last_used_at, Some(at("1970-01-01T00:00:05Z")));
    assert_eq!(
        entry(&host),
        KeyEntry {
            scope: id,
            flags: KEY_DISABLED,
            last_used_ns: 5_000_000_000
        }
    );
    host.engine()
        .set_key_state(key, KeyState::Active, &caller(noon()))
        .unwrap();
    assert_eq!(entry(&host).flags, 0);
    host.engine()
        .set_key_state(key, KeyState::Revoked, &caller(noon()))
        .unwrap();
    let error = host
        .engine()
        .set_key_state(key, KeyState::Active, &caller(noon()))
        .unwrap_err();
    assert_eq!(error.kind, Kind::Conflict);
    assert_eq!(entry(&host).flags, KEY_DISABLED);
    let error = host
        .engine()
        .set_key_state("k_none", KeyState::Active, &caller(noon()))
        .unwrap_err();
    assert_eq!(error.kind, Kind::NotFound);
}

#[test]
fn an_imported_key_belongs_to_one_scope() {
    let mut host = Host::new("");
    host.add("acme");
    host.add("beta");
    let import = |scope: &str, key: &str| ImportKey {
        scope: name(scope),
        label: None,
        key: key.to_owned(),
        note: None,
    };
    host.engine()
        .import_key(import("acme", "secret-1"), &caller(noon()))
        .unwrap();
    let error = host
        .engine()
        .import_key(import("beta", "secret-1"), &caller(noon()))
        .unwrap_err();
    assert_eq!(error.kind, Kind::Conflict);
    assert!(!error.message.contains("secret-1"), "{}", error.message);
    let error = host
        .engine()
        .import_key(import("beta", "two words"), &caller(noon()))
        .unwrap_err();
    assert_eq!(error.kind, Kind::InvalidKey);
}

#[test]
fn an_import_is_all_or_nothing() {
    let mut host = Host::new("");
    host.add("acme");
    let good =
        "scope,key,label,tier\nacme,k1,,\nnew/one,k2,mobile,master\nnew/one,k3,,\nnew,k4,,\n";
    let done = host.import(good).unwrap();
    assert_eq!((done.keys, done.scopes), (4, 2));
    assert_eq!(host.plane.tables().keys.len(), 4);
    assert_eq!(
        host.engine()
            .show_scope(&name("new/one"))
            .unwrap()
            .scope
            .tier,
        "master"
    );
    for (bad, wanted) in [
        (
            "scope,key\nmore,k5\nmore,k1\n",
            "line 3: this key is registered already",
        ),
        (
            "scope,key,tier\nmore,k5,gold\n",
            "line 2: there is no tier `gold`",
        ),
        (
            "scope,key,tier\nacme,k5,profile\n",
            "line 2: the scope acme has tier master, not profile",
        ),
    ] {
        let error = host.import(bad).unwrap_err();
        assert!(error.message.contains(wanted), "{}", error.message);
        assert!(host.engine().show_scope(&name("more")).is_err());
        assert_eq!(host.plane.tables().keys.len(), 4);
    }
}

#[test]
fn keys_that_the_store_does_not_have_leave_the_kernel() {
    let mut host = Host::new("");
    let entry = KeyEntry {
        scope: 9,
        flags: 0,
        last_used_ns: 0,
    };
    host.plane.tables().keys.insert([1, 1], entry);
    let adopted = KeyEntry {
        flags: KEY_ADOPTED,
        ..entry
    };
    host.plane.tables().keys.insert([2, 2], adopted);
    host.start(noon()).unwrap();
    assert!(host.plane.tables().keys.is_empty());
    host.configure("[policy]\nunknown_key = \"tier:profile\"\n");
    host.plane.tables().keys.insert([2, 2], adopted);
    host.start(noon()).unwrap();
    assert_eq!(host.plane.tables().keys.len(), 1);
    let config = host.plane.tables().config.unwrap();
    assert_eq!(config.adopt_limits.daily_quota, 1000);
}

#[test]
fn an_empty_label_is_no_label_and_a_long_one_is_refused() {
    let mut host = Host::new("");
    host.add("acme");
    let mut create = |label: String| {
        let request = CreateKey {
            scope: name("acme"),
            label: Some(label),
            until: None,
            note: None,
        };
        host.engine().create_key(request, &caller(noon()))
    };
    assert_eq!(create(String::new()).map(|key| key.label), Ok(None));
    let kind = create("x".repeat(300))
        .map(|_| ())
        .map_err(|error| error.kind);
    assert_eq!(kind, Err(Kind::Invalid));
}

/// Imports one key, and returns its id.
fn import(host: &mut Host, scope: &str, key: &str) -> Result<String, ApiError> {
    let request = ImportKey {
        scope: name(scope),
        label: None,
        key: key.to_owned(),
        note: None,
    };
    let imported = host.engine().import_key(request, &caller(noon()))?;
    Ok(imported.id)
}

#[test]
fn a_key_that_was_revoked_with_its_scope_is_refused_permanently() {
    let mut host = Host::new("");
    host.add("acme/web");
    host.add("beta");
    let revoked = import(&mut host, "acme/web", "revoked-key").unwrap();
    let disabled = import(&mut host, "acme/web", "disabled-key").unwrap();
    import(&mut host, "acme/web", "active-key").unwrap();
    let set =
        |host: &mut Host, id: &str, state| host.engine().set_key_state(id, state, &caller(noon()));
    set(&mut host, &revoked, KeyState::Revoked).unwrap();
    set(&mut host, &disabled, KeyState::Disabled).unwrap();
    host.engine()
        .remove_scope(&name("acme/web"), true, &caller(noon()))
        .unwrap();
    host.add("acme/web");
    let gone = KeyEntry {
        scope: NO_SCOPE,
        flags: KEY_DISABLED,
        last_used_ns: 0,
    };
    for (again, maps) in [(false, "boot:one"), (true, "boot:one"), (true, "boot:two")] {
        if again {
            // The daemon starts first with the same maps and then with new ones.
            if host.plane.identity() != maps {
                host.plane = MemoryPlane::new(maps);
            }
            host.start(noon()).unwrap();
        }
        let entries: Vec<KeyEntry> = host.plane.tables().keys.values().copied().collect();
        assert_eq!(entries, [gone; 3], "{again} {maps}");
        for key in ["revoked-key", "disabled-key", "active-key"] {
            for scope in ["acme/web", "beta"] {
                let alone = import(&mut host, scope, key).unwrap_err();
                let listed = host
                    .import(&format!("scope,key\nnew,n\n{scope},{key}\n"))
                    .unwrap_err();
                for (error, begin) in [
                    (alone, "this key was revoked"),
                    (listed, "line 3: this key was revoked"),
                ] {
                    assert_eq!(error.kind, Kind::Conflict);
                    assert!(error.message.starts_with(begin), "{}", error.message);
                    for word in [
                        "2026-11-24T12:00:00Z",
                        "of acme/web, a scope that has been removed",
                    ] {
                        assert!(error.message.contains(word), "{}", error.message);
                    }
                }
            }
        }
        for id in [&revoked, &disabled] {
            for state in [KeyState::Active, KeyState::Disabled] {
                assert_eq!(set(&mut host, id, state).unwrap_err().kind, Kind::Conflict);
            }
            assert!(set(&mut host, id, KeyState::Revoked).is_ok());
        }
        let listed = host
            .engine()
            .list_removed_keys(Some(&name("acme/web")))
            .unwrap();
        assert_eq!(listed.len(), 3);
        assert!(
            listed
                .iter()
                .all(|key| key.scope_removed && key.state == KeyState::Revoked)
        );
        assert_eq!(
            host.engine()
                .list_removed_keys(Some(&name("beta")))
                .unwrap(),
            []
        );
        assert_eq!(host.engine().list_keys(None).unwrap(), []);
    }
}

#[test]
fn a_scope_that_the_store_does_not_remove_keeps_its_keys() {
    let mut host = Host::new("");
    host.add("acme");
    import(&mut host, "acme", "a-key").unwrap();
    let before = host.plane.tables().keys.clone();
    host.engine().store.refuse_changes();
    host.engine()
        .remove_scope(&name("acme"), true, &caller(noon()))
        .unwrap_err();
    assert_eq!(host.plane.tables().keys, before);
    assert!(
        host.plane
            .tables()
            .limits
            .values()
            .any(|limits| limits.flags & LIMITS_IN_USE != 0)
    );
}

#[test]
fn the_error_of_a_full_key_table_names_its_revoked_keys() {
    let mut host = Host::new("[tables]\nkeys = 64\n");
    host.add("acme");
    import(&mut host, "acme", "first-key").unwrap();
    host.engine()
        .remove_scope(&name("acme"), true, &caller(noon()))
        .unwrap();
    let more = (1..64).fold("scope,key\n".to_owned(), |text, key| {
        text + &format!("beta,key-{key}\n")
    });
    let too_many = host.import(&format!("{more}beta,one-more\n")).unwrap_err();
    host.import(&more).unwrap();
    let one_more = import(&mut host, "beta", "one-more").unwrap_err();
    for error in [too_many, one_more] {
        for word in [
            "tables.keys",
            "1 of them are revoked keys of removed scopes",
        ] {
            assert!(error.message.contains(word), "{}", error.message);
        }
    }
}
